from collections import Counter

import numpy as np
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Rejection
from lalm_mer.corpora import ravdess
from lalm_mer.examples.balancing import SAMPLINGS, balance, class_weights, count

# neutral is the smallest class: one intensity instead of two
TRUTHS = ["neutral"] * 4 + ["happy"] * 9 + ["sad"] * 7
SPEAKERS = [f"s{number % 3}" for number in range(20)]
IDS = [f"u{number:02d}" for number in range(20)]


def test_sampling_none_keeps_the_list():
    chosen = balance(TRUTHS, [None] * 20)
    assert chosen.indices == list(range(20))
    assert chosen.before == chosen.after
    assert chosen.after.without_group == 20
    assert chosen.after.classes == {"happy": 9, "neutral": 4, "sad": 7}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("truths", "wanted"), [(TRUTHS, 9), (["a"] * 3 + ["b"] * 11, 11)])
def test_over_makes_each_class_as_frequent_as_the_largest_and_loses_none(truths, wanted, seed):
    chosen = balance(truths, sampling="class", seed=seed)
    assert set(chosen.after.classes.values()) == {wanted}
    times = Counter(chosen.indices)
    for label, n in Counter(truths).items():
        found = [times[index] for index, truth in enumerate(truths) if truth == label]
        assert min(found) == wanted // n
        assert max(found) <= wanted // n + 1
        assert len(found) == n


def test_under_makes_each_class_as_frequent_as_the_smallest_and_repeats_none():
    chosen = balance(TRUTHS, sampling="class", direction="under")
    assert chosen.after.classes == {"happy": 4, "neutral": 4, "sad": 4}
    assert len(set(chosen.indices)) == len(chosen.indices) == 12
    assert set(range(4)) <= set(chosen.indices)
    assert chosen.indices == sorted(set(chosen.indices))


def test_groups_become_equally_frequent_regardless_of_class():
    groups = ["f"] * 15 + ["m"] * 5
    assert Counter(groups[i] for i in balance(TRUTHS, groups, sampling="group").indices) == {"f": 15, "m": 15}
    under = balance(TRUTHS, groups, sampling="group", direction="under").indices
    assert Counter(groups[i] for i in under) == {"f": 5, "m": 5}


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("over", {"a": {"f": 8, "m": 2}, "b": {"f": 5, "m": 5}, "c": {"m": 10}}),
        ("under", {"a": {"f": 2, "m": 2}, "b": {"f": 3, "m": 1}, "c": {"m": 4}}),
    ],
)
def test_within_equal_classes_groups_are_as_even_as_possible(direction, expected):
    cells = {"a": {"f": 8, "m": 2}, "b": {"f": 3, "m": 1}, "c": {"m": 6}}
    truths = [label for label, cell in cells.items() for n in cell.values() for _ in range(n)]
    groups = [group for cell in cells.values() for group, n in cell.items() for _ in range(n)]
    chosen = balance(truths, groups, sampling="class_and_group", direction=direction)
    assert chosen.after.groups == expected
    assert len(set(chosen.after.classes.values())) == 1
    if direction == "over":
        assert set(chosen.indices) == set(range(len(truths)))
    else:
        assert len(set(chosen.indices)) == len(chosen.indices)


def test_caps_are_applied_before_sampling():
    chosen = balance(TRUTHS, SPEAKERS, sampling="class", max_per_class=5)
    assert chosen.after.classes == {"happy": 5, "neutral": 5, "sad": 5}
    assert len(set(chosen.indices)) == 4 + 5 + 5
    capped = balance(TRUTHS, SPEAKERS, max_per_group=2)
    assert Counter(SPEAKERS[index] for index in capped.indices) == {"s0": 2, "s1": 2, "s2": 2}
    assert capped.before.examples == 20
    assert capped.after.examples == 6


@pytest.mark.parametrize("sampling", SAMPLINGS[1:])
@pytest.mark.parametrize("direction", ["over", "under"])
def test_the_seed_determines_the_sample(sampling, direction):
    truths = TRUTHS + ["happy"] * 3

    def drawn(seed):
        groups = [f"s{number % 5}" for number in range(len(truths))]
        return balance(truths, groups, sampling=sampling, direction=direction, seed=seed).indices

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(5)}) > 1
    assert drawn(1) == sorted(drawn(1))


def test_the_counts_of_classes_and_groups():
    chosen = balance(TRUTHS, SPEAKERS, sampling="class_and_group")
    assert chosen.before.groups["neutral"] == {"s0": 2, "s1": 1, "s2": 1}
    assert chosen.after.groups["neutral"] == {"s0": 3, "s1": 3, "s2": 3}
    assert chosen.after.examples == 27
    assert count(TRUTHS).groups == {}


def test_an_utterance_without_a_group_is_named():
    groups = [*SPEAKERS[:7], None, *SPEAKERS[8:]]
    for arguments in ({"sampling": "group"}, {"sampling": "class_and_group"}, {"max_per_group": 3}):
        with pytest.raises(ConfigError, match=r"utterance u07: no group in the column of 'balance.by' \(1 such"):
            balance(TRUTHS, groups, IDS, **arguments)
    with pytest.raises(ConfigError, match="no groups to balance or cap"):
        balance(TRUTHS, sampling="group")
    assert balance(TRUTHS, groups, IDS, sampling="class").before.without_group == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sampling": "classes"},
            "'sampling': 'classes'; expected one of none, class, group, class_and_group",
        ),
        ({"direction": "up"}, "argument 'direction': 'up'; expected over or under"),
        ({"max_per_class": 0}, "argument 'max_per_class': 0; expected 1 or more"),
        ({"groups": ["f"]}, "1 groups for 20 examples"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        balance(TRUTHS, **arguments)


def test_no_example_is_an_error():
    with pytest.raises(ConfigError, match="no training example"):
        balance([], sampling="class")


def test_weights_of_classes_average_to_one_over_the_training_examples():
    labels = ("sad", "neutral", "happy")
    weights = dict(zip(labels, class_weights(TRUTHS, labels), strict=True))
    assert weights["neutral"] == pytest.approx(20 / (3 * 4))
    assert weights["happy"] < weights["sad"] < weights["neutral"]
    assert np.mean([weights[truth] for truth in TRUTHS]) == pytest.approx(1)
    balanced = balance(TRUTHS, sampling="class").indices
    assert class_weights([TRUTHS[index] for index in balanced], labels) == pytest.approx((1, 1, 1))


def test_a_label_without_a_training_example_is_named():
    with pytest.raises(ConfigError, match="label 'calm' has no training example among 20"):
        class_weights(TRUTHS, ("calm", "happy", "neutral", "sad"))
    with pytest.raises(ConfigError, match="training examples have label 'neutral', expected one of happy, sad"):
        class_weights(TRUTHS, ("happy", "sad"))


def test_the_small_neutral_class_of_ravdess_is_balanced(shared_data):
    root = shared_data / "ravdess"
    if not root.is_dir():
        pytest.skip(f"no RAVDESS in {root}")
    utterances = [row for row in ravdess.read(root) if not isinstance(row, Rejection)]
    truths, speakers = [row.label for row in utterances], [row.speaker for row in utterances]
    chosen = balance(truths, speakers, sampling="class_and_group")
    assert chosen.before.classes["neutral"] == 96
    assert chosen.before.examples == 1440
    assert chosen.after.classes == dict.fromkeys(chosen.before.classes, 192)
    assert {n for cell in chosen.after.groups.values() for n in cell.values()} == {8}
    assert set(chosen.indices) == set(range(1440))
    labels = sorted(set(truths))
    assert class_weights(truths, labels)[labels.index("neutral")] == pytest.approx(1440 / (8 * 96))
