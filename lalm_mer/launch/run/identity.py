"""The record of a run that begins, for run.json."""

from __future__ import annotations

from datetime import UTC, datetime

from lalm_mer.core.config import recorded, to_dict
from lalm_mer.core.names import AUDIO_SWAPPED, SIMULATED, UNCHANGED, uses_transcript
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.provenance import git_commit, package_versions
from lalm_mer.core.run_record import Balance, RunRecord
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.feature_run import encoder_notes, pretrained_models
from lalm_mer.launch.build.model_run import LoadedRun, recognizer_name
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings
from lalm_mer.protocols.classes import class_notes

__all__ = ["feature_identity", "loaded_identity", "run_identity"]


def loaded_identity(loaded: LoadedRun, method: str, notes: list[Note], condition: str = UNCHANGED) -> RunRecord:
    """``run_identity`` of a run with a pretrained model; ``notes`` are those on its adapter."""
    settings = loaded.settings
    return run_identity(
        settings,
        loaded.data,
        recognizer=recognizer_name(settings),
        base_model=recorded(settings).model.id,
        modalities=loaded.setup.modalities,
        method=method,
        hashes=loaded.hashes,
        notes=loaded.notes() + notes,
        condition=condition,
    )


def feature_identity(
    settings: BaselineSettings | LinearSettings, data: RunData, hashes: dict[str, str | None], method: str
) -> RunRecord:
    """``run_identity`` of a run over the features of encoders, whose parts name recognizer, modalities and models."""
    parts = settings.baseline if isinstance(settings, BaselineSettings) else settings.linear
    return run_identity(
        settings,
        data,
        recognizer=parts.name,
        base_model=pretrained_models(parts),
        modalities=parts.modalities,
        method=method,
        hashes=hashes,
        notes=encoder_notes(parts, data.folded, settings.split.fold),
    )


def run_identity(
    settings: ZeroShotSettings | FinetuneSettings | BaselineSettings | LinearSettings,
    data: RunData,
    *,
    recognizer: str,
    base_model: str | None,
    modalities: str,
    method: str,
    hashes: dict[str, str | None],
    notes: list[Note],
    condition: str = UNCHANGED,
) -> RunRecord:
    """The record of a run that begins now; arguments as in ``RunRecord``.

    Args:
        settings: resolved config
        data: train, dev and test of the fold
        notes: notes on model and utterances; those on data, condition and folds are added
    """
    folded, protocol = data.folded, data.folded.folds.protocol
    labels = folded.task.targets
    source = data.source.transcript_source if uses_transcript(modalities) else None
    return RunRecord(
        recognizer=recognizer,
        base_model=base_model,
        modalities=modalities,
        transcript_source=source,
        method=method,
        condition=condition,
        corpus=folded.corpus.name,
        synthetic=bool(folded.corpus.summary["synthetic"]),
        protocol=protocol.name,
        protocol_version=protocol.version,
        fold=settings.split.fold,
        seed=settings.seed,
        task=folded.task.name,
        labels=tuple(labels),
        unmapped=folded.unmapped,
        left_out=folded.folds.left_out[settings.split.fold],
        disjoint_in=tuple(protocol.disjoint_in),
        shared_in=tuple(protocol.shared_in),
        primary_metric=protocol.primary_metric,
        hashes=hashes,
        balance=None if data.balance is None else Balance(data.balance.before, data.balance.after),
        class_weights=dict(zip(labels, data.class_weights, strict=True)) if data.class_weights else None,
        notes=(*_notes(data, source, condition, notes), *class_notes(folded.classes.get(settings.split.fold, {}))),
        config=to_dict(settings),
        versions=package_versions(),
        git=git_commit(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=None,
        task_kind=folded.task.kind,
        ranges=folded.ranges,
    )


def _notes(data: RunData, source: str | None, condition: str, notes: list[Note]) -> tuple[Note, ...]:
    first = [Note(NoteCode.SIMULATED_TRANSCRIPTS)] if source == SIMULATED else []
    if condition == AUDIO_SWAPPED:
        first.append(Note(NoteCode.SWAPPED_AUDIO))
    same_speed = len(data.train.unchanged_speed) if isinstance(data.train, AugmentedExamples) else 0
    last = [Note(NoteCode.UNCHANGED_SPEED, "train", same_speed)] if same_speed else []
    return (*first, *notes, *last, *data.folded.folds.departures())
