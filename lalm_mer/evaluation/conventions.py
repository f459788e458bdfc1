"""Figures by other conventions: per fold and per seed, mean over folds, and without unparsed answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.labels import UNSCORED
from lalm_mer.core.output import atomic_path
from lalm_mer.core.plain_text import plain_cells
from lalm_mer.evaluation.metrics import METRICS
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.target_metrics import metric_names, target_values

__all__ = ["values_by_part", "values_of", "without_unparsed", "write_values"]

_OfValues = Callable[[list[float]], float | None]


def without_unparsed(frame: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """The rows whose prediction is a label or unscored."""
    return frame[frame["prediction"].isin([*labels, UNSCORED])]


def values_by_part(frame: pd.DataFrame, labels: Sequence[str]) -> list[dict[str, Any]]:
    """All metrics of every part of a table, and their means and standard deviations (ddof 1) over folds and over seeds.

    Each row has ``part`` (fold_and_seed, seed: its folds pooled, fold: mean over seeds, mean_over_seeds,
    sd_over_seeds, mean_over_folds, sd_over_folds), ``fold``, ``seed``, ``unparsed`` (error, left_out), ``n``, and the
    columns of ``METRICS``, which are None where there is no value. Classes without an utterance in a part are left out
    of its means.

    Args:
        frame: columns ``fold``, ``seed``, ``truth``, ``prediction``
        labels: the K labels
    """
    figures = partial(_metrics, labels=labels)
    return [
        row | {"unparsed": convention}
        for convention, chosen in (("error", frame), ("left_out", without_unparsed(frame, labels)))
        for row in _of_convention(frame, chosen, figures)
    ]


def values_of(predictions: Predictions) -> list[dict[str, Any]]:
    """``values_by_part`` of predictions of any kind of task; only a ``single`` one has unparsed answers."""
    if predictions.kind == "single":
        return values_by_part(predictions.frame, predictions.labels)

    def figures(part: pd.DataFrame) -> dict[str, float | None]:
        if part.empty:
            return dict.fromkeys(metric_names(predictions.kind))
        chosen = replace(predictions, frame=part)
        found = target_values(predictions.kind, chosen.truths, chosen.scores, predictions.ranges)
        return {name: float(values.mean()) for name, values in found.items()}

    frame = predictions.frame
    return [row | {"unparsed": "error"} for row in _of_convention(frame, frame, figures)]


def write_values(values: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of ``values_by_part`` as CSV, atomically."""
    with atomic_path(path) as partial:
        plain_cells(pd.DataFrame(values)).to_csv(partial, index=False, encoding="utf-8")


def _of_convention(
    frame: pd.DataFrame, chosen: pd.DataFrame, figures: Callable[[pd.DataFrame], dict[str, float | None]]
) -> Iterator[dict[str, Any]]:
    by_seed, by_fold = [], []
    seeds, folds = (sorted(frame[name].unique().tolist(), key=_order) for name in ("seed", "fold"))
    for seed in seeds:
        of_seed = chosen[chosen["seed"] == seed]
        by_seed.append(figures(of_seed))
        yield _row("seed", by_seed[-1], len(of_seed), seed=seed)
    for fold in folds:
        of_fold = []
        for seed in seeds:
            part = chosen[(chosen["fold"] == fold) & (chosen["seed"] == seed)]
            of_fold.append(figures(part))
            yield _row("fold_and_seed", of_fold[-1], len(part), fold=fold, seed=seed)
        by_fold.append(_over(of_fold, _mean))
        yield _row("fold", by_fold[-1], int((chosen["fold"] == fold).sum()), fold=fold)
    for name, values in (("seeds", by_seed), ("folds", by_fold)):
        yield _row(f"mean_over_{name}", _over(values, _mean), len(chosen))
        yield _row(f"sd_over_{name}", _over(values, _deviation), len(chosen))


def _order(value: object) -> tuple[int, str]:
    """Numbers in their order, also if written as texts."""
    return len(str(value)), str(value)


def _metrics(part: pd.DataFrame, labels: Sequence[str]) -> dict[str, float | None]:
    truth, prediction = part["truth"].tolist(), part["prediction"].tolist()
    return {
        metric.column: metric.from_labels(truth, prediction, labels) if truth else None for metric in METRICS.values()
    }


def _over(parts: Iterable[Mapping[str, float | None]], function: _OfValues) -> dict[str, float | None]:
    """A function of the known values of each metric."""
    found = list(parts)
    return {name: function([value for part in found if (value := part[name]) is not None]) for name in found[0]}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _row(part: str, metrics: Mapping[str, float | None], n: int, **place: object) -> dict[str, Any]:
    return {"part": part, "fold": None, "seed": None, "n": n, **place, **metrics}
