"""Run folders as evaluation reads them: run.json, predictions.parquet, history.jsonl and metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.errors import PredictionError, one_line
from lalm_mer.core.names import ADAPTERS, FULL
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.run_record import METRICS_FILE, RUN_FILE, RunRecord, read_record
from lalm_mer.core.strict_json import read_object
from lalm_mer.evaluation.predictions import DEV_PREDICTIONS_FILE, PREDICTIONS_FILE, Predictions
from lalm_mer.evaluation.target_metrics import TargetMetric, default_metric, metric_called, metric_names
from lalm_mer.evaluation.target_statistics import values_by_seed

__all__ = ["Run", "read_dev_predictions", "read_run", "row_identity", "run_folders", "with_distinct_names"]

_AGREEMENT = 1e-6
_HISTORY = ("step", "epoch", "split", "loss")


@dataclass(frozen=True)
class Run:
    """A finished run: one recognizer, trained with one seed and tested on one fold.

    Args:
        name: its folder
        record: content of run.json
        predictions: rows of all conditions
        history: ``step``, ``epoch``, ``split``, ``loss`` and the metrics on dev; empty if nothing was trained in steps
        metrics: content of metrics.json; None if there is none
    """

    name: str
    record: RunRecord
    predictions: Predictions
    history: pd.DataFrame
    metrics: dict[str, Any] | None

    @property
    def seconds(self) -> float:
        """Duration of the run."""
        assert self.record.seconds is not None  # read_run refuses a run that has not ended
        return self.record.seconds


def read_run(folder: Path) -> Run:
    """Read and check a run folder.

    Raises:
        PredictionError: naming folder and file, if a file or key is missing, malformed, or contradicts another file
    """
    if not folder.is_dir():
        raise PredictionError(f"{folder}: no such run folder; expected one with run.json and predictions.parquet")
    record = read_record(folder / RUN_FILE)
    if record.seconds is None:
        raise PredictionError(f"{folder / RUN_FILE}: key 'seconds' is null: the run has not finished; resume it")
    names = metric_names(record.task_kind)
    if record.primary_metric not in names:
        raise PredictionError(
            f"{folder / RUN_FILE}: key 'primary_metric': expected one of {list(names)}, found {record.primary_metric!r}"
        )
    predictions = Predictions.read(folder / PREDICTIONS_FILE)
    _check_agreement(record, predictions)
    trained_here = record.method in (*ADAPTERS, FULL) and "adapter" not in record.hashes
    history = _read_history(folder / "history.jsonl", names, required=trained_here)
    metrics = None
    if (folder / METRICS_FILE).exists():
        metrics = read_object(folder / METRICS_FILE)
        _check_metrics(metrics, predictions.of_condition(record.condition), folder / METRICS_FILE)
    return Run(as_recorded(folder), record, predictions, history, metrics)


def row_identity(run: Run) -> tuple[str | None, ...]:
    """What the runs of one row of a comparison have in common."""
    of = run.record
    return (of.recognizer, of.modalities, of.method, of.transcript_source, of.condition, of.corpus, of.protocol)


def with_distinct_names(named: Sequence[tuple[str, Run]]) -> list[Run]:
    """The runs; where two systems have the same name in comparisons, that of the system is added to it.

    Args:
        named: name of the system, and the run
    """
    systems: dict[tuple[str | None, ...], set[str]] = {}
    for system, run in named:
        systems.setdefault(row_identity(run), set()).add(system)
    return [
        run
        if len(systems[row_identity(run)]) == 1
        else replace(run, record=replace(run.record, recognizer=f"{run.record.recognizer}, {system}"))
        for system, run in named
    ]


def run_folders(folder: Path) -> list[tuple[str | None, Path]]:
    """The runs in a folder: itself, or those of one system in it, or the output of a cross-validation.

    Returns:
        name of the system, which is that of the folder of its runs, and run folder; None for a run folder by itself

    Raises:
        PredictionError: if it has no runs
    """
    if (folder / RUN_FILE).is_file():
        return [(None, folder)]
    systems = _subfolders(folder / "runs") or [folder]
    found: list[tuple[str | None, Path]] = [(system.name, run) for system in systems for run in _subfolders(system)]
    if not any((run / RUN_FILE).is_file() for _, run in found):
        raise PredictionError(
            f"{folder}: no runs; expected a run folder, a folder of the runs of one system, or the output of "
            "recipes/cross_validate.py"
        )
    return found


def _subfolders(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [each for each in found if each.is_dir() and not each.name.startswith(".")]


def read_dev_predictions(run: Run, folder: Path) -> Predictions | None:
    """Dev predictions of a run in its own condition; None if it has none.

    Raises:
        PredictionError: if they are malformed, disagree with run.json, or contain an utterance of the test set
    """
    file = folder / DEV_PREDICTIONS_FILE
    if not file.is_file():
        return None
    dev = Predictions.read(file)
    _check_agreement(run.record, dev)
    tested = set(run.predictions.frame["utterance_id"])
    if both := tested.intersection(dev.frame["utterance_id"]):
        raise PredictionError(
            f"{file}: utterance {min(both)!r} is also in the test set ({len(both)} such); train or score it again"
        )
    return dev.of_condition(run.record.condition)


def _check_agreement(record: RunRecord, predictions: Predictions) -> None:
    source = predictions.source
    if predictions.kind != record.task_kind:
        raise PredictionError(f"{source}: is of task {predictions.kind!r}, but run.json has {record.task_kind!r}")
    if list(predictions.labels) != list(record.labels):
        raise PredictionError(f"{source}: labels {list(predictions.labels)}, but run.json has {list(record.labels)}")
    for key, value in (("corpus", record.corpus), ("fold", record.fold), ("seed", record.seed)):
        found = sorted(set(predictions.frame[key].tolist()))
        if found != [value]:
            raise PredictionError(f"{source}: column {key!r} contains {found}, but run.json has {value!r}")
    predictions.of_condition(record.condition)


def _check_metrics(metrics: dict[str, Any], predictions: Predictions, file: Path) -> None:
    """Refuse a metrics.json that does not follow from the predictions: it is stale or edited."""
    rows, metric = predictions.frame, metric_called(default_metric(predictions.kind))
    if isinstance(metric, TargetMetric):
        value = float(np.mean([values.mean() for values in values_by_seed(predictions, metric).values()]))
    else:
        value = metric.from_labels(rows["truth"].tolist(), rows["prediction"].tolist(), predictions.labels)
    lowest = -1 if predictions.kind == "scalar" else 0  # of CCC; the others are fractions
    entry = metrics.get(metric.name)
    stated = entry.get("value") if isinstance(entry, dict) else None
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not lowest <= stated <= 1:
        raise PredictionError(f"{file}: key '{metric.name}.value' is missing or no fraction; score the run again")
    if not math.isclose(stated, value, abs_tol=_AGREEMENT):
        raise PredictionError(
            f"{file}: {metric.short_title} {stated:.6f}, but predictions.parquet gives {value:.6f}; score the run again"
        )


def _read_history(file: Path, names: Sequence[str], *, required: bool) -> pd.DataFrame:
    if not file.exists() and not required:
        return pd.DataFrame(columns=[*_HISTORY, *names])
    if file.exists() and not file.is_file():
        raise PredictionError(f"{file}: is no file; expected lines of JSON")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PredictionError(f"{file}: cannot be read ({error.strerror}); did the training finish?") from error
    except UnicodeDecodeError as error:
        raise PredictionError(f"{file}: not UTF-8 ({one_line(error)}); train again") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PredictionError(f"{file}: line {number}: not valid JSON ({one_line(error)})") from error
        rows.append(_history_row(row, names, f"{file}: line {number}"))
    return pd.DataFrame(rows, columns=[*_HISTORY, *names])


def _history_row(row: object, names: Sequence[str], place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise PredictionError(f"{place}: expected a JSON object, found {type(row).__name__}")
    needed = (*_HISTORY, names[0]) if row.get("split") == "dev" else _HISTORY
    for key in dict.fromkeys([*needed, *(name for name in names if name in row)]):
        if key not in row:
            raise PredictionError(f"{place}: key {key!r} is missing; found {sorted(row)}")
        if key != "split" and (isinstance(row[key], bool) or not isinstance(row[key], int | float)):
            raise PredictionError(f"{place}: key {key!r}: expected a number, found {row[key]!r}")
    if row["split"] not in ("train", "dev"):
        raise PredictionError(f"{place}: key 'split': expected 'train' or 'dev', found {row['split']!r}")
    return {key: row.get(key) for key in (*_HISTORY, *names)}
