"""Run folders as evaluation reads them: run.json, predictions.parquet, history.jsonl and metrics.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.names import MODALITIES, TRANSCRIPT_SOURCES, UNCHANGED, uses_transcript
from lalm_mer.evaluation.metrics import METRICS, UAR
from lalm_mer.evaluation.predictions import Predictions

__all__ = ["ADAPTERS", "METHODS", "Run", "read_run"]

ADAPTERS = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "vera": "VeRA", "ia3": "(IA)³", "oft": "OFT"}
"""Methods that train an adapter, and how they are written."""
METHODS = ("zero_shot", *ADAPTERS, "full", "baseline", "late_fusion")
_TRAINED_BY_STEPS = (*ADAPTERS, "full")
_FORMAT = 1
_AGREEMENT = 1e-6

_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "recognizer": (str,),
    "base_model": (str, type(None)),
    "modalities": (str,),
    "transcript_source": (str, type(None)),
    "method": (str,),
    "corpus": (str,),
    "synthetic": (bool,),
    "protocol": (str,),
    "protocol_version": (str, int),
    "fold": (int,),
    "seed": (int,),
    "task": (str,),
    "labels": (list,),
    "disjoint_in": (list,),
    "shared_in": (list,),
    "hashes": (dict,),
    "notes": (list,),
    "seconds": (int, float),
    "config": (dict,),
    "versions": (dict,),
    "git": (dict, str, type(None)),
    "started_at": (str,),
}
_HISTORY = ("step", "epoch", "split", "loss")


@dataclass(frozen=True)
class Run:
    """One recognizer, trained with one seed and tested on one fold.

    Args:
        name: the folder as it was given
        recognizer: name of the recognizer
        base_model: name or path of its base model; None where it has none
        modalities: one of ``MODALITIES``
        transcript_source: one of ``TRANSCRIPT_SOURCES``; ``simulated`` ones name the label; None where it reads none
        method: one of ``METHODS``
        condition: what was changed about the input of its test; ``none`` for nothing
        corpus: name of the corpus
        synthetic: whether the corpus is synthetic
        protocol: name of the protocol that made the folds
        protocol_version: its version
        fold: number of the fold
        seed: of the training
        task: name of the task
        labels: the K labels
        disjoint_in: columns in which train, dev and test share no value
        shared_in: columns in which the protocol lets them share values
        hashes: SHA-256 of ``data``, ``folds``, ``prompt`` and ``base_model``; None where there is none
        notes: sentences that a reader of its figures has to know
        seconds: of the whole run
        config: resolved config
        versions: package -> version
        git: commit of the code
        started_at: when the run began
        predictions: all of its rows, of every condition
        history: ``step``, ``epoch``, ``split``, ``loss`` and the metrics on dev; no row where nothing was trained step
            by step
        metrics: content of metrics.json; None where there is none
    """

    name: str
    recognizer: str
    base_model: str | None
    modalities: str
    transcript_source: str | None
    method: str
    condition: str
    corpus: str
    synthetic: bool
    protocol: str
    protocol_version: str
    fold: int
    seed: int
    task: str
    labels: tuple[str, ...]
    disjoint_in: tuple[str, ...]
    shared_in: tuple[str, ...]
    hashes: dict[str, str | None]
    notes: tuple[str, ...]
    seconds: float
    config: dict[str, Any]
    versions: dict[str, Any]
    git: Any
    started_at: str
    predictions: Predictions
    history: pd.DataFrame
    metrics: dict[str, Any] | None


def read_run(folder: Path) -> Run:
    """Read and check a run folder.

    Raises:
        PredictionError: naming folder and file, if a file or key is missing, malformed, or contradicts another file
    """
    if not folder.is_dir():
        raise PredictionError(f"{folder}: no such run folder; expected one that holds run.json and predictions.parquet")
    file = folder / "run.json"
    content = _read_object(file)
    _check_content(content, file)
    predictions = Predictions.read(folder / "predictions.parquet")
    _check_agreement(content, predictions)
    trained_here = content["method"] in _TRAINED_BY_STEPS and "adapter" not in content["hashes"]
    history = _read_history(folder / "history.jsonl", required=trained_here)
    metrics = None
    if (folder / "metrics.json").exists():
        metrics = _read_object(folder / "metrics.json")
        _check_metrics(metrics, predictions.of_condition(_condition(content)), folder / "metrics.json")
    values = {key: content[key] for key in _TYPES if key != "format"} | {"condition": _condition(content)}
    for key in ("labels", "disjoint_in", "shared_in", "notes"):
        values[key] = tuple(values[key])
    values["protocol_version"] = str(values["protocol_version"])
    return Run(name=str(folder), predictions=predictions, history=history, metrics=metrics, **values)


def _condition(content: dict[str, Any]) -> str:
    condition: str = content.get("condition", UNCHANGED)
    return condition


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PredictionError(f"{file}: cannot be read ({error.strerror}); did the run end?") from error
    except ValueError as error:
        raise PredictionError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise PredictionError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def _check_content(content: dict[str, Any], file: Path) -> None:
    for key, types in _TYPES.items():
        if key not in content:
            raise PredictionError(f"{file}: key {key!r} is missing; found {sorted(content)}")
        value = content[key]
        if key == "seconds" and value is None:
            raise PredictionError(f"{file}: key 'seconds' is null: the run has not ended; start it again to end it")
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise PredictionError(f"{file}: key {key!r}: expected {expected}, found {type(value).__name__} {value!r}")
    if content["format"] != _FORMAT:
        raise PredictionError(f"{file}: format {content['format']}, but this version reads format {_FORMAT}")
    for key, allowed in (("modalities", MODALITIES), ("method", METHODS)):
        if content[key] not in allowed:
            raise PredictionError(f"{file}: key {key!r}: expected one of {list(allowed)}, found {content[key]!r}")
    if not isinstance(_condition(content), str):
        raise PredictionError(f"{file}: key 'condition': expected a string, found {content['condition']!r}")
    source, needed = content["transcript_source"], uses_transcript(content["modalities"])
    if (source not in TRANSCRIPT_SOURCES) if needed else (source is not None):
        expected = f"one of {list(TRANSCRIPT_SOURCES)}" if needed else "null"
        raise PredictionError(
            f"{file}: key 'transcript_source': expected {expected} with modalities {content['modalities']}, "
            f"found {source!r}"
        )
    for key in ("labels", "disjoint_in", "shared_in", "notes"):
        if not all(isinstance(item, str) for item in content[key]):
            raise PredictionError(f"{file}: key {key!r}: expected a list of strings, found {content[key]!r}")
    for key in ("data", "folds", "prompt", "base_model"):
        if key not in content["hashes"]:
            raise PredictionError(f"{file}: key 'hashes.{key}' is missing; found {sorted(content['hashes'])}")
    for key in ("data", "folds"):
        if not isinstance(content["hashes"][key], str) or not content["hashes"][key]:
            raise PredictionError(f"{file}: key 'hashes.{key}': expected a hash, found {content['hashes'][key]!r}")


def _check_agreement(content: dict[str, Any], predictions: Predictions) -> None:
    source = predictions.source
    if list(predictions.labels) != content["labels"]:
        raise PredictionError(
            f"{source}: labels {list(predictions.labels)}, but run.json beside it has {content['labels']}"
        )
    for key in ("corpus", "fold", "seed"):
        found = sorted(set(predictions.frame[key].tolist()))
        if found != [content[key]]:
            raise PredictionError(
                f"{source}: column {key!r} holds {found}, but run.json beside it has {content[key]!r}"
            )
    predictions.of_condition(_condition(content))


def _check_metrics(metrics: dict[str, Any], predictions: Predictions, file: Path) -> None:
    """A metrics.json that does not follow from its predictions is stale or edited."""
    rows = predictions.frame
    metric = METRICS[UAR]
    value = metric.from_labels(rows["truth"].tolist(), rows["prediction"].tolist(), predictions.labels)
    try:
        stated = float(metrics[UAR]["value"])
    except (KeyError, TypeError, ValueError) as error:
        raise PredictionError(f"{file}: key '{UAR}.value' is missing or not a number; score the run again") from error
    if not math.isclose(stated, value, abs_tol=_AGREEMENT):
        raise PredictionError(
            f"{file}: {metric.short_title} {stated:.6f}, but predictions.parquet gives {value:.6f}; score the run again"
        )


def _read_history(file: Path, required: bool) -> pd.DataFrame:
    if not file.exists() and not required:
        return pd.DataFrame(columns=[*_HISTORY, *METRICS])
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PredictionError(f"{file}: cannot be read ({error.strerror}); did the training end?") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PredictionError(f"{file}: line {number}: not valid JSON ({error})") from error
        rows.append(_history_row(row, f"{file}: line {number}"))
    return pd.DataFrame(rows, columns=[*_HISTORY, *METRICS])


def _history_row(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise PredictionError(f"{place}: expected a JSON object, found {type(row).__name__}")
    needed = (*_HISTORY, UAR) if row.get("split") == "dev" else _HISTORY
    for key in dict.fromkeys([*needed, *(name for name in METRICS if name in row)]):
        if key not in row:
            raise PredictionError(f"{place}: key {key!r} is missing; found {sorted(row)}")
        if key != "split" and (isinstance(row[key], bool) or not isinstance(row[key], int | float)):
            raise PredictionError(f"{place}: key {key!r}: expected a number, found {row[key]!r}")
    if row["split"] not in ("train", "dev"):
        raise PredictionError(f"{place}: key 'split': expected 'train' or 'dev', found {row['split']!r}")
    return {key: row.get(key) for key in (*_HISTORY, *METRICS)}
