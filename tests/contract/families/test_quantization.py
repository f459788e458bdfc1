"""QLoRA on a CPU: only the language model in 4 bits, and gradients that an evaluation does not stop."""

import re

import pytest
import torch

from lalm_mer.core.errors import AdapterError, ConfigError, ModelError
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.models.quantization import require_quantised

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")


@pytest.fixture
def quantised(family_name, tiny_folder):
    def load():
        family = family_class(family_name).load(
            tiny_folder(family_name), revision=None, dtype="float32", attn_implementation="sdpa", quantization="nf4"
        )
        family.model.eval()
        return family

    return load


def test_only_the_language_model_is_in_4_bits(quantised):
    family = quantised()
    of_tower = {
        tower: [
            type(module).__name__ for module in family.submodule(tower).modules() if isinstance(module, torch.nn.Linear)
        ]
        for tower in family.towers
    }
    assert set(of_tower["language_model"]) == {"Linear4bit"}
    assert "Linear4bit" not in of_tower["projector"] + of_tower["audio_tower"]
    others = [name for name, module in family.model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert all(name.startswith(f"{family.towers['language_model']}.") for name in others)


def gradients(family, prompt, examples, recognizer_of, *, evaluates):
    """Of every adapter, after a training step that an evaluation may have come before."""
    model, _ = add_adapter(
        family, {tower: [ALL_LINEAR] for tower in family.towers}, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    recognizer = recognizer_of(family, prompt, model)
    batch = recognizer.training_collator(examples)
    batch.pop("labels")
    steps = []
    for step in range(2):
        recognizer.train()
        recognizer.zero_grad()
        recognizer(**batch)["losses"].sum().backward()
        steps.append({name: p.grad.clone() for name, p in recognizer.named_parameters() if p.requires_grad})
        if evaluates and step == 0:
            recognizer.eval()
            with torch.no_grad():
                recognizer(**recognizer.scoring_collators[0]([example.input for example in examples]))
    return steps


def test_gradients_reach_every_adapter_before_and_after_an_evaluation(quantised, prompts, examples, recognizer_of):
    prompt, chosen = prompts["audio_transcript"], examples[:2]
    with_evaluation = gradients(quantised(), prompt, chosen, recognizer_of, evaluates=True)
    without = gradients(quantised(), prompt, chosen, recognizer_of, evaluates=False)
    for one, other in zip(with_evaluation, without, strict=True):
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(gradient, other[name], rtol=0.0, atol=0.0)


KIND_OPTIONS = {"vera": {"r": 8}, "oft": {"oft_block_size": 4}}


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_is_trained_in_4_bits_or_refused(quantised, prompts, examples, recognizer_of, training_batch, kind):
    family = quantised()
    if kind in ("loha", "lokr"):
        with pytest.raises(AdapterError, match=f"argument 'kind': peft has no {kind} for layers in 4 bits, such as "):
            add_adapter(family, {"language_model": ["q_proj"]}, {}, kind=kind)
        add_adapter(family, {"audio_tower": ["q_proj"]}, {}, kind=kind)
        return
    model, _ = add_adapter(family, {"language_model": ["q_proj"]}, KIND_OPTIONS.get(kind, {}), kind=kind)
    recognizer = recognizer_of(family, prompts["audio_transcript"], model).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    recognizer(**training_batch(recognizer, examples[:2]))["losses"].sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_a_tower_in_4_bits_is_not_trained_in_full(quantised):
    with pytest.raises(AdapterError, match=r"the language_model of .* is quantised and cannot be trained in full"):
        add_adapter(quantised(), {"audio_tower": ["q_proj"]}, {}, full=["language_model"])


def test_quantised_scores_are_near_those_of_the_full_model(family, quantised, prompts, inputs, score):
    full = score(family, prompts["audio_transcript"], inputs[:3])
    four_bit = score(quantised(), prompts["audio_transcript"], inputs[:3])
    assert torch.isfinite(four_bit).all()
    assert (full - four_bit).abs().max() > 1e-6  # it is quantised
    assert (full - four_bit).abs().max() < 2.0


def test_a_tower_that_was_quantised_is_named(quantised):
    family = quantised()
    with pytest.raises(ModelError, match=re.escape("is quantised; expected only the linear layers of model.nowhere")):
        require_quantised(family.model, "model.nowhere", family.name)
    with pytest.raises(ModelError, match="no layer is quantised"):
        require_quantised(torch.nn.Linear(2, 2), "model", family.name)


def test_another_quantization_is_refused(family_name, tiny_folder):
    with pytest.raises(ConfigError, match=r"argument 'quantization': 'int3'; expected nf4 or null"):
        family_class(family_name).load(
            tiny_folder(family_name), revision=None, dtype="float32", attn_implementation="sdpa", quantization="int3"
        )
