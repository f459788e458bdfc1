"""Subsets of the training examples: nested, with the shares of classes and speakers of all."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.examples.subsets import choose_subset

random = np.random.default_rng(0)
TRUTHS = [*random.choice(["ang", "hap", "neu", "sad"], 400, p=[0.05, 0.2, 0.45, 0.3])]
SPEAKERS = [*random.choice(["s1", "s2", "s3", None], 400, p=[0.1, 0.2, 0.3, 0.4])]
SIZES = (4, 25, 50, 100, 200, 400)


def test_each_size_is_a_part_of_the_next():
    drawn = [choose_subset(TRUTHS, SPEAKERS, size, seed=3) for size in SIZES]
    assert [len(set(each)) for each in drawn] == [len(each) for each in drawn] == list(SIZES)
    assert all(set(small) < set(large) for small, large in pairwise(drawn))
    assert drawn[-1] == list(range(400))


def test_another_seed_draws_others():
    assert choose_subset(TRUTHS, SPEAKERS, 50, seed=0) != choose_subset(TRUTHS, SPEAKERS, 50, seed=1)


@pytest.mark.parametrize("size", SIZES)
def test_classes_keep_their_shares_and_none_is_missing(size):
    chosen = choose_subset(TRUTHS, SPEAKERS, size, seed=0)
    found = Counter(TRUTHS[index] for index in chosen)
    assert len(found) == 4
    for label, n in Counter(TRUTHS).items():
        assert abs(found[label] - size * n / 400) <= 2


def test_speakers_keep_their_shares():
    found = Counter(SPEAKERS[index] for index in choose_subset(TRUTHS, SPEAKERS, 100, seed=0))
    for speaker, n in Counter(SPEAKERS).items():
        assert abs(found[speaker] - n / 4) <= 2


def test_more_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match=r"argument 'count': 401, but train has 400 utterances"):
        choose_subset(TRUTHS, SPEAKERS, 401, seed=0)
