import numpy as np
import pandas as pd
import pytest
from fabricated import fabricated_predictions, with_unparsed

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.evaluation.metrics import (
    METRICS,
    absent_labels,
    confusion,
    recalls,
    unweighted_average_recall,
)
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.scores import score, score_table

LABELS = ["a", "b", "c"]


def random_pairs(seed: int, labels=LABELS, count: int = 200):
    generator = np.random.default_rng(seed)
    truth = generator.choice(labels, count, p=[0.6, 0.3, 0.1]).tolist()
    prediction = generator.choice([*labels, UNPARSED, UNSCORED, "other"], count).tolist()
    return truth, [t if generator.random() < 0.4 else p for t, p in zip(truth, prediction, strict=True)]


@pytest.mark.parametrize("name", METRICS)
def test_order_of_rows_and_names_of_labels_do_not_matter(name):
    metric = METRICS[name].from_labels
    truth, prediction = random_pairs(1)
    value = metric(truth, prediction, LABELS)
    order = np.random.default_rng(0).permutation(len(truth))
    assert metric([truth[i] for i in order], [prediction[i] for i in order], LABELS) == pytest.approx(value, abs=1e-12)
    renamed = {"a": "zorn", "b": "ärger", "c": "0", UNPARSED: UNPARSED, UNSCORED: UNSCORED, "other": "other"}
    again = metric([renamed[t] for t in truth], [renamed[p] for p in prediction], ["0", "zorn", "ärger"])
    assert again == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("failed", [UNPARSED, UNSCORED, "no such label"])
def test_a_row_without_a_label_counts_as_an_error(name, failed):
    metric = METRICS[name].from_labels
    truth = ["a", "a", "b", "b"]
    perfect = metric(truth, ["a", "a", "b", "b"], LABELS)
    assert perfect == 1.0
    assert metric(truth, ["a", failed, "b", "b"], LABELS) < metric(truth[:1] + truth[2:], ["a", "b", "b"], LABELS)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_no_class_and_unknown_truths_are_errors(name):
    metric = METRICS[name].from_labels
    with pytest.raises(PredictionError, match="no utterance"):
        metric([], [], LABELS)
    with pytest.raises(PredictionError, match="'d' is not in the label set"):
        metric(["d"], ["a"], LABELS)
    with pytest.raises(PredictionError, match="2 truths but 1 predictions"):
        metric(["a", "b"], ["a"], LABELS)
    with pytest.raises(PredictionError, match="duplicate label"):
        metric(["a"], ["a"], ["a", "a"])


def test_an_absent_class_is_left_out_of_the_mean_and_named():
    truth, prediction = ["a", "a", "b"], ["a", "c", "b"]
    assert unweighted_average_recall(truth, prediction, LABELS) == pytest.approx(0.75)
    assert recalls(truth, prediction, LABELS) == {"a": 0.5, "b": 1.0, "c": None}
    assert absent_labels(truth, LABELS) == {"c": 1}
    assert absent_labels(truth, LABELS, groups=[1, 1, 2]) == {"a": 1, "b": 1, "c": 2}


def test_confusion_counts_every_row():
    truth, prediction = random_pairs(2)
    counts = confusion(truth, prediction, LABELS)
    assert counts.shape == (3, 5)
    assert counts.sum() == len(truth)
    assert counts[:, 3].sum() == sum(p in (UNPARSED, "other") for p in prediction)
    assert counts[:, 4].sum() == prediction.count(UNSCORED)
    assert counts.sum(axis=1).tolist() == [truth.count(label) for label in LABELS]


def test_score_of_a_table_agrees_with_its_parts():
    predictions = with_unparsed(fabricated_predictions(unscored=0), 5)
    frame = predictions.frame
    result = score(predictions)
    assert (result["n"], result["n_scored"], result["n_unparsed"], result["n_unscored"]) == (96, 91, 5, 0)
    for name, metric in METRICS.items():
        expected = metric.from_labels(frame["truth"].tolist(), frame["prediction"].tolist(), predictions.labels)
        assert result[name]["value"] == pytest.approx(expected)
        assert result[name]["low"] < expected < result[name]["high"]
        assert result[name]["n_clusters"] == 4
    assert np.sum(result["confusion"]["counts"]) == 96
    assert result["confusion"]["columns"] == [*predictions.labels, UNPARSED, UNSCORED]
    assert result["absent_labels"] == {}


def test_folds_are_pooled_and_seeds_averaged():
    tables = [fabricated_predictions(fold=fold, seed=seed) for seed in (0, 1, 2) for fold in (1, 2)]
    pooled = Predictions.concat(tables)
    by_seed = [
        unweighted_average_recall(part["truth"].tolist(), part["prediction"].tolist(), pooled.labels)
        for _, part in pooled.frame.groupby("seed")
    ]
    result = score(pooled)
    assert result["uar"]["value"] == pytest.approx(np.mean(by_seed))
    assert len(set(by_seed)) == 3
    assert result["n_seeds"] == 3


def test_several_conditions_are_not_mixed():
    both = Predictions.concat([fabricated_predictions(), fabricated_predictions(condition="snr_10")])
    with pytest.raises(PredictionError, match="conditions"):
        score(both)


def test_absent_classes_are_counted_by_seed():
    frame = pd.DataFrame(
        {"corpus": "c", "speaker": ["s", "t"] * 3, "seed": [0, 0, 0, 0, 1, 1], "truth": list("aabbaa"),
         "prediction": list("aabbab")}
    )  # fmt: skip
    result = score_table(frame, LABELS)
    assert result["absent_labels"] == {"b": 1, "c": 2}
    assert result["recalls"] == {"a": 0.75, "b": 1.0, "c": None}
