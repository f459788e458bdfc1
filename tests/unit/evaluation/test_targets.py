"""Figures of several labels and numbers: metrics against scikit-learn and scipy, tables, votes and paired tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy
from sklearn.metrics import balanced_accuracy_score, f1_score, mean_absolute_error

from lalm_mer.core.errors import PredictionError
from lalm_mer.evaluation.predictions import EvaluatedSplit, Predictions
from lalm_mer.evaluation.report.text import figure_text
from lalm_mer.evaluation.scores import score
from lalm_mer.evaluation.target_metrics import TARGET_METRICS, target_values
from lalm_mer.evaluation.target_statistics import paired_target_test
from lalm_mer.evaluation.votes import vote_metrics

RANGES = ((1.0, 5.0), (1.0, 5.0))
N = 40


def scalar_table(noise: float, *, seed: int = 0, unscored: int = 0, speakers: int = 8) -> Predictions:
    """Numbers of two dimensions with errors of a size."""
    random = np.random.default_rng(7)
    truth = random.uniform(1, 5, (N, 2))
    values = truth + noise * np.random.default_rng(seed).standard_normal((N, 2))
    values[:unscored] = np.nan
    names = [f"u{number:02}" for number in range(N)]
    split = EvaluatedSplit(
        names, [f"s{number % speakers}" for number in range(N)], [], ["arousal", "valence"], "demo", 1, seed=0,
        targets=truth, ranges=RANGES,
    )  # fmt: skip
    return Predictions.from_targets(split, "scalar", values)


def test_metrics_of_numbers():
    table = scalar_table(0.7)
    found = target_values("scalar", table.truths, table.scores, RANGES)
    for place in range(2):
        truth, value = table.truths[:, place], table.scores[:, place]
        covariance = np.cov(truth, value, bias=True)[0, 1]
        ccc = 2 * covariance / (truth.var() + value.var() + (truth.mean() - value.mean()) ** 2)
        assert found["ccc"][place] == pytest.approx(ccc)
        assert found["pearson"][place] == pytest.approx(scipy.stats.pearsonr(truth, value).statistic)
        assert found["mae"][place] == pytest.approx(mean_absolute_error(truth, value))
        assert found["rmse"][place] == pytest.approx(np.sqrt(np.mean((truth - value) ** 2)))


def test_a_constant_number_has_no_correlation():
    found = target_values("scalar", np.array([[1.0], [2.0], [4.0]]), np.full((3, 1), 2.0))
    assert (found["ccc"][0], found["pearson"][0]) == (0.0, 0.0)


def test_metrics_of_several_labels():
    random = np.random.default_rng(0)
    truth, scores = random.integers(0, 2, (N, 3)).astype(float), random.uniform(size=(N, 3))
    found = target_values("multi", truth, scores)
    for place in range(3):
        predicted = scores[:, place] >= 0.5
        assert found["label_f1"][place] == pytest.approx(f1_score(truth[:, place], predicted))
        assert found["label_weighted_f1"][place] == pytest.approx(
            f1_score(truth[:, place], predicted, average="weighted")
        )
        accuracy = balanced_accuracy_score(truth[:, place], predicted)
        assert found["label_weighted_accuracy"][place] == pytest.approx(accuracy)


def test_an_unscored_utterance_is_as_wrong_as_it_can_be():
    found = score(scalar_table(0.0, unscored=1))
    truth = scalar_table(0.0).truths[0]
    farthest = np.maximum(truth - 1, 5 - truth)
    assert found["mae"]["value"] == pytest.approx(farthest.mean() / N)
    assert (found["n"], found["n_unscored"], found["n_scored"]) == (N, 1, N - 1)
    labels = target_values("multi", np.array([[1.0], [0.0]]), np.array([[np.nan], [np.nan]]))
    assert labels["label_weighted_accuracy"][0] == 0.0


def test_a_table_is_written_read_and_scored_the_same(tmp_path):
    table = scalar_table(0.5, unscored=2)
    table.write(tmp_path / "predictions.parquet")
    again = Predictions.read(tmp_path / "predictions.parquet")
    assert (again.kind, again.labels, again.ranges) == ("scalar", ("arousal", "valence"), RANGES)
    filled = [frame.drop(columns=["truth", "prediction", "answer"]) for frame in (again.frame, table.frame)]
    pd.testing.assert_frame_equal(*filled, check_dtype=False)
    assert score(again) == score(table)
    text = figure_text(score(table))
    assert text.startswith("CCC 0.")
    assert "(arousal 0." in text
    assert text.endswith("n = 40 (2 unscored)")


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("status", "unparsed", "expected scored or unscored"),
        ("truth", "happy", "the columns truth_ and score_ have them"),
        ("truth_arousal", np.nan, "a truth that is no finite number"),
        ("score_valence", np.inf, "contradicts its scores"),
        ("task", "multi", "of task 'multi', expected 'scalar'"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(column, value, what):
    table = scalar_table(0.5)
    frame = table.frame.copy()
    frame[column] = frame[column].astype(object)
    frame.loc[3, column] = value
    with pytest.raises(PredictionError, match=what):
        Predictions(frame, table.labels, kind="scalar", ranges=RANGES)


def test_a_better_recognizer_is_found_and_an_equal_one_is_not():
    metric = TARGET_METRICS["ccc"]
    good, bad, equal = scalar_table(0.3), scalar_table(3.0, seed=1), scalar_table(0.3, seed=2)
    result = paired_target_test(good, bad, metric)
    assert result.difference == pytest.approx(score(good)["ccc"]["value"] - score(bad)["ccc"]["value"])
    assert result.p_value == result.smallest_p == 2 / 2**8
    assert result.method == "all 2^8 exchanges of predictions by speaker"
    assert paired_target_test(good, equal, metric).p_value > 0.05
    assert paired_target_test(good, good, metric).p_value == 1.0
    assert paired_target_test(scalar_table(0.3, speakers=20), scalar_table(3.0, speakers=20), metric).p_value < 0.001
    fewer = Predictions(good.frame.iloc[1:].reset_index(drop=True), good.labels, kind="scalar", ranges=RANGES)
    with pytest.raises(PredictionError, match="score different utterances: 'u00'"):
        paired_target_test(good, fewer, metric)


def test_votes_are_compared_with_probabilities_where_both_are_known():
    votes = np.array([[0.75, 0.25], [1.0, 0.0], [np.nan, np.nan], [0.0, 1.0]])
    log_probs = np.log([[0.75, 0.25], [0.5, 0.5], [0.9, 0.1], [0.8, 0.2]])
    found = vote_metrics(votes, log_probs)
    assert found["n"] == 3
    assert found["kl"] == pytest.approx((0 + np.log(2) - np.log(0.2)) / 3)
    assert found["accuracy_any_vote"] == pytest.approx(2 / 3)
    mean = np.array([1.75, 1.25]) / 3
    expected = np.mean([scipy.stats.entropy(row, mean) for row in votes[[0, 1, 3]]])
    assert found["kl_of_mean"] == pytest.approx(expected)
    assert vote_metrics(votes[2:3], log_probs[2:3]) == {
        "n": 0, "kl": None, "cross_entropy": None, "kl_of_mean": None, "accuracy_any_vote": None
    }  # fmt: skip


def test_votes_are_columns_of_a_table_of_labels(tmp_path):
    votes = np.array([[0.75, 0.25], [np.nan, np.nan]])
    split = EvaluatedSplit(["u1", "u2"], ["s1", "s2"], ["a", "b"], ["a", "b"], "demo", 1, seed=0, votes=votes)
    table = Predictions.from_scores(split, np.log([[0.5, 0.5], [0.4, 0.6]]))
    table.write(tmp_path / "predictions.parquet")
    again = Predictions.read(tmp_path / "predictions.parquet")
    np.testing.assert_array_equal(again.votes, votes)
    assert score(again)["votes"]["n"] == 1
    wrong = table.frame.assign(vote_a=[0.9, np.nan])
    with pytest.raises(PredictionError, match="shares of votes that are negative or do not sum to 1"):
        Predictions(wrong, table.labels)
