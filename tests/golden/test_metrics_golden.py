"""Metrics against values worked out by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.evaluation.metrics import (
    METRICS,
    confusion,
    macro_f1,
    unweighted_average_recall,
    weighted_accuracy,
    weighted_f1,
)

# 4 angry (3 right, 1 sad), 2 happy (1 right, 1 unparsed), 4 sad (2 right, 1 angry, 1 unscored)
TRUTH = ["ang"] * 4 + ["hap"] * 2 + ["sad"] * 4
PREDICTION = ["ang", "ang", "ang", "sad", "hap", UNPARSED, "sad", "sad", "ang", UNSCORED]
LABELS = ["ang", "hap", "sad"]


def test_by_hand():
    assert unweighted_average_recall(TRUTH, PREDICTION, LABELS) == pytest.approx((3 / 4 + 1 / 2 + 2 / 4) / 3)
    assert weighted_accuracy(TRUTH, PREDICTION, LABELS) == pytest.approx(6 / 10)
    # F1 = 2 hits / (true + predicted): ang 6/8, hap 2/3, sad 4/7
    assert macro_f1(TRUTH, PREDICTION, LABELS) == pytest.approx((6 / 8 + 2 / 3 + 4 / 7) / 3)
    assert weighted_f1(TRUTH, PREDICTION, LABELS) == pytest.approx((4 * 6 / 8 + 2 * 2 / 3 + 4 * 4 / 7) / 10)
    assert confusion(TRUTH, PREDICTION, LABELS).tolist() == [[3, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 2, 0, 1]]


def test_with_an_absent_class_by_hand():
    labels = [*LABELS, "neu"]
    prediction = ["neu" if value == UNPARSED else value for value in PREDICTION]
    assert unweighted_average_recall(TRUTH, prediction, labels) == pytest.approx((3 / 4 + 1 / 2 + 2 / 4) / 3)
    assert macro_f1(TRUTH, prediction, labels) == pytest.approx((6 / 8 + 2 / 3 + 4 / 7) / 3)


@pytest.mark.parametrize("seed", range(10))
def test_against_scikit_learn_where_every_row_has_a_label(seed):
    generator = np.random.default_rng(seed)
    truth = [*LABELS, *generator.choice(LABELS, 60)]
    prediction = [*LABELS, *generator.choice(LABELS, 60)]
    assert unweighted_average_recall(truth, prediction, LABELS) == pytest.approx(
        sk.balanced_accuracy_score(truth, prediction)
    )
    assert weighted_accuracy(truth, prediction, LABELS) == pytest.approx(sk.accuracy_score(truth, prediction))
    assert macro_f1(truth, prediction, LABELS) == pytest.approx(sk.f1_score(truth, prediction, average="macro"))
    assert weighted_f1(truth, prediction, LABELS) == pytest.approx(sk.f1_score(truth, prediction, average="weighted"))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(10))
def test_counts_give_what_scikit_learn_gives(name, seed):
    """The intervals' fast path is the same metric, absent classes and rows without a label included."""
    generator = np.random.default_rng(seed)
    labels = ["w", "x", "y", "z"]
    truth = generator.choice(labels[: 2 + seed % 3], 30).tolist()
    prediction = generator.choice([*labels, UNPARSED, UNSCORED], 30).tolist()
    counts = confusion(truth, prediction, labels)
    expected = METRICS[name].from_labels(truth, prediction, labels)
    assert float(METRICS[name].from_counts(counts)) == pytest.approx(expected, abs=1e-12)
