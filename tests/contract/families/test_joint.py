"""Several prompts and label orders for one utterance: the audio is encoded once, the scores are those of each alone."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup, label_rotations
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.scoring import average_prompts, score_inputs

BEFORE = Prompt("before", "Listen.", (("words", "One of "), ("labels", ""), ("audio", ""), ("transcript", "")), {}, "")


@pytest.fixture
def recognizer(family, prompts, label_set):
    setup = PromptSetup((prompts["audio_transcript"], BEFORE), label_set, label_rotations(label_set.labels, 2))
    return LanguageRecognizer(family, setup).eval()


def log_probs(recognizer, collator, inputs):
    with torch.no_grad():
        return recognizer(**collator(inputs))["log_probs"]


@pytest.mark.parametrize("mute", [False, True])
def test_joint_scores_are_those_of_each_prompt_alone(recognizer, inputs, mute):
    chosen = inputs[:1] if recognizer.family.batch_tolerance > 1e-4 else inputs[:4]
    if mute:
        chosen = [replace(given, waveform=None, without_audio=True) for given in chosen]
    together = log_probs(recognizer, recognizer.joint_collator, chosen)
    alone = [log_probs(recognizer, collator, chosen) for collator in recognizer.scoring_collators]
    assert torch.equal(together, torch.stack(alone, dim=1))
    assert together.shape[1] == 4
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-4  # the order of the labels matters


def test_audio_is_encoded_once_for_all_prompts(recognizer, inputs, monkeypatch):
    encoded, encode = [], recognizer.family.encode_audio
    monkeypatch.setattr(recognizer.family, "encode_audio", lambda **audio: encoded.append(audio) or encode(**audio))
    list(score_inputs(recognizer, inputs[:1]))
    assert len(encoded) == 1


def test_probabilities_are_averaged_over_the_prompts(recognizer, inputs):
    (found,) = score_inputs(recognizer, inputs[:1])
    each = [log_probs(recognizer, collator, inputs[:1]).double().numpy() for collator in recognizer.scoring_collators]
    assert np.array_equal(found, average_prompts(each, None)[0])


def test_the_joint_collator_runs_in_worker_processes(recognizer, inputs):
    batch = pickle.loads(pickle.dumps(recognizer.joint_collator))(inputs[:2])  # noqa: S301 our own bytes
    expected = recognizer.joint_collator(inputs[:2])
    assert set(batch) == set(expected)
    assert all(len(tensor) == 2 for tensor in batch.values())
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_single_prompt_has_no_other_collator(family, prompts, label_set):
    recognizer = LanguageRecognizer(family, PromptSetup((prompts["audio"],), label_set, (label_set.labels,)))
    assert recognizer.joint_collator is recognizer.scoring_collators[0]
