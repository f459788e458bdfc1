"""Classification metrics over a fixed label set, computed by scikit-learn, and the registry of metrics.

The metrics take truth, prediction and labels as ``unweighted_average_recall`` does, with the same errors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNPARSED, UNSCORED

__all__ = [
    "MAX_LABELS", "METRICS", "UAR", "Counts", "Floats", "Metric", "absent_labels", "confusion", "macro_f1", "recalls",
    "unweighted_average_recall", "weighted_accuracy", "weighted_f1",
]  # fmt: skip

MAX_LABELS = 100
"""Largest label set: memory grows with its square, and more labels are a column of something else."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
"""Confusion counts (..., K, K + 2). Row: true class; columns: the K classes, unparsed, unscored."""


@dataclass(frozen=True)
class Metric:
    """Properties of a metric for training, protocols, comparison, report and model card; greater is better.

    Args:
        name: key in metrics.json and history.jsonl, and value of a protocol's ``primary_metric``
        title: full name
        short_title: heading of a column
        column: column of comparison.csv
        from_labels: truth (N strings), prediction (N strings), labels (K strings) -> value
        from_counts: counts (..., K, K + 2) -> values (...): the same metric, fast for many subsets; NaN for subsets
            without an utterance
        synonym: another name, for the model card
        definition: explanation of an abbreviated heading
        bounds: lowest and highest value; intervals are clipped to them
        hub_type: name of the metric on the Hugging Face Hub, if it has one
        hub_average: average over classes of the Hub's metric, if it has one
    """

    name: str
    title: str
    short_title: str
    column: str
    from_labels: Callable[[Sequence[str], Sequence[str], Sequence[str]], float]
    from_counts: Callable[[Counts], Floats]
    synonym: str | None = None
    definition: str | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    hub_type: str | None = None
    hub_average: str | None = None

    @property
    def long_title(self) -> str:
        """The title with abbreviation and synonym, for example ``unweighted average recall (UAR)``."""
        others = [name for name in (self.short_title, self.synonym) if name not in (None, self.title)]
        return f"{self.title} ({', '.join(map(str, others))})" if others else self.title


_Strings = npt.NDArray[np.str_]


def _checked(
    truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]
) -> tuple[_Strings, _Strings, list[str]]:
    """Check the arguments of a metric; returns both sequences as arrays, and the labels that occur in ``truth``."""
    if len(truth) != len(prediction):
        raise PredictionError(f"{len(truth)} truths but {len(prediction)} predictions; give one of each per utterance")
    if len(truth) == 0:
        raise PredictionError("no utterance to score; a metric of no class has no value")
    if len(set(labels)) != len(labels):
        raise PredictionError(f"duplicate label in the label set: {list(labels)}")
    found = set(truth)
    unknown = found - set(labels)
    if unknown:
        raise PredictionError(f"truth {sorted(map(str, unknown))[0]!r} is not in the label set {list(labels)}")
    present = [label for label in labels if label in found]
    return np.asarray(truth, dtype=str), np.asarray(prediction, dtype=str), present


def _sklearn() -> Any:  # noqa: ANN401 a module
    from sklearn import metrics  # here, because it takes half a second and a run needs it only after its first batch

    return metrics


def unweighted_average_recall(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the per-class recalls (UAR), also called unweighted accuracy (UA).

    A prediction outside ``labels``, such as ``UNPARSED``, is an error of its true class. A class without an utterance
    in ``truth`` is left out of the mean.

    Args:
        truth: label of each utterance, N strings, each one of ``labels``
        prediction: predicted label of each utterance, N strings
        labels: label set of the task, K strings

    Returns:
        A fraction in [0, 1]

    Raises:
        PredictionError: if lengths differ, or ``truth`` is empty or has a label outside ``labels``

    Example:
        >>> unweighted_average_recall(["ang", "ang", "sad"], ["ang", "<unparsed>", "sad"], ["ang", "sad"])
        0.75

    References:
        Schuller et al., INTERSPEECH 2009 Emotion Challenge.
    """
    true, predicted, present = _checked(truth, prediction, labels)
    return float(_sklearn().recall_score(true, predicted, labels=present, average="macro", zero_division=0.0))


def weighted_accuracy(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Fraction of correct predictions (WA): plain accuracy, in which frequent classes have more weight.

    A prediction outside ``labels`` is an error.

    Example:
        >>> weighted_accuracy(["ang", "ang", "sad", "sad"], ["ang", "<unscored>", "sad", "sad"], ["ang", "sad"])
        0.75
    """
    true, predicted, _ = _checked(truth, prediction, labels)
    return float(_sklearn().accuracy_score(true, predicted))


def macro_f1(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the per-class F1 scores, the harmonic means of precision and recall.

    A prediction outside ``labels`` lowers the recall of its true class and no precision. A class without an
    utterance in ``truth`` is left out of the mean; predictions of it are still errors of their true classes.

    Example:
        >>> round(macro_f1(["ang", "ang", "sad"], ["ang", "sad", "sad"], ["ang", "sad"]), 3)
        0.667

    References:
        Opitz and Burst, Macro F1 and Macro F1 (2019): this is the mean of F1 scores, not the F1 of means.
    """
    true, predicted, present = _checked(truth, prediction, labels)
    return float(_sklearn().f1_score(true, predicted, labels=present, average="macro", zero_division=0.0))


def weighted_f1(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the per-class F1 scores, weighted by the number of utterances of each class in ``truth``.

    Example:
        >>> round(weighted_f1(["ang", "ang", "ang", "sad"], ["ang", "ang", "ang", "ang"], ["ang", "sad"]), 3)
        0.643
    """
    true, predicted, present = _checked(truth, prediction, labels)
    return float(_sklearn().f1_score(true, predicted, labels=present, average="weighted", zero_division=0.0))


def recalls(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> dict[str, float | None]:
    """Recall of each class; None for a class without an utterance in ``truth``.

    Example:
        >>> recalls(["ang", "ang"], ["ang", "sad"], ["ang", "sad"])
        {'ang': 0.5, 'sad': None}
    """
    true, predicted, present = _checked(truth, prediction, labels)
    values = _sklearn().recall_score(true, predicted, labels=present, average=None, zero_division=0.0)
    known = dict(zip(present, map(float, values), strict=True))
    return {label: known.get(label) for label in labels}


def confusion(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Counts of truth against prediction, shape (K, K + 2).

    One row per true class. Columns: the K labels, unparsed (with any other prediction outside ``labels``), unscored.

    Example:
        >>> confusion(["ang", "ang", "sad"], ["ang", "<unparsed>", "ang"], ["ang", "sad"]).tolist()
        [[1, 0, 1, 0], [1, 0, 0, 0]]
    """
    columns = [*labels, UNPARSED, UNSCORED]
    true, predicted, _ = _checked(truth, [value if value in columns else UNPARSED for value in prediction], labels)
    counts = _sklearn().confusion_matrix(true, predicted, labels=columns)
    return np.asarray(counts[: len(labels)], dtype=np.int64)


def absent_labels(
    truth: Sequence[str], labels: Sequence[str], groups: Sequence[Hashable] | None = None
) -> dict[str, int]:
    """Label -> number of groups without an utterance of it, for the labels that a group lacks.

    Args:
        truth: label of each utterance, N strings
        labels: label set of the task, K strings
        groups: seed or fold of each utterance, N values; None for one group

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


def _ratio(numerator: Floats | Counts, denominator: Floats | Counts) -> Floats:
    """Quotient, NaN where the denominator is zero."""
    wide = np.asarray(denominator, dtype=np.float64)
    quotient: Floats = np.full(np.broadcast(numerator, wide).shape, np.nan)
    np.divide(numerator, wide, out=quotient, where=wide > 0)
    return quotient


def _mean_of_present(values: Floats, present: npt.NDArray[np.bool_]) -> Floats:
    """Mean over classes that have an utterance; NaN where none has."""
    return _ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))


def _hits(counts: Counts) -> Counts:
    return np.asarray(np.diagonal(counts, axis1=-2, axis2=-1), dtype=np.int64)


def _f1(counts: Counts) -> Floats:
    classes = counts.shape[-2]
    return _ratio(2 * _hits(counts), counts.sum(axis=-1) + counts[..., :classes].sum(axis=-2))


def _unweighted_average_recall(counts: Counts) -> Floats:
    truths = counts.sum(axis=-1)
    return _mean_of_present(_ratio(_hits(counts), truths), truths > 0)


def _weighted_accuracy(counts: Counts) -> Floats:
    return _ratio(_hits(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def _macro_f1(counts: Counts) -> Floats:
    return _mean_of_present(_f1(counts), counts.sum(axis=-1) > 0)


def _weighted_f1(counts: Counts) -> Floats:
    truths = counts.sum(axis=-1)
    return _ratio(np.where(truths > 0, _f1(counts) * truths, 0.0).sum(axis=-1), truths.sum(axis=-1))


UAR = "uar"
"""The default primary metric, which selects the checkpoint on dev; comparisons test and plot it."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name=UAR, title="unweighted average recall", short_title="UAR", column="uar",
            from_labels=unweighted_average_recall, from_counts=_unweighted_average_recall,
            definition="mean of the recalls of the classes", hub_type="recall", hub_average="macro",
        ),
        Metric(
            name="weighted_accuracy", title="weighted accuracy", short_title="WA", column="wa",
            from_labels=weighted_accuracy, from_counts=_weighted_accuracy,
            synonym="plain accuracy", definition="fraction of correct predictions", hub_type="accuracy",
        ),
        Metric(
            name="macro_f1", title="macro F1", short_title="macro F1", column="macro_f1",
            from_labels=macro_f1, from_counts=_macro_f1, hub_type="f1", hub_average="macro",
        ),
        Metric(
            name="weighted_f1", title="weighted F1", short_title="weighted F1", column="weighted_f1",
            from_labels=weighted_f1, from_counts=_weighted_f1,
        ),
    )
}  # fmt: skip
"""Name -> metric, in the order of files and reports, UAR first. A new entry adds a metric to all of them."""
