from types import SimpleNamespace

import numpy as np
import pytest

from lalm_mer.core.schema import Example
from lalm_mer.recognizers.scoring import score_by_all

ASKED = {  # log-probabilities of two utterances and of what says nothing, by way of asking
    "one": ([[0.8, 0.2], [0.5, 0.5]], [0.8, 0.2]),
    "other": ([[0.4, 0.6], [0.9, 0.1]], [0.5, 0.5]),
}
NOTHING = Example("<content-free>", None, "hap", "N/A", None)


@pytest.fixture
def trainer():
    """Answers from the table; asked of one example, it is the one without content."""

    def score(examples, collator):
        scores, prior = ASKED[collator]
        if len(examples) == 1:
            assert examples[0] is NOTHING
            assert examples.truths() == ["hap"]
            return np.log([prior])
        return np.log(scores)

    return SimpleNamespace(score=score)


def test_ways_are_averaged_as_probabilities(trainer):
    found = np.exp(score_by_all(trainer, [None, None], ["one", "other"]))
    assert found == pytest.approx(np.array([[0.6, 0.4], [0.7, 0.3]]))


def test_one_way_is_itself_to_the_bit(trainer):
    assert (score_by_all(trainer, [None, None], ["one"]) == np.log(ASKED["one"][0])).all()


def test_what_says_nothing_is_taken_off(trainer):
    found = np.exp(score_by_all(trainer, [None, None], ["one"], NOTHING))
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.2, 0.8]]))  # 0.5/0.8 to 0.5/0.2


def test_it_is_taken_off_each_way_by_its_own(trainer):
    found = np.exp(score_by_all(trainer, [None, None], ["one", "other"], NOTHING))
    assert found == pytest.approx(np.array([[0.45, 0.55], [0.55, 0.45]]))
