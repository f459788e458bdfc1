"""The content of metrics.json: all metrics of a table of predictions with intervals, recalls and confusion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.evaluation.conventions import without_unparsed
from lalm_mer.evaluation.metrics import METRICS, absent_labels, confusion, recalls
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.statistics import speaker_intervals
from lalm_mer.evaluation.target_statistics import score_targets
from lalm_mer.evaluation.votes import vote_metrics

__all__ = ["score", "score_table"]


def score_table(frame: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    """Score a table; folds are pooled per seed, then metrics are averaged over seeds.

    Args:
        frame: columns ``corpus``, ``speaker`` (null where unknown), ``seed``, ``truth``, ``prediction``; N rows
        labels: the K labels

    Returns:
        Plain data: numbers of rows in all, scored, unparsed and unscored; labels; absent_labels {label: seeds without
        it}; each of ``METRICS`` with its 95% interval; without_unparsed {metric: value if the unparsed rows are left
        out, None if no row is left}; recalls; confusion summed over seeds, shape (K, K + 2)

    Raises:
        PredictionError: if there is no row, or a truth is outside ``labels``
    """
    truth, prediction = frame["truth"].tolist(), frame["prediction"].tolist()
    matrix = confusion(truth, prediction, labels)
    per_seed = [(part["truth"].tolist(), part["prediction"].tolist()) for _, part in frame.groupby("seed")]
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
    intervals = speaker_intervals(frame, labels, METRICS.values())
    for metric in METRICS.values():
        mean = float(np.mean([metric.from_labels(*pair, labels) for pair in per_seed]))
        result[metric.name] = {"value": mean, **asdict(intervals[metric.name])}
    parsed = [part for _, part in without_unparsed(frame, labels).groupby("seed")]
    result["without_unparsed"] = {
        metric.name: _mean(metric.from_labels(list(part["truth"]), list(part["prediction"]), labels) for part in parsed)
        for metric in METRICS.values()
    }
    recalls_by_seed = [recalls(*pair, labels) for pair in per_seed]
    result["recalls"] = {}
    for label in labels:
        result["recalls"][label] = _mean(value for part in recalls_by_seed if (value := part[label]) is not None)
    result["confusion"] = {"columns": [*labels, UNPARSED, UNSCORED], "counts": matrix.tolist()}
    return result


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def score(predictions: Predictions) -> dict[str, Any]:
    """The content of metrics.json for a table of one condition: ``score_table``, or ``score_targets`` of other kinds.

    If the corpus has votes of raters, ``votes`` has ``vote_metrics``.

    Raises:
        PredictionError: if the table has several conditions
    """
    conditions = sorted(predictions.frame["condition"].unique())
    if len(conditions) > 1:
        raise PredictionError(f"{predictions.source}: contains conditions {conditions}; choose one by of_condition")
    if predictions.kind != "single":
        return score_targets(predictions)
    votes = predictions.votes
    of_votes = {} if votes is None else {"votes": vote_metrics(votes, predictions.scores)}
    return score_table(predictions.frame, predictions.labels) | of_votes
