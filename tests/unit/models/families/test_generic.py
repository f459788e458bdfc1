"""The family for models that have none, against families that know theirs."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families import FAMILIES, family_class
from lalm_mer.models.families.base import LanguageInputs
from lalm_mer.models.families.generic import Generic
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.language.collator import PromptCollator
from lalm_mer.recognizers.language.generation import generate
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

PROMPTS = Path(__file__).resolve().parents[4] / "prompts"
LABELS = LabelSet(("happy", "angry", "calm"), {"happy": ("happy", "full of joy"), "angry": ("angry", "annoyed")})
AS_THEIR_OWN = ("qwen2_audio", "audioflamingo3", "musicflamingo", "glmasr")


def opened(family, folder, **settings):
    family = family_class(family).load(
        folder, **{"revision": None, "dtype": "float32", "attn_implementation": "sdpa"} | settings
    )
    family.model.eval()
    return family


@pytest.fixture(params=AS_THEIR_OWN)
def both(request, tiny_folder):
    folder = tiny_folder(request.param)
    return opened("generic", folder), opened(request.param, folder)


@pytest.fixture
def generic(tiny_folder):
    return opened("generic", tiny_folder("qwen2_audio"))


def example(seconds, seed=0):
    noise = np.random.default_rng(seed).normal(scale=0.1, size=round(16000 * seconds)).astype(np.float32)
    return Example(Input(f"u{seed}", "I never said that.", Waveform(noise, 16000), "s"), "angry")


def results(family, example, *, every_answer, prompt="audio_transcript", model=None):
    """What a recognizer makes of an example: to be scored, with every answer and its truth, or to learn from."""
    setup = PromptSetup((load_prompt(PROMPTS / f"{prompt}.yaml"),), LABELS, (LABELS.labels,))
    recognizer = LanguageRecognizer(family, setup, model)
    batch = recognizer.training_collator([example])
    if every_answer:
        batch = recognizer.scoring_collators[0]([example.input]) | {"truth": batch["truth"]}
    batch.pop("labels", None)
    return recognizer(**batch)


def test_generic_scores_equal_those_of_the_family(both):
    generic, own = both
    assert (generic.stop_token, generic.audio_token) == (own.stop_token, own.audio_token)
    with torch.no_grad():
        for seconds, prompt in ((1.0, "audio_transcript"), (0.37, "audio"), (1.99, "transcript")):
            for every_answer in (True, False):
                ours, theirs = (
                    results(family, example(seconds), every_answer=every_answer, prompt=prompt)
                    for family in (generic, own)
                )
                for key in ours:
                    assert_close(ours[key], theirs[key])


def test_generic_answers_equal_those_of_the_family(both):
    """Each token by a full pass, for it keeps no keys and values."""
    prompt, given = load_prompt(PROMPTS / "audio_transcript.yaml"), [example(1.0).input]
    first, second = (
        generate(family, **PromptCollator(family, prompt, LABELS)(given), max_new_tokens=6) for family in both
    )
    assert first == second
    assert first[0]


def test_generic_refuses_a_cache(generic):
    inputs = LanguageInputs(*torch.ones((3, 1, 2), dtype=torch.long))
    with pytest.raises(ModelError, match="generic keeps no keys and values: it computes logits from audio in one call"):
        generic.hidden_states(inputs, None, KeysValues())


def test_generic_scores_depend_on_the_audio(generic):
    with torch.no_grad():
        one, other = (results(generic, example(1.0, seed), every_answer=True)["log_probs"] for seed in (0, 1))
    assert (one - other).abs().max() > 1e-4


def test_a_tower_that_is_found_can_be_trained(both):
    generic, own = both
    assert generic.towers == own.towers
    targets = {"language_model": ["q_proj"], "audio_tower": ["all-linear"]}
    model, _ = add_adapter(generic, targets, {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    results(generic, example(1.0), every_answer=False, model=model)["losses"].sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)


def test_generic_takes_one_utterance_at_a_time(generic):
    waveform = example(0.5).input.waveform
    with pytest.raises(ModelError, match="generic takes one utterance at a time, found 2"):
        generic.audio_inputs([waveform, waveform])
    with pytest.raises(AudioError, match="takes audio at 16000 Hz, found 8000 Hz"):
        generic.audio_inputs([Waveform(waveform.samples, 8000)])


def test_generic_is_not_listed_among_the_families(tmp_path, tiny_folder):
    assert "generic" not in FAMILIES
    with pytest.raises(ConfigError, match="generic has no architecture of its own"):
        Generic.build_tiny(tmp_path, None)
    with pytest.raises(ConfigError, match=r"argument 'quantization': generic only takes null"):
        opened("generic", tiny_folder("qwen2_audio"), quantization="nf4")


@pytest.fixture
def changed(tiny_folder, tmp_path):
    """A copy of a tiny model, with something replaced in one of its files."""

    def change(file, old, new, family="qwen2_audio"):
        for path in tiny_folder(family).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        content = (tmp_path / file).read_text("utf-8")
        assert old in content
        (tmp_path / file).write_text(content.replace(old, new), "utf-8")
        return tmp_path

    return change


def test_a_config_without_a_placeholder_is_an_error(generic):
    class Bare(torch.nn.Module):
        config = object()

    with pytest.raises(ModelError, match="generic: the config of Bare has no audio_token_id"):
        Generic(Bare(), generic.processor)


def test_a_class_that_transformers_does_not_have_is_named(changed):
    folder = changed("config.json", '"Qwen2AudioForConditionalGeneration"', '"Qwen9AudioModel"')
    with pytest.raises(
        ModelError, match=r"its class is 'Qwen9AudioModel', a model that transformers .* does not have"
    ) as caught:
        opened("generic", folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m['content'] + 'x' }}{% endfor %}", "cannot be used like others"),
        (
            "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}.{% endfor %}",
            "ends the assistant's turn with",
        ),
        ("{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}<|im_end|>{% endfor %}", None),
    ],
)
def test_an_unsupported_template_is_an_error_in_one_line(changed, template, expected):
    folder = changed("config.json", "{", "{")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    with pytest.raises(ModelError, match=re.escape(expected) if expected else None) as caught:
        opened("generic", folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_is_an_error_in_one_line(tiny_folder):
    with pytest.raises(ModelError, match="without feature_extractor; a processor that also takes images") as caught:
        opened("generic", tiny_folder("qwen2_5_omni"))
    assert "\n" not in str(caught.value)
