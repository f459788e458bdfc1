"""Classification metrics over a fixed label set, on top of scikit-learn, and the content of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.statistics import STATISTICS, speaker_interval

__all__ = [
    "METRICS",
    "absent_labels",
    "confusion",
    "macro_f1",
    "recalls",
    "score",
    "score_table",
    "unweighted_average_recall",
    "weighted_accuracy",
    "weighted_f1",
]


def _check(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> None:
    if len(truth) != len(prediction):
        raise PredictionError(f"{len(truth)} truths but {len(prediction)} predictions; give one of each an utterance")
    if len(truth) == 0:
        raise PredictionError("no utterance to score; a metric over no class at all has no value")
    if len(set(labels)) != len(labels):
        raise PredictionError(f"the label set names a label twice: {list(labels)}")
    foreign = set(truth) - set(labels)
    if foreign:
        raise PredictionError(f"truth {sorted(map(str, foreign))[0]!r} is not in the label set {list(labels)}")


def _present(truth: Sequence[str], labels: Sequence[str]) -> list[str]:
    found = set(truth)
    return [label for label in labels if label in found]


def _array(values: Sequence[str]) -> npt.NDArray[np.str_]:
    return np.asarray(values, dtype=str)


def unweighted_average_recall(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the per-class recalls (UAR), also called unweighted accuracy (UA).

    A prediction outside ``labels``, ``UNPARSED`` included, is an error of its true class: it stays in that class's
    denominator. A class without an utterance in ``truth`` is left out of the mean.

    Args:
        truth: reference label of each utterance, N strings, each one of ``labels``
        prediction: predicted label of each utterance, N strings, in the order of ``truth``
        labels: label set of the task, K strings; fixes K even if a class is never predicted

    Returns:
        UAR as a fraction in [0, 1]

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> unweighted_average_recall(["ang", "ang", "sad"], ["ang", "<unparsed>", "sad"], ["ang", "sad"])
        0.75

    References:
        Schuller et al., INTERSPEECH 2009 Emotion Challenge.
    """
    _check(truth, prediction, labels)
    present = _present(truth, labels)
    return float(sk.recall_score(_array(truth), _array(prediction), labels=present, average="macro", zero_division=0.0))


def weighted_accuracy(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Fraction of utterances predicted right (WA): plain accuracy, in which frequent classes weigh more.

    A prediction outside ``labels`` is an error.

    Args:
        truth: reference label of each utterance, N strings, each one of ``labels``
        prediction: predicted label of each utterance, N strings
        labels: label set of the task, K strings

    Returns:
        WA as a fraction in [0, 1]

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> weighted_accuracy(["ang", "ang", "sad", "sad"], ["ang", "<unscored>", "sad", "sad"], ["ang", "sad"])
        0.75
    """
    _check(truth, prediction, labels)
    return float(sk.accuracy_score(_array(truth), _array(prediction)))


def macro_f1(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the per-class F1 scores: the harmonic means of precision and recall.

    A prediction outside ``labels`` lowers the recall of its true class and no precision. A class without an
    utterance in ``truth`` is left out of the mean; predictions of it are still errors of their true classes.

    Args:
        truth: reference label of each utterance, N strings, each one of ``labels``
        prediction: predicted label of each utterance, N strings
        labels: label set of the task, K strings

    Returns:
        macro F1 as a fraction in [0, 1]

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> round(macro_f1(["ang", "ang", "sad"], ["ang", "sad", "sad"], ["ang", "sad"]), 3)
        0.667

    References:
        Opitz and Burst, Macro F1 and Macro F1 (2019): this is the mean of F1 scores, not the F1 of means.
    """
    _check(truth, prediction, labels)
    present = _present(truth, labels)
    return float(sk.f1_score(_array(truth), _array(prediction), labels=present, average="macro", zero_division=0.0))


def weighted_f1(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the per-class F1 scores, weighted by each class's number of utterances in ``truth``.

    Args:
        truth: reference label of each utterance, N strings, each one of ``labels``
        prediction: predicted label of each utterance, N strings
        labels: label set of the task, K strings

    Returns:
        weighted F1 as a fraction in [0, 1]

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> round(weighted_f1(["ang", "ang", "ang", "sad"], ["ang", "ang", "ang", "ang"], ["ang", "sad"]), 3)
        0.643
    """
    _check(truth, prediction, labels)
    present = _present(truth, labels)
    return float(sk.f1_score(_array(truth), _array(prediction), labels=present, average="weighted", zero_division=0.0))


def recalls(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> dict[str, float | None]:
    """Recall of each class; None for a class without an utterance in ``truth``.

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> recalls(["ang", "ang"], ["ang", "sad"], ["ang", "sad"])
        {'ang': 0.5, 'sad': None}
    """
    _check(truth, prediction, labels)
    present = _present(truth, labels)
    values = sk.recall_score(_array(truth), _array(prediction), labels=present, average=None, zero_division=0.0)
    known = dict(zip(present, map(float, values), strict=True))
    return {label: known.get(label) for label in labels}


def confusion(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Counts of truth against prediction, with a place for rows without a label.

    Args:
        truth: reference label of each utterance, N strings, each one of ``labels``
        prediction: predicted label of each utterance, N strings
        labels: label set of the task, K strings

    Returns:
        shape (K, K + 2): a row a true class; columns the K labels, then unparsed (any other prediction outside
        ``labels`` included), then unscored; the sum is N

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> confusion(["ang", "ang", "sad"], ["ang", "<unparsed>", "ang"], ["ang", "sad"]).tolist()
        [[1, 0, 1, 0], [1, 0, 0, 0]]
    """
    _check(truth, prediction, labels)
    columns = [*labels, UNPARSED, UNSCORED]
    known = set(columns)
    mapped = [value if value in known else UNPARSED for value in prediction]
    counts = sk.confusion_matrix(_array(truth), _array(mapped), labels=columns)
    return np.asarray(counts[: len(labels)], dtype=np.int64)


def absent_labels(
    truth: Sequence[str], labels: Sequence[str], groups: Sequence[Hashable] | None = None
) -> dict[str, int]:
    """Classes left out of a mean, each with the number of groups (seeds, folds) that have no utterance of it.

    Args:
        truth: reference label of each utterance, N strings
        labels: label set of the task, K strings
        groups: seed or fold of each utterance, N values; None for one group

    Returns:
        label -> number of groups without it; only labels absent somewhere

    Example:
        >>> absent_labels(["ang", "sad", "sad"], ["ang", "sad", "hap"], groups=[1, 1, 2])
        {'ang': 1, 'hap': 2}
    """
    names = [0] * len(truth) if groups is None else list(groups)
    number = len(set(names))
    found: dict[str, set[Hashable]] = {label: set() for label in labels}
    for label, group in zip(truth, names, strict=True):
        found[label].add(group)
    return {label: number - len(seen) for label, seen in found.items() if len(seen) < number}


METRICS: dict[str, Callable[[Sequence[str], Sequence[str], Sequence[str]], float]] = {
    "uar": unweighted_average_recall,
    "weighted_accuracy": weighted_accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
}
"""Name in metrics.json -> function of truth, prediction and labels."""


def score_table(frame: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    """Score a table of any origin; folds are pooled per seed, then metrics averaged over seeds.

    Args:
        frame: columns ``corpus``, ``speaker`` (null where unknown), ``seed``, ``truth``, ``prediction``; N rows
        labels: the K labels

    Returns:
        plain data: n (rows) and how many are scored, unparsed, unscored; labels; absent_labels {label: seeds
        without it}; each metric with its 95% interval; recalls; confusion summed over seeds, shape (K, K + 2)

    Raises:
        PredictionError: if there is no row, or a truth is outside ``labels``
    """
    truth, prediction = frame["truth"].tolist(), frame["prediction"].tolist()
    _check(truth, prediction, labels)
    per_seed = [(part["truth"].tolist(), part["prediction"].tolist()) for _, part in frame.groupby("seed")]
    matrix = confusion(truth, prediction, labels)
    unparsed, unscored = (int(value) for value in matrix[:, len(labels) :].sum(axis=0))
    result: dict[str, Any] = {
        "n": len(truth),
        "n_scored": len(truth) - unparsed - unscored,
        "n_unparsed": unparsed,
        "n_unscored": unscored,
        "n_seeds": len(per_seed),
        "labels": list(labels),
        "absent_labels": absent_labels(truth, labels, frame["seed"].tolist()),
    }
    for name, metric in METRICS.items():
        interval = speaker_interval(frame, labels, STATISTICS[name])
        result[name] = {
            "value": float(np.mean([metric(*pair, labels) for pair in per_seed])),
            "low": interval.low,
            "high": interval.high,
            "method": interval.method,
            "n_clusters": interval.n_clusters,
        }
    each = [recalls(*pair, labels) for pair in per_seed]
    result["recalls"] = {}
    for label in labels:
        known = [value for values in each if (value := values[label]) is not None]
        result["recalls"][label] = float(np.mean(known)) if known else None
    result["confusion"] = {"columns": [*labels, UNPARSED, UNSCORED], "counts": matrix.tolist()}
    return result


def score(predictions: Predictions) -> dict[str, Any]:
    """The content of metrics.json for a table of one condition.

    Raises:
        PredictionError: if the table holds several conditions
    """
    conditions = sorted(predictions.frame["condition"].unique())
    if len(conditions) > 1:
        raise PredictionError(
            f"{predictions.source}: holds the conditions {conditions}; score one, chosen with of_condition(name)"
        )
    return score_table(predictions.frame, predictions.labels)
