"""Every family passes the preflight, and learns after it what it would have learnt without."""

import importlib.util

import pytest
import torch

from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.recognizers.memory import estimate_memory
from lalm_mer.recognizers.preflight import (
    batch_effects,
    evaluating,
    require_change,
    require_parity,
    require_supervised,
    swapped_audio,
    swapped_transcripts,
)
from lalm_mer.recognizers.scoring import run_batch

CPU = torch.device("cpu")
TOGETHER = (0, 1, 3, 6)


def checked(family, model, examples, batch, *, strict):
    training, scoring = model.training_collator, model.scoring_collators[0]
    inputs = [example.input for example in examples]
    decode = family.tokenizer.decode
    for example in examples:
        form = {"happy": "happy", "angry": "angry", "calm": "calm", "sad": "sad"}[example.label]
        require_supervised(training([example]), family.answer_ids(form), decode)
    with evaluating(model, CPU):
        swapped = {"audio": swapped_audio(inputs), "transcript": swapped_transcripts(inputs)}
        effects = batch_effects(model, scoring, inputs, swapped, tolerance=family.batch_tolerance)
        require_parity(effects.parity, family.name)
        for what, change in effects.changes.items():
            require_change(change, what, family.name, parity=effects.parity, trained=strict)
        return estimate_memory(model, lambda: run_batch(model, batch), batch_size=1, learns=True, checkpointing=False)


def learnt(family, prompt, examples, recognizer_of, training_batch, *, checks, strict):
    """Loss and gradients of a training step with dropout, after the preflight or without it."""
    torch.manual_seed(0)
    adapted, _ = add_adapter(
        family, {tower: [ALL_LINEAR] for tower in family.towers}, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
    )
    model = recognizer_of(family, prompt, adapted)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.train()
    if checks:
        memory = checked(family, model, examples, training_batch(model, examples[:1]), strict=strict)
        assert memory.activations > 0
        assert memory.optimizer == 2 * memory.gradients > 0
    losses = run_batch(model, training_batch(model, examples))["losses"]
    losses.sum().backward()
    return losses.detach(), {name: each.grad for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_preflight_passes_and_changes_nothing(
    family_name, tiny_folder, prompts, examples, recognizer_of, training_batch, quantization
):
    if quantization and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("the extra `quant` is not installed")
    results = []  # random weights in 4 bits may hardly depend on the audio
    for checks in (True, False):
        family = family_class(family_name).load(
            tiny_folder(family_name), revision=None, dtype="float32", attn_implementation="sdpa",
            quantization=quantization,
        )  # fmt: skip
        chosen = [examples[number] for number in TOGETHER]
        results.append(
            learnt(
                family, prompts["audio_transcript"], chosen, recognizer_of, training_batch,
                checks=checks, strict=not quantization,
            )
        )  # fmt: skip
    (losses, gradients), (without, gradients_without) = results
    assert torch.equal(losses, without)
    assert gradients.keys() == gradients_without.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_without[name]), name
