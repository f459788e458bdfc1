"""Rows of several utterances: losses, gradients and scores are those of rows of one."""

import pickle
from dataclasses import replace

import pytest
import torch
from closeness import assert_close

from lalm_mer.models.adapters import add_adapter
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language import collator as collators
from lalm_mer.recognizers.language.prompt_setup import PromptSetup, label_rotations
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

EXACT = 1e-6
ROWS = ([[0, 1, 2, 3, 4, 5, 6, 7]], [[1, 4, 6], [0, 3], [2, 5, 7]])
BEFORE = Prompt("before", "Listen.", (("words", "One of "), ("labels", ""), ("audio", ""), ("transcript", "")), {}, "")


@pytest.fixture
def rows(request, monkeypatch):
    """The rows of every batch of eight, three if a test does not say others."""
    found = getattr(request, "param", ROWS[1])
    monkeypatch.setattr(collators, "rows_of", lambda lengths, _: found)
    return found


@pytest.fixture
def mixed(inputs):
    """Eight inputs, one without audio."""
    return [*inputs[:4], replace(inputs[4], waveform=None, without_audio=True), *inputs[5:]]


def both(family, setup, model=None):
    """A recognizer without and one with packing."""
    return [LanguageRecognizer(family, setup, model, packing=packing).eval() for packing in (False, True)]


def log_probs(recognizer, inputs):
    with torch.no_grad():
        return recognizer(**recognizer.joint_collator(inputs))["log_probs"]


@pytest.mark.parametrize("rows", ROWS, indirect=True, ids=["one_row", "three_rows"])
def test_scores_are_those_of_rows_of_one(family, prompts, label_set, mixed, rows):
    setup = PromptSetup((prompts["audio_transcript"],), label_set, (label_set.labels,))
    alone, packed = (log_probs(recognizer, mixed) for recognizer in both(family, setup))
    assert_close(packed, alone, EXACT)


def test_scores_by_several_prompts_after_answered_examples(family, prompts, label_set, examples, inputs, rows):
    shots = () if family.single_turn_reason else (examples[2], examples[5])
    orders = label_rotations(label_set.labels, 2)
    setup = PromptSetup((prompts["audio_transcript"], BEFORE), label_set, orders, shots)
    recognizers = both(family, setup)
    batch = recognizers[1].joint_collator(inputs)
    assert batch["input_ids"].shape[:2] == (len(rows), 4)
    assert not shots or (batch["prefix"][..., 1] > 0).all()
    alone, packed = (log_probs(recognizer, inputs) for recognizer in recognizers)
    assert_close(packed, alone, EXACT)


@pytest.mark.parametrize("prompt", ["audio_transcript", "transcript"])
def test_losses_and_gradients_are_those_of_rows_of_one(fresh_family, prompts, label_set, examples, rows, prompt, trait):
    """In double precision, where the model has it: in single precision some gradients round by more than 1e-6."""
    torch.manual_seed(0)
    bound = 1e-5 if trait("SINGLE_PRECISION") else EXACT
    if bound == EXACT:
        fresh_family.model.double()
    model, _ = add_adapter(fresh_family, fresh_family.adapter_targets, {"r": 4, "lora_dropout": 0.0})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    mute = replace(examples[4], input=replace(examples[4].input, waveform=None, without_audio=True))
    chosen = [*examples[:4], mute, *examples[5:]]
    setup = PromptSetup((prompts[prompt],), label_set, (label_set.labels,))
    weights = torch.linspace(0.5, 1.5, len(chosen))
    outputs, gradients, labels = [], [], []
    for recognizer in both(fresh_family, setup, model):
        batch = recognizer.training_collator(chosen)
        labels.append(batch.pop("labels"))
        assert len(batch["input_ids"]) == (len(rows) if recognizer.training_collator.packing else len(chosen))
        output = recognizer(**batch)
        model.zero_grad()
        (output["losses"] * weights).sum().backward()
        outputs.append(output)
        gradients.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
    alone, packed = outputs
    assert torch.equal(*labels)  # the Trainer counts them
    assert torch.equal(packed["items"], alone["items"])
    assert_close(packed["losses"], alone["losses"], EXACT)
    largest = max(float(each.abs().max()) for each in gradients[0].values())
    assert 0 < largest < float("inf")
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name] / largest, gradient / largest, bound, name)


def test_rows_are_filled(family, prompts, label_set, examples):
    """Without a fixed layout: fewer positions than padded rows of one."""
    setup = PromptSetup((prompts["audio_transcript"],), label_set, (label_set.labels,))
    alone, packed = (recognizer.training_collator(examples) for recognizer in both(family, setup))
    tokens = int((alone["visible_until"] > 0).sum())
    assert int((packed["visible_until"] > 0).sum()) == tokens
    assert packed["input_ids"].numel() < 1.25 * tokens
    assert packed["input_ids"].numel() < alone["input_ids"].numel()
    again = pickle.loads(pickle.dumps(both(family, setup)[1].training_collator))(examples)  # noqa: S301 our own bytes
    assert all(torch.equal(again[name], packed[name]) for name in packed)
