"""What a run is, as run.json tells evaluation; two processes of one run must agree on its config and hashes."""

from __future__ import annotations

from typing import Any

from lalm_mer.core.config import to_dict
from lalm_mer.core.names import AUDIO_SWAPPED, SIMULATED, UNCHANGED, uses_transcript
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.transcripts import SIMULATED_NOTE
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings

__all__ = ["run_identity"]

_SWAPPED_NOTE = "Each test utterance was heard with the audio of another one; what is above chance was not heard."


def run_identity(
    settings: ZeroShotSettings | FinetuneSettings | BaselineSettings,
    data: RunData,
    *,
    recognizer: str,
    base_model: str | None,
    modalities: str,
    method: str,
    digests: dict[str, str | None],
    notes: list[str],
    condition: str = UNCHANGED,
) -> dict[str, Any]:
    """Content of run.json, less versions and times.

    Args:
        settings: resolved config
        data: corpus, task and folds
        recognizer: name shown in comparisons
        base_model: Hub id or folder
        modalities: one of ``MODALITIES``
        method: ``zero_shot``, the kind of adapter, or ``baseline``
        digests: of prompt and base model
        notes: what a reader of the figures has to know
        condition: one of ``CONDITIONS``, under which the test set is scored
    """
    protocol = data.folded.folds.protocol
    labels = data.folded.label_set.labels
    if isinstance(data.train, AugmentedExamples):
        digests = digests | {"augmentation": data.train.augmentation.digest()}
        if data.train.keep_their_speed:
            notes = [*notes, f"{len(data.train.keep_their_speed)} training utterances keep their speed: near a limit."]
    summary = data.folded.corpus.summary
    source = data.source.transcript_source if uses_transcript(modalities) else None
    if source is not None and data.source.transcripts is not None:
        digests = digests | {"transcripts": data.source.transcripts.digest}
    return {
        "recognizer": recognizer,
        "base_model": base_model,
        "modalities": modalities,
        "transcript_source": source,
        "method": method,
        "condition": condition,
        "corpus": data.folded.corpus.name,
        "synthetic": bool(summary["synthetic"]),
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "fold": settings.split.fold,
        "seed": settings.seed,
        "task": data.folded.task.name,
        "labels": list(labels),
        "unmapped": data.folded.unmapped,
        "left_out": data.folded.folds.left_out[settings.split.fold],
        "disjoint_in": protocol.disjoint_in,
        "shared_in": protocol.shared_in,
        "primary_metric": protocol.primary_metric,
        "hashes": {"data": summary["root_hash"], "folds": data.folded.folds.digest, **digests},
        "balance": None if data.balance is None else data.balance.to_dict(),
        "class_weights": dict(zip(labels, data.class_weights, strict=True)) if data.class_weights else None,
        "notes": [
            *([SIMULATED_NOTE] if source == SIMULATED else []),
            *([_SWAPPED_NOTE] if condition == AUDIO_SWAPPED else []),
            *notes,
            *(f"Split: {line}." for line in data.folded.folds.departures()),
        ],
        "config": to_dict(settings),
    }
