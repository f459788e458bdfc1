"""Metrics of tasks with several labels or numbers, and which metrics each kind of task has.

All are functions of sums over utterances, so that a speaker is left out, or exchanged, by a subtraction. They count a
label as present if its score is at least ``THRESHOLD``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import PredictionError
from lalm_mer.evaluation.metrics import METRICS, Floats, Metric

__all__ = [
    "TARGET_METRICS", "THRESHOLD", "TargetMetric", "default_metric", "metric_called",
    "metric_names", "primary_metrics",
    "target_sums", "target_values",
]  # fmt: skip

THRESHOLD = 0.5
"""Score from which on a label counts as present."""
_CCC, _LABEL_F1 = "ccc", "label_f1"


@dataclass(frozen=True)
class TargetMetric:
    """A metric of each target of a ``multi`` or ``scalar`` task; its figure is the mean over the targets.

    Args:
        name: key in metrics.json and history.jsonl, and value of a protocol's ``primary_metric``
        kind: kind of the tasks that have it
        title: full name
        short_title: heading of a column
        from_sums: ``target_sums`` (..., T, M) -> value of each target (..., T)
        greater_is_better: whether it can select a checkpoint; not of errors
        is_share: whether it is a fraction that is shown in percent
    """

    name: str
    kind: str
    title: str
    short_title: str
    from_sums: Callable[[Floats], Floats]
    greater_is_better: bool = True
    is_share: bool = True

    @property
    def column(self) -> str:
        """Column of comparison.csv."""
        return self.name


def target_sums(kind: str, truth: Floats, score: Floats, ranges: Sequence[Sequence[float]] = ()) -> Floats:
    """What each utterance adds to the sums of the metrics.

    An unscored utterance, a row of NaN in ``score``, is an error: every label is the opposite of its truth, and every
    number is the end of its range that is farther from the truth.

    Args:
        kind: ``multi`` or ``scalar``
        truth: (N, T), 0 or 1, or numbers
        score: (N, T), probabilities of the labels, or numbers
        ranges: lowest and highest value of each of T numbers; only of a ``scalar`` task

    Returns:
        ``multi``: true positives, false positives, false negatives and true negatives, (N, T, 4). ``scalar``: one,
        truth, score, their squares and product, absolute and squared error, (N, T, 8)
    """
    unscored = np.isnan(score)
    if kind == "multi":
        present = truth > THRESHOLD
        found = np.where(unscored, ~present, np.where(unscored, 0.0, score) >= THRESHOLD)
        return np.stack([present & found, ~present & found, present & ~found, ~present & ~found], axis=-1).astype(float)
    if unscored.any():
        low, high = np.asarray(ranges, dtype=np.float64).T
        score = np.where(unscored, np.where(truth - low > high - truth, low, high), score)
    one, error = np.ones_like(truth), score - truth
    parts = [one, truth, score, truth**2, score**2, truth * score, np.abs(error), error**2]
    return np.asarray(np.stack(parts, axis=-1), dtype=np.float64)


def _quotient(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, 0 where the denominator is 0."""
    result = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    np.divide(numerator, denominator, out=result, where=denominator > _SMALL)
    return result


_SMALL = 1e-12  # of variances, below which a number is constant except for rounding


def _moments(sums: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Variances of truth and score, their covariance, and the squared difference of their means."""
    n, truth, score, truth2, score2, product = (sums[..., place] for place in range(6))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, mean_score = truth / n, score / n
        variance, score_variance = truth2 / n - mean**2, score2 / n - mean_score**2
        return variance, score_variance, product / n - mean * mean_score, (mean - mean_score) ** 2


def _ccc(sums: Floats) -> Floats:
    variance, score_variance, covariance, shift = _moments(sums)
    return _quotient(2 * covariance, variance + score_variance + shift)


def _pearson(sums: Floats) -> Floats:
    variance, score_variance, covariance, _ = _moments(sums)
    product = np.maximum(variance, 0) * np.maximum(score_variance, 0)
    return _quotient(covariance, np.sqrt(product))


def _mae(sums: Floats) -> Floats:
    return np.asarray(sums[..., 6] / sums[..., 0])


def _rmse(sums: Floats) -> Floats:
    return np.asarray(np.sqrt(sums[..., 7] / sums[..., 0]))


def _f1(hits: Floats, false: Floats, missed: Floats) -> Floats:
    return _quotient(2 * hits, 2 * hits + false + missed)


def _label_f1(sums: Floats) -> Floats:
    hits, false, missed, _ = np.moveaxis(sums, -1, 0)
    return _f1(hits, false, missed)


def _label_weighted_f1(sums: Floats) -> Floats:
    hits, false, missed, rejected = np.moveaxis(sums, -1, 0)
    present, absent = hits + missed, false + rejected
    weighted = present * _f1(hits, false, missed) + absent * _f1(rejected, missed, false)
    return _quotient(weighted, present + absent)


def _label_weighted_accuracy(sums: Floats) -> Floats:
    hits, false, missed, rejected = np.moveaxis(sums, -1, 0)
    sides = [(hits, hits + missed), (rejected, false + rejected)]
    recalls = sum(_quotient(right, total) for right, total in sides)
    return _quotient(np.asarray(recalls), np.asarray(sum((total > 0).astype(float) for _, total in sides)))


TARGET_METRICS = {
    metric.name: metric
    for metric in (
        TargetMetric(_CCC, "scalar", "concordance correlation coefficient", "CCC", _ccc, is_share=False),
        TargetMetric("pearson", "scalar", "Pearson correlation", "Pearson", _pearson, is_share=False),
        TargetMetric("mae", "scalar", "mean absolute error", "MAE", _mae, greater_is_better=False, is_share=False),
        TargetMetric(
            "rmse", "scalar", "root mean squared error", "RMSE", _rmse, greater_is_better=False, is_share=False
        ),
        TargetMetric(_LABEL_F1, "multi", "macro F1 over labels", "F1", _label_f1),
        TargetMetric("label_weighted_f1", "multi", "weighted F1, mean over labels", "weighted F1", _label_weighted_f1),
        TargetMetric(
            "label_weighted_accuracy", "multi", "weighted accuracy, mean over labels", "WA", _label_weighted_accuracy
        ),
    )
}
"""Name -> metric, in the order of files and reports, the default primary metric of each kind first.

``ccc`` (Lin 1989, Biometrics 45) and ``pearson`` are 0 if truth or score do not vary. ``label_f1`` is the F1 of the
presence of a label. ``label_weighted_accuracy`` (TP * N / P + TN) / (2 N), the mean of the recalls of presence and
absence (Tong et al. 2017, ACL), and ``label_weighted_f1``, the F1 of presence and absence weighted by their numbers,
are those of papers on CMU-MOSEI (Zadeh et al. 2018, ACL).
"""


def primary_metrics() -> tuple[str, ...]:
    """Names of the metrics that can select a checkpoint, of all kinds of tasks."""
    return (*METRICS, *(metric.name for metric in TARGET_METRICS.values() if metric.greater_is_better))


def metric_called(name: str) -> Metric | TargetMetric:
    """The metric of any kind of task with that name."""
    return METRICS[name] if name in METRICS else TARGET_METRICS[name]


def metric_names(kind: str) -> tuple[str, ...]:
    """Names of the metrics of a kind of task, the default first.

    Example:
        >>> metric_names("scalar")
        ('ccc', 'pearson', 'mae', 'rmse')
    """
    if kind == "single":
        return tuple(METRICS)
    return tuple(metric.name for metric in TARGET_METRICS.values() if metric.kind == kind)


def default_metric(kind: str) -> str:
    """The default primary metric of a kind of task: UAR, macro F1 over labels, or CCC."""
    return metric_names(kind)[0]


def target_values(
    kind: str,
    truth: npt.NDArray[np.floating],
    score: npt.NDArray[np.floating],
    ranges: Sequence[Sequence[float]] = (),
) -> Mapping[str, Floats]:
    """All metrics of each target, (T,); arguments as of ``target_sums``.

    Raises:
        PredictionError: if the shapes differ, or there is no utterance

    Example:
        >>> found = target_values("scalar", np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]]))
        >>> {name: float(value[0].round(3)) for name, value in found.items()}
        {'ccc': 0.857, 'pearson': 0.982, 'mae': 0.333, 'rmse': 0.577}
    """
    if truth.shape != score.shape or truth.ndim != 2 or not len(truth):
        raise PredictionError(
            f"truths of shape {truth.shape}, scores of {score.shape}; expected the same (N, T), N > 0"
        )
    sums = target_sums(kind, truth.astype(np.float64), score.astype(np.float64), ranges).sum(axis=0)
    return {name: TARGET_METRICS[name].from_sums(sums) for name in metric_names(kind)}
