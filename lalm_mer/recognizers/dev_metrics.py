"""Metrics of the dev set while a recognizer is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lalm_mer.evaluation.metrics import METRICS
from lalm_mer.evaluation.target_metrics import target_values
from lalm_mer.recognizers.base import as_scores, require_numbers

__all__ = ["dev_metrics"]


def dev_metrics(
    kind: str, targets: Sequence[str], truth: npt.NDArray[Any], scores: npt.NDArray[np.floating]
) -> dict[str, float]:
    """All metrics of a kind of task; those of several targets are means over them.

    Args:
        kind: ``single``, ``multi`` or ``scalar``
        targets: the K labels, or the T numbers
        truth: (N, T) targets; of a ``single`` task also (N, 1), the index of each label
        scores: (N, T) log-probabilities, logits of the labels, or numbers

    Raises:
        ModelError: if a score is NaN
    """
    require_numbers(scores, "dev")
    if kind != "single":
        values = target_values(kind, truth, as_scores(kind, scores))
        return {name: float(of_targets.mean()) for name, of_targets in values.items()}
    indices = truth[:, 0] if truth.shape[1] == 1 else truth.argmax(axis=1)
    names = [targets[index] for index in indices]
    predicted = [targets[index] for index in scores.argmax(axis=1)]
    return {name: metric.from_labels(names, predicted, targets) for name, metric in METRICS.items()}
