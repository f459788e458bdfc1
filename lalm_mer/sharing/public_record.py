"""The part of a run's record that is shared: an explicit list of fields, settings, hashes and facts.

Nothing else is shared, so no path, utterance id, speaker or transcript in any field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NewType

from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.provenance import PACKAGES
from lalm_mer.core.run_record import Balance, Counts, ModelRecord, RunRecord
from lalm_mer.models.adapter_kinds import KINDS

__all__ = ["SHARED_SETTINGS", "PublicRecord", "base_name", "public_record"]

PublicRecord = NewType("PublicRecord", RunRecord)
"""A record that may be shared, the result of ``public_record``."""

SHARED_SETTINGS = (
    "seed", "objective", "data.transcript_source", "data.without_audio", "split.fold",
    "prompt.shots", "prompt.context_turns", "prompt.label_orders", "prompt.label_score",
    "model.family", "model.dtype", "model.attn_implementation", "model.quantization",
    "adapter.kind", "adapter.towers", "adapter.full", "adapter.r", "adapter.lora_alpha", "adapter.lora_dropout",
    "adapter.use_rslora", "adapter.use_dora",
    "balance.sampling", "balance.direction", "balance.max_per_class", "balance.max_per_group", "balance.class_weights",
    "augment.speed.p", "augment.speed.min_rate", "augment.speed.max_rate",
    "augment.reverb.p", "augment.reverb.min_rt60_s", "augment.reverb.max_rt60_s",
    "augment.noise.p", "augment.noise.min_snr_db", "augment.noise.max_snr_db", "augment.noise.color",
    "augment.gain.p", "augment.gain.min_gain_db", "augment.gain.max_gain_db",
    "augment.mp3.p", "augment.mp3.min_bitrate_kbps", "augment.mp3.max_bitrate_kbps",
    "train.num_train_epochs", "train.max_steps", "train.learning_rate", "train.per_device_train_batch_size",
    "train.gradient_accumulation_steps", "train.lr_scheduler_type", "train.warmup_steps", "train.weight_decay",
    "train.max_grad_norm", "train.eval_strategy", "train.eval_steps", "train.bf16", "train.fp16",
    "train.gradient_checkpointing", "train.early_stopping_patience",
)  # fmt: skip
"""Settings that may be shared, as section.key; names and numbers, never a path."""
_HASHES = ("data", "folds", "prompt", "base_model")
_FACTS = ("corpus", "protocol", "fold", "expected", "trained", "used", "max_new_tokens")
_NOT_SHARED = (NoteCode.CONTAMINATION, NoteCode.MISSING_CLASSES, NoteCode.FEW_UTTERANCES)


def public_record(record: RunRecord, model: ModelRecord, published: str | None, revision: str | None) -> PublicRecord:
    """The record that is shared, of a run that trained an adapter.

    Args:
        record: the complete record
        model: its base model
        published: Hub id of the base model; None for a folder, of which the last name is shared
        revision: branch, tag or commit of ``published``
    """
    base = published or base_name(model.id)
    return PublicRecord(
        RunRecord(
            recognizer=f"{model.family} ({base_name(base)})",
            base_model=base,
            modalities=record.modalities,
            transcript_source=record.transcript_source,
            method=record.method,
            condition=record.condition,
            corpus=record.corpus,
            synthetic=record.synthetic,
            protocol=record.protocol,
            protocol_version=record.protocol_version,
            fold=record.fold,
            seed=record.seed,
            task=record.task,
            labels=record.labels,
            unmapped=record.unmapped,
            left_out=record.left_out,
            disjoint_in=record.disjoint_in,
            shared_in=record.shared_in,
            primary_metric=record.primary_metric,
            hashes={name: record.hashes[name] for name in _HASHES},
            balance=record.balance and _without_groups(record.balance, record.labels),
            class_weights=record.class_weights and {label: record.class_weights[label] for label in record.labels},
            notes=tuple(_public_note(note) for note in record.notes if note.code not in _NOT_SHARED),
            config=_public_config(record, base, revision),
            versions={name: record.versions.get(name) for name in ("python", *PACKAGES)},
            git=record.git,
            started_at=record.started_at,
            seconds=record.seconds,
        )
    )


def base_name(model_id: str) -> str:
    """The last name of a path, or of a Hub id.

    Example:
        >>> base_name("/home/jane/models/my_model/"), base_name(r"C:\\\\jane\\\\my_model")
        ('my_model', 'my_model')
    """
    return re.split(r"[/\\]", model_id.rstrip("/\\"))[-1]


def _without_groups(balance: Balance, labels: Sequence[str]) -> Balance:
    """The counts of classes only, since groups may be speakers."""
    before, after = (
        Counts(counts.examples, {label: counts.classes.get(label, 0) for label in labels})
        for counts in (balance.before, balance.after)
    )
    return Balance(before, after)


def _public_note(note: Note) -> Note:
    return Note(note.code, note.split, note.n, facts={key: note.facts[key] for key in _FACTS if key in note.facts})


def _public_config(record: RunRecord, base: str, revision: str | None) -> dict[str, Any]:
    options = (f"adapter.options.{name}" for name in KINDS[record.method].options)
    public: dict[str, Any] = {"model": {"id": base, "revision": revision}}
    for setting in (*SHARED_SETTINGS, *options):
        *sections, key = setting.split(".")
        found: Any = record.config
        for section in sections:
            found = found.get(section, {})
        if key in found:
            place = public
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = found[key]
    return public
