"""Every family passes the preflight, and learns after it what it would have learnt without."""

import importlib.util

import pytest
import torch
from lalm_mer.recognizers.language.answer_model import AnswerModel

from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.recognizers.language.collator import AnswerCollator, answer_forms
from lalm_mer.recognizers.memory import estimate_memory
from lalm_mer.recognizers.preflight import (
    batch_parity,
    left_as_found,
    median_change,
    outputs,
    require_change,
    require_parity,
    require_supervised,
    swapped_audio,
    swapped_transcripts,
)

CPU = torch.device("cpu")
TOGETHER = (0, 1, 3, 6)


def checked(family, model, collators, examples, *, strict):
    training, scoring = collators
    decode = family.tokenizer.decode
    for example in examples:
        form = {"happy": "happy", "angry": "angry", "calm": "calm", "sad": "sad"}[example.label]
        require_supervised(training([example]), family.answer_ids(form), decode)
    with left_as_found(model, CPU):
        parity = batch_parity(model, scoring, examples, tolerance=family.batch_tolerance)
        require_parity(parity, family.name)
        for what, swapped in (("audio", swapped_audio), ("transcript", swapped_transcripts)):
            change = median_change(model, scoring, examples, swapped(examples))
            require_change(change, what, family.name, parity=parity, trained=strict)
        return estimate_memory(
            model, lambda: outputs(model, training, examples[:1]), batch_size=1, learns=True, checkpointing=False
        )


def learnt(family, prompt, label_set, examples, *, checks, strict):
    """Loss and gradients of a training step with dropout, after the preflight or without it."""
    torch.manual_seed(0)
    adapted, _ = add_adapter(
        family, {tower: [ALL_LINEAR] for tower in family.towers}, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
    )
    model = AnswerModel(family, [label for label, _ in answer_forms(label_set)], len(label_set), adapted)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.train()
    collators = tuple(AnswerCollator(family, prompt, label_set, every_answer=every) for every in (False, True))
    if checks:
        memory = checked(family, model, collators, examples, strict=strict)
        assert memory.activations > 0
        assert memory.optimizer == 2 * memory.gradients > 0
    losses = outputs(model, collators[0], examples)["losses"]
    losses.sum().backward()
    return losses.detach(), {name: each.grad for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_preflight_passes_and_changes_nothing(family_name, tiny_folder, prompts, label_set, examples, quantization):
    if quantization and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("the extra `quant` is not installed")
    results = []  # random weights in 4 bits may hardly hear
    for checks in (True, False):
        family = family_class(family_name).load(
            tiny_folder(family_name), revision=None, dtype="float32", attn_implementation="sdpa",
            quantization=quantization,
        )  # fmt: skip
        chosen = [examples[number] for number in TOGETHER]
        results.append(
            learnt(family, prompts["audio_transcript"], label_set, chosen, checks=checks, strict=not quantization)
        )
    (losses, gradients), (without, gradients_without) = results
    assert torch.equal(losses, without)
    assert gradients.keys() == gradients_without.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_without[name]), name
