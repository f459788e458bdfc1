"""Fabricated tables and runs for tests of the evaluation; they are not results."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.names import FROM_CORPUS, uses_transcript
from lalm_mer.core.provenance import Commit
from lalm_mer.core.run_record import RunRecord
from lalm_mer.evaluation.predictions import EvaluatedSplit, Predictions

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
