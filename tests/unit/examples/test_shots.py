from collections import Counter

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.examples.shots import choose_shots

TRUTHS = ["sad"] * 30 + ["hap"] * 3 + ["ang"] * 10


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9, 15, 43])
def test_labels_are_drawn_in_turn_and_no_example_twice(count):
    chosen = choose_shots(TRUTHS, ["hap", "ang", "sad"], count, seed=3)
    assert len(set(chosen)) == len(chosen) == count
    drawn = Counter(TRUTHS[index] for index in chosen)
    left = {"hap": 3, "ang": 10, "sad": 30}
    able = [drawn[label] for label in left if drawn[label] < left[label]]  # those that have not run out
    assert not able or max(drawn.values(), default=0) - min(able) <= 1


def test_the_seed_determines_the_shots():
    draws = {tuple(choose_shots(TRUTHS, ["hap", "ang", "sad"], 6, seed=seed)) for seed in (0, 0, 1, 2, 3)}
    assert len(draws) == 4
    orders = {tuple(TRUTHS[index] for index in draw) for draw in draws}
    assert len(orders) > 1  # a model cannot learn the order of labels


def test_more_shots_than_examples_are_refused():
    with pytest.raises(ConfigError, match=r"argument 'count': 44, but train has 43"):
        choose_shots(TRUTHS, ["hap", "ang", "sad"], 44, seed=0)
