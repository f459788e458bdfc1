"""Fabricated tables and runs for tests of the evaluation; they are not results."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.names import FROM_CORPUS, uses_transcript
from lalm_mer.core.provenance import Commit
from lalm_mer.core.run_record import Parameters, RunRecord
from lalm_mer.evaluation.predictions import EvaluatedSplit, Predictions
from lalm_mer.evaluation.results import Difference, Figure, ResultRow, Results
from lalm_mer.evaluation.scores import score

LABELS = ("angry", "happy", "neutral", "sad")


def fabricated_predictions(
    *, skill: float = 0.6, fold: int = 1, seed: int = 0, labels=LABELS, corpus: str = "fabricated", speakers: int = 4,
    per_speaker: int = 24, unscored: int = 0, condition: str = "none", stream: int = 0,
) -> Predictions:  # fmt: skip
    """A table whose truth depends only on the fold, and whose scores depend on skill, seed and stream."""
    generator = np.random.default_rng([fold, seed, stream])
    count = speakers * per_speaker
    truth = np.arange(count) % len(labels)
    scores = generator.normal(size=(count, len(labels)))
    by_speaker = np.repeat(np.random.default_rng([fold, stream]).normal(0, 0.5, speakers), per_speaker)
    scores[np.arange(count), truth] += 4 * skill - 1 + by_speaker
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    scores[:unscored] = np.nan
    ids = [f"f{fold}u{index:03d}" for index in range(count)]
    speakers = [f"f{fold}s{index // per_speaker}" for index in range(count)]
    true = [labels[index] for index in truth]
    split = EvaluatedSplit(ids, speakers, true, labels, corpus, fold, seed, condition)
    return Predictions.from_scores(split, scores)


def fabricated_record(**changed: Any) -> RunRecord:
    content = {
        "recognizer": "fabricated_lalm", "base_model": "fabricated/base-7B", "modalities": "audio", "method": "lora",
        "condition": "none", "corpus": "fabricated", "synthetic": False, "protocol": "speaker_folds",
        "protocol_version": 1, "fold": 1, "seed": 0, "task": "fabricated_4", "labels": LABELS, "unmapped": 7,
        "left_out": 0, "disjoint_in": ("speaker",), "shared_in": ("script",), "primary_metric": "uar",
        "hashes": {"data": "d" * 64, "folds": "f" * 64, "prompt": "a" * 64, "base_model": "b" * 64},
        "balance": None, "class_weights": None, "notes": (),
        "config": {"train": {"learning_rate": 2e-5}, "split": {"fold": 1}},
        "versions": {"python": "3.11.2", "torch": "2.13.0"}, "git": Commit("c0ffee", modified=False),
        "started_at": "2026-01-01T00:00:00+00:00", "seconds": 12.5,
    }  # fmt: skip
    content |= changed
    source = FROM_CORPUS if uses_transcript(str(content["modalities"])) else None
    return RunRecord(**{"transcript_source": source} | content)


def fabricated_run_json(**changed: Any) -> dict[str, Any]:
    return fabricated_record(**changed).to_json()


def write_history(folder: Path, seed: int, skill: float) -> None:
    generator = np.random.default_rng(seed)
    lines = []
    for step in range(1, 41):
        loss = 1.4 * np.exp(-step * skill / 20) + 0.05 * generator.normal()
        lines.append({"step": step, "epoch": step / 10, "split": "train", "loss": float(loss)})
        if step % 10 == 0:
            uar = min(0.95, 0.25 + skill * step / 50 + 0.02 * generator.normal())
            lines.append({"step": step, "epoch": step / 10, "split": "dev", "loss": float(loss) + 0.1,
                          "uar": float(uar), "weighted_accuracy": float(uar)})  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def with_unparsed(predictions: Predictions, rows: int) -> Predictions:
    """The same table whose first rows are answers that name no label."""
    frame = predictions.frame.copy()
    frame.loc[: rows - 1, ["status", "prediction", "answer"]] = ["unparsed", UNPARSED, "hm"]
    return Predictions(frame, predictions.labels)


def fabricate_run(
    parent: Path, name: str, *, skill: float = 0.6, unscored: int = 0, stream: int = 0, **changed: Any
) -> Path:
    """Write a fabricated run folder; other keywords change its run.json."""
    folder = parent / name
    folder.mkdir(parents=True)
    content = fabricated_run_json(**changed)
    if "config" not in changed:
        content["config"] = {"train": {"learning_rate": 2e-5}, "split": {"fold": content["fold"]}}
    predictions = fabricated_predictions(
        skill=skill,
        fold=content["fold"],
        seed=content["seed"],
        labels=tuple(content["labels"]),
        corpus=content["corpus"],
        unscored=unscored,
        condition=content["condition"],
        stream=stream,
    )
    predictions.write(folder / "predictions.parquet")
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "metrics.json").write_text(json.dumps(score(predictions)))
    if content["method"] == "lora":
        write_history(folder, content["seed"], skill)
    return folder


def fabricated_results(**changed: Any) -> Results:
    """Two systems, of which the second is a zero-shot model with random weights and one of two seeds."""

    def figure(value: float, low: float | None = None, high: float | None = None, sd: float | None = None) -> Figure:
        return Figure(value, low, high, 24, {"0": value}, sd, value - 0.01, 0.02)

    def row(system: str, uar: Figure, **of_row: Any) -> ResultRow:
        content = {
            "system": system, "label": f"the {system}", "recognizer": system, "base_model": None, "method": "baseline",
            "modalities": "audio", "transcript_source": None, "condition": "none", "random_weights": False,
            "seeds": (0, 1), "n": 1440, "n_unparsed": 0, "n_unscored": 0,
            "metrics": {"uar": uar, "weighted_accuracy": uar, "macro_f1": figure(0.5), "weighted_f1": figure(0.5)},
            "minutes_per_seed": 75.9, "parameters": Parameters(50_992, 60_000), "peak_gpu_bytes": None,
            "peak_process_bytes": 3 * 2**29, "notes": (),
        }  # fmt: skip
        return ResultRow(**content | of_row)

    second = row(
        "second", figure(0.2), method="zero_shot", base_model="local model", modalities="audio+transcript",
        transcript_source="asr", random_weights=True, seeds=(0,), n_unscored=3, minutes_per_seed=0.21,
        parameters=None, peak_gpu_bytes=20 * 2**30, peak_process_bytes=None, notes=("randomly_initialised",),
    )  # fmt: skip
    test = Difference("second", "first", -0.3, -0.4, -0.2, 0.0001, 0.0001, 0.0002, "sign flips")
    content = {
        "title": "Fabricated", "corpus": "fabricated", "synthetic": True, "protocol": "speaker_folds",
        "protocol_version": 1, "task": "four", "task_kind": "single", "n_classes": 4, "primary_metric": "uar",
        "tested_metric": "uar", "folds": (1, 2, 3), "seeds": (0, 1), "reference": "first",
        "rows": (row("first", figure(0.5, 0.44, 0.56, 0.01)), second), "differences": (test,), "gains": (test,),
        "command": "python recipes/cross_validate.py --config recipes/ravdess/cross_validate.yaml", "machine": None,
        "commits": (Commit("c0ffee" * 4, modified=True),), "versions": {"python": ("3.11.2", "3.12.1")},
        "first_day": "2026-01-01", "last_day": "2026-02-03",
    }  # fmt: skip
    return Results(**content | changed)
