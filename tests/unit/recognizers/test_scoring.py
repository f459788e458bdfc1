from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.recognizers.scoring import average_prompts, score_by_trainer, score_inputs

ASKED = {  # probabilities of two utterances and of an input without content, by prompt
    "one": ([[0.8, 0.2], [0.5, 0.5]], [0.8, 0.2]),
    "other": ([[0.4, 0.6], [0.9, 0.1]], [0.5, 0.5]),
}
INPUTS = [Input("first", "words", None), Input("second", "words", None)]
NOTHING = Input("<content-free>", "N/A", None)


class Collator:
    """Makes a batch of the probabilities in the table."""

    def __init__(self, prompt):
        self.prompt = prompt

    def __call__(self, inputs):
        scores, prior = ASKED[self.prompt]
        rows = [prior if given is NOTHING else scores[INPUTS.index(given)] for given in inputs]
        return {"probabilities": torch.tensor(rows, dtype=torch.float64)}


class Joint:
    """Makes a batch of the probabilities of all prompts, (B, P, K), or (B, K) of one."""

    def __init__(self, collators):
        self.collators = collators

    def __call__(self, inputs):
        tables = [collator(inputs)["probabilities"] for collator in self.collators]
        return {"probabilities": torch.stack(tables, dim=1) if len(tables) > 1 else tables[0]}


class Table(nn.Module):
    """A recognizer that answers from the table."""

    label_set = LabelSet(("hap", "sad"))

    def __init__(self, prompts, content_free=None):
        super().__init__()
        self.joint_collator = Joint([Collator(prompt) for prompt in prompts])
        self.content_free = content_free
        self.setup = SimpleNamespace(variants=[(SimpleNamespace(name=prompt), ("sad", "hap")) for prompt in prompts])
        self.unused = nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, probabilities):
        self.batches.append(len(probabilities))
        return {"log_probs": probabilities.log()}


def scores_by_trainer(recognizer):
    def score(inputs, collator, journal=None):
        assert inputs in (INPUTS, [NOTHING])
        return collator(inputs)["probabilities"].log().numpy()

    return score_by_trainer(SimpleNamespace(recognizer=recognizer, score=score), INPUTS)


def by_trainer(recognizer):
    scores = scores_by_trainer(recognizer)
    assert (scores.kind, scores.targets) == ("single", ("hap", "sad"))
    return scores.values


def in_this_process(recognizer):
    return np.stack(list(score_inputs(recognizer, INPUTS)))


scored = pytest.mark.parametrize("score", [by_trainer, in_this_process])


@scored
def test_prompts_are_averaged_as_probabilities(score):
    found = np.exp(score(Table(["one", "other"])))
    assert found == pytest.approx(np.array([[0.6, 0.4], [0.7, 0.3]]))


@scored
def test_the_average_of_one_prompt_is_bit_identical(score):
    expected = np.log(np.array(ASKED["one"][0]))
    found = score(Table(["one"]))
    assert (found == (expected if score is by_trainer else expected.astype(np.float32))).all()


@scored
def test_an_input_without_content_is_subtracted(score):
    found = np.exp(score(Table(["one"], NOTHING)))
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.2, 0.8]]))  # 0.5/0.8 to 0.5/0.2


@scored
def test_each_prompt_has_its_own_score_without_content(score):
    found = np.exp(score(Table(["one", "other"], NOTHING)))
    assert found == pytest.approx(np.array([[0.45, 0.55], [0.55, 0.45]]))


def test_scores_of_each_prompt_are_kept_with_its_name_and_first_label():
    one, other = scores_by_trainer(Table(["one", "other"], NOTHING)).by_prompt
    assert [(each.prompt, each.first_label) for each in (one, other)] == [("one", "sad"), ("other", "sad")]
    assert np.exp(one.values) == pytest.approx(np.array([[0.5, 0.5], [0.2, 0.8]]))
    assert np.exp(other.values) == pytest.approx(np.array([[0.4, 0.6], [0.9, 0.1]]))
    assert scores_by_trainer(Table(["one"], NOTHING)).by_prompt == ()


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1, 1]), (2, [2]), (5, [2])])
def test_inputs_are_scored_in_batches_of_a_size(batch_size, batches):
    recognizer = Table(["one"])
    assert len(list(score_inputs(recognizer, iter(INPUTS), batch_size=batch_size))) == 2
    assert recognizer.batches == batches


def test_all_prompts_are_scored_by_one_batch():
    recognizer = Table(["one", "other"], NOTHING)
    assert len(list(score_inputs(recognizer, INPUTS, batch_size=2))) == 2
    assert recognizer.batches == [1, 2]  # the input without content, and both inputs


def test_no_inputs_have_no_scores():
    assert list(score_inputs(Table(["one", "other"], NOTHING), [])) == []


def test_every_prompt_needs_a_score_without_content():
    with pytest.raises(ValueError, match="zip"):
        average_prompts([np.zeros((1, 2))] * 2, [np.zeros((1, 2))])
