"""A compiled language model: same losses and scores, few graphs, and nothing of it in what is saved."""

from functools import partialmethod

import numpy as np
import pytest
import torch
from closeness import assert_close
from torch._dynamo.testing import CompileCounter

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.models.families.parts.compiling import COMPILED_WIDTHS
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

LABELS = LabelSet(("angry", "calm", "sad"), {})
PROMPT = Prompt("both", None, (("audio", ""), ("transcript", "")), {}, "")
SAMPLES = (8000, 9600, 12000, 16000)
EXAMPLES = [
    Example(
        Input(f"u{number}", "so it is " * number, Waveform(np.sin(np.arange(samples, dtype=np.float32)), 16000), "s"),
        LABELS.labels[number % 3],
    )
    for number, samples in enumerate(SAMPLES)
]


@pytest.fixture
def counter(monkeypatch):
    """Counts graphs, and runs them without generating code, which needs a compiler and takes longer."""
    torch._dynamo.reset()
    made = CompileCounter()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=made))
    yield made
    torch._dynamo.reset()


@pytest.fixture
def recognizer(tiny_folder):
    def make(*, torch_compile, shots=()):
        torch.manual_seed(0)
        loaded = family_class("qwen2_audio").load(
            tiny_folder("qwen2_audio"), dtype="float32", attn_implementation="sdpa"
        )
        targets = {"language_model": loaded.adapter_targets["language_model"]}
        model, _ = add_adapter(loaded, targets, {"r": 4, "lora_dropout": 0.0})
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        setup = PromptSetup((PROMPT,), LABELS, (LABELS.labels,), shots)
        return LanguageRecognizer(loaded, setup, model, torch_compile=torch_compile)

    return make


def scores(recognizer, chosen):
    with torch.no_grad():
        batch = recognizer.eval().scoring_collators[0]([example.input for example in chosen])
        return recognizer(**batch)["log_probs"]


def learned(recognizer, chosen):
    """Losses, and the gradient of one parameter."""
    batch = recognizer.train().training_collator(chosen)
    del batch["labels"]
    losses = recognizer(**batch)["losses"]
    trained = [parameter for parameter in recognizer.parameters() if parameter.requires_grad]
    return losses, torch.autograd.grad(losses.sum(), trained[-1])[0]


def test_scores_of_any_batch_are_those_of_the_model_as_it_is_and_need_one_graph(counter, recognizer):
    compiled, plain = recognizer(torch_compile=True), recognizer(torch_compile=False)
    for count in (4, 2, 3):
        assert_close(scores(compiled, EXAMPLES[:count]), scores(plain, EXAMPLES[:count]))
    assert counter.frame_count == 1
    assert compiled.speed() == [*plain.speed(), "compiled"]
    assert compiled.scoring_collators[0]([EXAMPLES[0].input])["input_ids"].shape[1] % COMPILED_WIDTHS == 0


def test_nothing_that_is_saved_names_the_compilation(counter, recognizer, tmp_path):
    compiled, plain = recognizer(torch_compile=True), recognizer(torch_compile=False)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.save_trained(tmp_path / "compiled")
    plain.save_trained(tmp_path / "plain")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "compiled" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_passes_after_a_stored_prefix_are_not_compiled(counter, recognizer):
    """Each layer would need a graph of its own, because each has keys and values of its own."""
    compiled, plain = (recognizer(torch_compile=wanted, shots=EXAMPLES[:1]) for wanted in (True, False))
    assert_close(scores(compiled, EXAMPLES[1:]), scores(plain, EXAMPLES[1:]))
    assert counter.frame_count == 0
    assert "compiled" in compiled.speed()


def test_a_failure_of_the_compiler_is_one_line(recognizer, monkeypatch):
    def fails(*_):
        raise FileNotFoundError("no g++")

    torch._dynamo.reset()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=fails))
    with pytest.raises(ModelError, match=r"cannot be compiled here \(.*no g\+\+.*\); set model\.torch_compile=false"):
        scores(recognizer(torch_compile=True), EXAMPLES[:2])
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_training_needs_six_graphs(counter, recognizer):
    """Without gradients, for the first layer and for the others, each for one row and for several."""
    compiled, plain = recognizer(torch_compile=True), recognizer(torch_compile=False)
    for chosen in (EXAMPLES, EXAMPLES[1:3], EXAMPLES[:3], EXAMPLES[:1], EXAMPLES[3:], [EXAMPLES[2]] * 2):
        assert_close(scores(compiled, chosen), scores(plain, chosen))
        for found, expected in zip(learned(compiled, chosen), learned(plain, chosen), strict=True):
            assert_close(found, expected)
    assert counter.frame_count == 6


@pytest.mark.slow
def test_generated_code_gives_the_same_losses(recognizer):
    torch._dynamo.reset()
    compiled, plain = recognizer(torch_compile=True), recognizer(torch_compile=False)
    compiled.gradient_checkpointing_enable()
    for found, expected in zip(learned(compiled, EXAMPLES), learned(plain, EXAMPLES), strict=True):
        assert_close(found, expected)
