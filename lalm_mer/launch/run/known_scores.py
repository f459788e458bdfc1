"""Scores that other runs of the same recognizer have of the same utterances, so that none is scored twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lalm_mer.core.names import UNCHANGED
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.run_record import RUN_FILE, RunRecord, has_results, read_record
from lalm_mer.core.settings import changeable_keys
from lalm_mer.evaluation.predictions import PREDICTIONS_FILE, Predictions
from lalm_mer.examples.dataset import ExampleDataset
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.recognizers.score_journal import ScoreJournal

__all__ = ["add_known"]

_OF_A_FOLD = {"split.fold", "seed"}


def add_known(journal: ScoreJournal, record: RunRecord, examples: ExampleDataset, folders: Sequence[Path]) -> None:
    """Add to the journal of a zero-shot run what finished runs on other folds or with other seeds have scored.

    Their inputs, model, prompt and settings must be equal. Scores that are averaged over prompts, or relative to a
    prompt without content, are not taken, since the parts are not known.

    Args:
        journal: of the test set
        record: of the run
        examples: the N scored test examples
        folders: of other runs; those that are not finished or not equal are left out

    Raises:
        PredictionError: if a finished run is malformed
    """
    prompt = record.config["prompt"]
    several = prompt["also"] or prompt["label_orders"] > 1 or prompt["label_score"] == "pmi"
    if record.condition != UNCHANGED or several:
        return
    position = {name: index for index, name in enumerate(examples.utterances()["utterance_id"])}
    for folder in folders:
        if not has_results(folder) or not _is_equal(record, read_record(folder / RUN_FILE)):
            continue
        predictions = Predictions.read(folder / PREDICTIONS_FILE).of_condition(record.condition)
        frame = predictions.frame[predictions.frame["status"] != "unscored"]
        frame = frame[[name in position and position[name] not in journal.results for name in frame["utterance_id"]]]
        if frame.empty:
            continue
        positions = [position[name] for name in frame["utterance_id"]]
        generated = frame["answer"].notna().all()
        log_probs = replace(predictions, frame=frame).scores
        journal.add(positions, list(frame["answer"]) if generated else log_probs)
        print(f"{len(positions)} of {len(position)} test utterances are scored in {as_recorded(folder)}", flush=True)  # noqa: T201


def _is_equal(record: RunRecord, other: RunRecord) -> bool:
    """Whether the other run would give the same scores to the same utterances."""
    ignored = {*changeable_keys(ZeroShotSettings), *_OF_A_FOLD}
    same = ("recognizer", "modalities", "method", "condition", "corpus", "labels", "hashes")
    return all(getattr(record, key) == getattr(other, key) for key in same) and (
        _kept(record.config, ignored) == _kept(other.config, ignored)
    )


def _kept(config: Mapping[str, Any], ignored: set[str], section: str = "") -> dict[str, Any]:
    """The config without keys that change no score."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{section}{name}"
        if key not in ignored:
            kept[name] = _kept(value, ignored, f"{key}.") if isinstance(value, Mapping) else value
    return kept
