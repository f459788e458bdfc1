"""Figures and paired tests of tasks with several labels or numbers, from sums by speaker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.errors import PredictionError
from lalm_mer.evaluation.intervals import Interval
from lalm_mer.evaluation.metrics import Floats, unweighted_average_recall
from lalm_mer.evaluation.prediction_checks import TRUTH
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.statistics import PairedTest, sign_flip_test, speakers_of
from lalm_mer.evaluation.target_metrics import TARGET_METRICS, TargetMetric, default_metric, metric_names, target_sums

__all__ = ["default_by_seed", "paired_target_test", "score_targets", "values_by_seed"]

_NO_INTERVAL = "uninformative: no interval of this metric has been validated by simulation"


def _sums(predictions: Predictions) -> Floats:
    """What each row adds to the sums of the metrics, (N, T, M)."""
    return target_sums(predictions.kind, predictions.truths, predictions.scores, predictions.ranges)


def values_by_seed(predictions: Predictions, metric: TargetMetric) -> dict[int, Floats]:
    """Seed -> value of a metric for each of T targets, folds pooled."""
    sums, seeds = _sums(predictions), predictions.frame["seed"].to_numpy()
    return {int(seed): metric.from_sums(sums[seeds == seed].sum(axis=0)) for seed in np.unique(seeds)}


def default_by_seed(predictions: Predictions) -> dict[int, float]:
    """Seed -> UAR, or the default metric of another kind of task, folds pooled; in the order of the rows."""
    seeds = [int(seed) for seed in predictions.frame["seed"].unique()]
    if predictions.kind != "single":
        found = values_by_seed(predictions, TARGET_METRICS[default_metric(predictions.kind)])
        return {seed: float(found[seed].mean()) for seed in seeds}
    by_seed = {}
    for seed in seeds:
        part = predictions.frame[predictions.frame["seed"] == seed]
        truth, prediction = part["truth"].tolist(), part["prediction"].tolist()
        by_seed[seed] = unweighted_average_recall(truth, prediction, predictions.labels)
    return by_seed


def _no_interval(frame: pd.DataFrame) -> Interval:
    return Interval(None, None, _NO_INTERVAL, None if frame["speaker"].isna().any() else speakers_of(frame).nunique())


def score_targets(predictions: Predictions) -> dict[str, Any]:
    """The content of metrics.json of a ``multi`` or ``scalar`` task; folds are pooled per seed, then seeds averaged.

    Returns:
        Plain data: ``kind``; numbers of rows in all, scored, unparsed (none) and unscored; ``targets``; of each metric
        its ``value``, the mean over targets, an interval as in other tables (none has been validated for these
        metrics), and ``by_target``; for ``multi`` also ``present``, the number of rows that have each label
    """
    frame, targets = predictions.frame, predictions.labels
    unscored = int((frame["status"] == "unscored").sum())
    result: dict[str, Any] = {
        "kind": predictions.kind,
        "n": len(frame),
        "n_scored": len(frame) - unscored,
        "n_unparsed": 0,
        "n_unscored": unscored,
        "n_seeds": int(frame["seed"].nunique()),
        "targets": list(targets),
    }
    interval = _no_interval(frame)
    for name in metric_names(predictions.kind):
        values = np.mean(list(values_by_seed(predictions, TARGET_METRICS[name]).values()), axis=0)
        result[name] = {
            "value": float(values.mean()),
            "low": interval.low,
            "high": interval.high,
            "method": interval.method,
            "n_clusters": interval.n_clusters,
            "by_target": dict(zip(targets, map(float, values), strict=True)),
        }
    if predictions.kind == "multi":
        present = predictions.truths.sum(axis=0)
        result["present"] = {target: int(n) for target, n in zip(targets, present, strict=True)}
    return result


def paired_target_test(
    a: Predictions, b: Predictions, metric: TargetMetric, names: tuple[str, str] = ("a", "b")
) -> PairedTest:
    """Test whether a metric of two recognizers differs, by exchanging their predictions of whole speakers.

    If the recognizers are equally good, which of them made the predictions of a speaker makes no difference, so every
    exchange is equally likely. Rows of several seeds are pooled. For a metric that is a sum over speakers this is the
    sign flip of ``paired_test``.

    Args:
        a: predictions of the first recognizer
        b: predictions of the second one, of the same utterances
        metric: its mean over the targets is compared
        names: names of the two in errors

    Raises:
        PredictionError: if the two tables differ in utterances, truths or speakers

    References:
        Good, Permutation, Parametric and Bootstrap Tests of Hypotheses (2005), on matched pairs.
    """
    _require_same(a, b, names)
    by_speaker = [_of_speakers(table) for table in (a, b)]
    first, second = (np.stack([sums[speaker] for speaker in sorted(sums)]) for sums in by_speaker)  # (S, T, M)

    def value(sums: Floats) -> Floats:
        return np.asarray(metric.from_sums(sums).mean(axis=-1))

    observed = float(value(first.sum(axis=0)) - value(second.sum(axis=0)))
    unknown = a.frame["speaker"].isna().any()
    count, n = len(first), len(a.frame[["utterance_id", "fold"]].drop_duplicates())
    interval = _no_interval(a.frame)
    if unknown:
        return PairedTest(observed, interval, None, None, None, n, "no test: speakers are unknown")
    if count < 2:
        return PairedTest(observed, interval, None, None, count, n, "no test: one speaker")
    whole, difference = (first + second).sum(axis=0), first - second

    def statistic(signed: Floats, axis: int) -> Floats:
        signs = np.moveaxis(np.sign(signed), axis, -1)
        changed = np.tensordot(signs, difference, axes=1)  # (..., T, M)
        return value((whole + changed) / 2) - value((whole - changed) / 2)

    # which speakers are exchanged is the signs of their numbers
    p_value, smallest, how = sign_flip_test(np.arange(1.0, count + 1), statistic, "exchanges")
    return PairedTest(observed, interval, p_value, smallest, count, n, f"{how} of predictions by speaker")


def _of_speakers(predictions: Predictions) -> dict[str, Floats]:
    """Speaker -> sums over its rows; one entry if any speaker is unknown."""
    frame, sums = predictions.frame, _sums(predictions)
    if frame["speaker"].isna().any():
        return {"": sums.sum(axis=0)}
    names = speakers_of(frame).to_numpy()
    return {str(name): sums[names == name].sum(axis=0) for name in np.unique(names)}


def _require_same(a: Predictions, b: Predictions, names: tuple[str, str]) -> None:
    columns = ["speaker", *(TRUTH + target for target in a.labels)]
    tables = []
    for table in (a, b):
        first = table.frame.drop_duplicates(["utterance_id", "fold"]).set_index(["utterance_id", "fold"])
        tables.append(first[columns].sort_index())
    only = tables[0].index.symmetric_difference(tables[1].index)
    if len(only):
        raise PredictionError(
            f"{names[0]} and {names[1]} score different utterances: {only[0][0]!r} is in one only, {len(only)} differ; "
            "run both on the same folds"
        )
    if not tables[0].equals(tables[1]):
        raise PredictionError(
            f"{names[0]} and {names[1]} disagree on truths or speakers of the same utterances; score both on the same "
            "data"
        )
