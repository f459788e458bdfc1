"""QLoRA of a dual encoder on a CPU: only its text tower in 4 bits, and gradients that an evaluation does not change."""

from functools import partial

import numpy as np
import pytest
import torch
from closeness import assert_close
from representatives import slow_except

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AdapterError, ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter
from lalm_mer.models.clap import Clap
from lalm_mer.models.composed_clap import ComposedClap
from lalm_mer.models.quantization import require_quantised
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapRecognizer, ClapSetup

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")

LABELS = LabelSet(("happy", "angry", "sad"))
SETUP = ClapSetup(Ensemble("two", ("The speaker sounds {{ label }}.", "{{ label }} speech"), {}, "digest"), LABELS)
TOWERS = tuple(Clap.towers)
MODELS = {each.name: each for each in (Clap, ComposedClap)}


@pytest.fixture(params=list(MODELS))
def load(request, tiny_folder):
    """A maker of freshly loaded models."""
    return partial(MODELS[request.param].load, tiny_folder(request.param))


@pytest.fixture
def quantised(load):
    """A maker of freshly loaded models whose text tower is in 4 bits."""
    return partial(load, quantization="nf4")


@pytest.fixture
def examples(load):
    draw, rate = np.random.default_rng(0), load().sampling_rate
    waveforms = [Waveform(draw.normal(scale=0.1, size=rate * n).astype(np.float32), rate) for n in (1, 2, 1)]
    return [Example(Input(f"u{n}", None, waveforms[n], "s"), LABELS.labels[n]) for n in range(3)]


def score(recognizer, examples):
    recognizer.eval()
    with torch.no_grad():
        batch = recognizer.scoring_collators[0]([example.input for example in examples])
        return recognizer(**batch)["log_probs"]


def test_only_the_text_tower_is_in_4_bits(quantised):
    clap = quantised()
    found = {
        tower: {type(each).__name__ for each in clap.submodule(tower).modules() if isinstance(each, torch.nn.Linear)}
        for tower in clap.towers
    }
    assert found == {
        "text_tower": {"Linear4bit"}, "audio_tower": {"Linear"}, "audio_projector": {"Linear"},
        "text_projector": {"Linear"},
    }  # fmt: skip
    four_bit = [name for name, each in clap.model.named_modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert all(name.startswith(f"{clap.towers['text_tower']}.") for name in four_bit)


def gradients(clap, towers, examples, objective, *, evaluates):
    """Of every adapter in two training steps, with an evaluation between them if ``evaluates``."""
    model, _ = add_adapter(
        clap, {tower: [ALL_LINEAR] for tower in towers}, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    recognizer = ClapRecognizer(clap, SETUP, model, objective=objective)
    batch = recognizer.training_collator(examples)
    batch.pop("labels")
    steps = []
    for step in range(2):
        recognizer.train()
        recognizer.zero_grad()
        torch.manual_seed(step)  # the contrastive loss draws descriptions
        recognizer(**batch)["losses"].sum().backward()
        steps.append({name: each.grad.clone() for name, each in recognizer.named_parameters() if each.requires_grad})
        if evaluates and step == 0:
            score(recognizer, examples)
    return steps


@pytest.mark.parametrize("objective", slow_except(["cross_entropy", "contrastive"], ["contrastive"]))
@pytest.mark.parametrize(
    "towers", [TOWERS, tuple(Clap.adapter_targets), ("text_tower",)], ids=["all", "default", "text"]
)
def test_gradients_reach_every_adapter_before_and_after_an_evaluation(quantised, examples, towers, objective):
    with_evaluation = gradients(quantised(), towers, examples, objective, evaluates=True)
    without = gradients(quantised(), towers, examples, objective, evaluates=False)
    for one, other in zip(with_evaluation, without, strict=True):
        assert one.keys() == other.keys()
        assert one
        for name, gradient in one.items():
            if ".key." not in name:  # a constant in all keys leaves attention as it is
                assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(gradient, other[name], rtol=0.0, atol=0.0)


def test_quantised_scores_are_near_those_of_the_full_model(load, quantised, examples):
    full = score(ClapRecognizer(load(), SETUP), examples)
    four_bit = score(ClapRecognizer(quantised(), SETUP), examples)
    assert torch.isfinite(four_bit).all()
    assert 1e-6 < (full - four_bit).abs().max() < 2.0


def test_an_adapter_trained_on_a_quantised_model_is_loaded_onto_one(quantised, examples, tmp_path):
    clap = quantised()
    model, _ = add_adapter(clap, clap.adapter_targets, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    recognizer = ClapRecognizer(clap, SETUP, model)
    expected = score(recognizer, examples)
    recognizer.save_trained(tmp_path / "adapter")
    again = quantised()
    loaded = ClapRecognizer(again, SETUP, load_adapter(again, tmp_path / "adapter"))
    assert_close(score(loaded, examples), expected)


def test_a_tower_in_4_bits_is_not_trained_in_full(quantised):
    with pytest.raises(AdapterError, match=r"the text_tower of .* is quantised and cannot be trained in full"):
        add_adapter(quantised(), {"audio_tower": [ALL_LINEAR]}, {}, full=["text_tower"])


def test_another_quantised_tower_is_named(quantised):
    clap = quantised()
    expected = r"text_model\.\S+ is quantised; expected only the linear layers of audio_model"
    with pytest.raises(ModelError, match=expected):
        require_quantised(clap.model, clap.towers["audio_tower"], clap.name)


def test_another_quantization_is_refused(load):
    with pytest.raises(ConfigError, match=r"argument 'quantization': 'int3'; expected nf4 or null"):
        load(quantization="int3")
