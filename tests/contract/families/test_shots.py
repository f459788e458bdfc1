"""Answered examples: scores and answers with a stored prefix are those of complete prompts."""

import pickle
from dataclasses import replace

import pytest
import torch
from closeness import assert_close

from lalm_mer.models.adapters import add_adapter
from lalm_mer.recognizers.base import true_indices
from lalm_mer.recognizers.language.collator import AnswerCollator, PromptCollator
from lalm_mer.recognizers.language.generation import generate
from lalm_mer.recognizers.language.prefix import Prefix, PrefixStore
from lalm_mer.recognizers.language.prompt_setup import PromptSetup, label_rotations
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

EXACT = 1e-6


@pytest.fixture
def shots(family, examples):
    if family.single_turn_reason is not None:
        pytest.skip(f"takes no answered examples: {family.single_turn_reason}")
    return (examples[7], replace(examples[1], input=replace(examples[1].input, utterance_id="other")), examples[2])


@pytest.fixture
def chosen(inputs):
    """Inputs of different lengths, the last one without audio."""
    return [*inputs[:3], replace(inputs[4], waveform=None, without_audio=True)]


@pytest.fixture
def setup_of(prompts, label_set, shots):
    def make(prompt="audio_transcript", orders=1):
        return PromptSetup((prompts[prompt],), label_set, label_rotations(label_set.labels, orders), shots)

    return make


def log_probs(recognizer, inputs, collator=None):
    with torch.no_grad():
        return recognizer(**(collator or recognizer.joint_collator)(inputs))["log_probs"]


@pytest.fixture
def complete(monkeypatch):
    """A maker of what a call gives with complete prompts."""

    def make(call, *args):
        with monkeypatch.context() as patch:
            patch.setattr(Prefix, "shared_length", lambda *_: 0)
            return call(*args)

    return make


@pytest.mark.parametrize("prompt", ["audio_transcript", "audio", "transcript"])
def test_scores_are_those_of_complete_prompts(family, setup_of, chosen, complete, prompt):
    recognizer = LanguageRecognizer(family, setup_of(prompt)).eval()
    given = chosen[:3] if prompt == "audio" else chosen
    batch = recognizer.joint_collator(given)
    number, length = batch["prefix"][0].tolist()
    prefix = recognizer.scoring_collators[0].prefix
    assert number == 0
    assert prefix.least <= length <= len(prefix.ids)
    assert length > 0.6 * len(recognizer.scoring_collators[0].render(given[0])[0])
    expected = complete(log_probs, recognizer, given)
    assert_close(log_probs(recognizer, given), expected, EXACT)
    for one, row in zip(given, expected, strict=True):
        assert_close(log_probs(recognizer, [one])[0], row, max(EXACT, family.batch_tolerance))
    assert (log_probs(recognizer_without_shots(recognizer), given) - expected).abs().max() > 1e-3


def recognizer_without_shots(recognizer):
    return LanguageRecognizer(recognizer.family, replace(recognizer.setup, shots=())).eval()


def test_label_orders_and_losses_are_those_of_complete_prompts(family, setup_of, chosen, complete, examples):
    recognizer = LanguageRecognizer(family, setup_of(orders=2)).eval()
    found = log_probs(recognizer, chosen)
    assert found.shape[:2] == (4, 2)
    assert_close(found, complete(log_probs, recognizer, chosen), EXACT)
    second = recognizer.scoring_collators[1]
    assert_close(log_probs(recognizer, chosen, second), found[:, 1], EXACT)
    first, truth = recognizer.scoring_collators[0], true_indices(examples[:3], recognizer.label_set)
    with torch.no_grad():
        dev = recognizer(**first(chosen[:3]), truth=truth)
        trained = recognizer(**{k: v for k, v in recognizer.training_collator(examples[:3]).items() if k != "labels"})
    assert_close(dev["losses"], trained["losses"], EXACT)


def test_answers_are_those_of_complete_prompts(family, setup_of, chosen, complete, label_set):
    setup = setup_of()

    def answers():
        collator = PromptCollator(family, setup.prompts[0], label_set, shots=setup.shots, following=12)
        batch = collator(chosen)
        return batch["prefix"][0, 1], generate(
            family, **batch, max_new_tokens=12, prefixes=PrefixStore(family, [collator.prefix])
        )

    length, found = answers()
    none, expected = complete(answers)
    assert (int(length) > 0, int(none)) == (True, 0)
    assert found == expected
    assert len(set(map(tuple, expected))) > 1


def test_examples_are_encoded_once_until_the_weights_may_change(family, setup_of, chosen, monkeypatch):
    recognizer = LanguageRecognizer(family, setup_of(orders=2)).eval()
    encoded, encode = [], family.encode_audio
    monkeypatch.setattr(family, "encode_audio", lambda **audio: encoded.append(count(audio)) or encode(**audio))
    for _ in range(2):
        log_probs(recognizer, chosen[:2])
        log_probs(recognizer, chosen[:1])
    assert encoded == [2, 3, 1, 2, 1]
    recognizer.eval()
    log_probs(recognizer, chosen[:2])
    assert encoded[5:] == [2, 3]


def count(audio):
    return len(next(iter(audio.values())))


def test_an_adapter_that_has_changed_is_used(fresh_family, setup_of, chosen, complete):
    family = fresh_family
    model, _ = add_adapter(family, family.adapter_targets, {"r": 4, "init_lora_weights": "gaussian"})
    recognizer = LanguageRecognizer(family, setup_of(), model).eval()
    before = log_probs(recognizer, chosen)
    recognizer.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    recognizer.eval()
    after = log_probs(recognizer, chosen)
    assert (before - after).abs().max() > 1e-3
    assert_close(after, complete(log_probs, recognizer, chosen), EXACT)


def test_gradients_are_those_of_complete_prompts(fresh_family, setup_of, chosen, complete):
    family = fresh_family
    recognizer = LanguageRecognizer(family, setup_of()).eval()
    weight = next(
        p for name, p in family.submodule("language_model").named_parameters() if name.endswith("norm.weight")
    )

    def gradient():
        loss = recognizer(**recognizer.joint_collator(chosen[:2]))["log_probs"][:, 0].sum()
        return torch.autograd.grad(loss, weight)[0]

    log_probs(recognizer, chosen)  # what this stores has no gradient
    assert_close(gradient(), complete(gradient), 1e-5)


def test_a_batch_uses_what_is_common_to_its_prompts_if_all_examples_are(family, setup_of, inputs):
    recognizer = LanguageRecognizer(family, setup_of()).eval()
    collator = recognizer.scoring_collators[0]
    prefix = collator.prefix
    rendered = [collator.render(given) for given in inputs[:2]]
    ids, waveforms = rendered[1]
    assert prefix.shared_length(family, rendered, 5) == len(prefix.ids)
    for place, used in ((len(prefix.ids) - 1, len(prefix.ids) - 1), (prefix.least, prefix.least), (0, 0)):
        other = [*ids[:place], ids[place] + 1, *ids[place + 1 :]]
        assert prefix.shared_length(family, [rendered[0], (other, waveforms)], 5) == used


def test_complete_prompts_are_run_if_keys_would_change_with_the_length(family, setup_of, chosen, monkeypatch):
    recognizer = LanguageRecognizer(family, setup_of()).eval()
    expected, asked = log_probs(recognizer, chosen), []
    monkeypatch.setattr(family, "keeps_keys", lambda *lengths: asked.append(lengths))
    batch = recognizer.joint_collator(chosen)
    longest = int(batch["position_ids"].max()) + 1
    assert [grown for _, grown in asked] == [longest]
    assert batch["prefix"].tolist() == [[0, 0]] * 4
    assert_close(log_probs(recognizer, chosen), expected, EXACT)


def test_the_collator_runs_in_worker_processes(family, setup_of, chosen):
    setup = setup_of()
    collator = AnswerCollator(family, setup.prompts[0], setup.label_set, shots=setup.shots)
    batch = pickle.loads(pickle.dumps(collator))(chosen)  # noqa: S301 our own bytes
    assert all(torch.equal(batch[name], tensor) for name, tensor in collator(chosen).items())
    assert batch["prefix"].tolist() == [[0, batch["prefix"][0, 1]]] * 4
