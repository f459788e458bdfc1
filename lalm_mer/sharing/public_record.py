"""The part of a run's record that is shared: an explicit list of fields, settings, hashes and facts.

Nothing else is shared, so no field contains a path, an utterance id, a speaker or a transcript.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NewType

from transformers import SchedulerType

from lalm_mer.core import names
from lalm_mer.core.errors import AdapterError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.provenance import PACKAGES
from lalm_mer.core.run_record import Balance, Counts, ModelRecord, RunRecord
from lalm_mer.core.settings import settings_of
from lalm_mer.examples.balancing import DIRECTIONS, SAMPLINGS
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.families import model_names
from lalm_mer.protocols.protocol import COLUMNS
from lalm_mer.recognizers.baselines.settings import NetworkSettings
from lalm_mer.sharing.hub_ids import has_id_form

__all__ = [
    "NETWORK_SETTINGS", "NETWORK_WORDS", "SHARED_SETTINGS", "SHARED_WORDS", "PublicRecord", "check_text", "is_hash",
    "is_module_path", "is_name", "is_plain", "is_revision", "is_version", "picked", "public_baseline_record",
    "public_record", "public_version",
]  # fmt: skip

PublicRecord = NewType("PublicRecord", RunRecord)
"""A record that may be shared, the result of ``public_record`` or ``public_baseline_record``."""

SHARED_SETTINGS = (
    "seed", "loss.kind", "loss.soft_labels", "loss.focal_gamma", "loss.logit_adjustment", "loss.label_smoothing",
    "data.transcript_source", "data.without_audio", "split.fold",
    "prompt.shots", "prompt.context_turns", "prompt.label_orders", "prompt.label_score",
    "model.family", "model.dtype", "model.attn_implementation", "model.full_window", "model.quantization",
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
    "train.gradient_checkpointing", "train.early_stopping_patience", "train.train_sampling_strategy",
    "train.packing", "train.tokens_per_batch", "train.auto_find_batch_size", "train.optim",
)  # fmt: skip
"""Settings that may be shared, as section.key; names and numbers, never a path."""
_SEQUENCE = (
    "kind", "channels", "layers", "kernel_size", "stride", "heads", "dropout", "batch_norm", "pooling", "noise_std",
    "shift_std", "time_mask", "feature_mask", "conv2d.layers", "conv2d.channels", "conv2d.kernel_size", "conv2d.stride",
)  # fmt: skip
_AUDIO_ENCODER = (
    "kind", "feature_set", "level", "bands", "hop_ms", "coefficients", "trim_db", "model", "revision", "layers",
    "pooled",
)  # fmt: skip
_TEXT_ENCODER = (
    "kind", "model", "revision", "layers", "learning_rate", "pooled", "scratch.layers", "scratch.size", "scratch.heads",
    "scratch.vocabulary_size", "scratch.word_dropout", "scratch.dropout", "scratch.max_tokens", "embeddings.unit",
    "embeddings.size", "embeddings.vocabulary_size", "embeddings.word_dropout", "embeddings.max_tokens",
    "tfidf.longest_ngram", "tfidf.least_count", "tfidf.vocabulary_size", "tfidf.sublinear",
)  # fmt: skip
NETWORK_SETTINGS = (
    "modalities",
    "audio.normalisation", *(f"audio.sequence.{key}" for key in _SEQUENCE),
    "transcript.normalisation", *(f"transcript.sequence.{key}" for key in _SEQUENCE),
    *(f"audio.encoder.{key}" for key in _AUDIO_ENCODER),
    *(f"transcript.encoder.{key}" for key in _TEXT_ENCODER), "transcript.context_turns",
    "fusion.kind", "fusion.size", "fusion.heads", "fusion.layers", "fusion.rank", "fusion.dropout",
    "head.hidden", "head.dropout",
)  # fmt: skip
"""Settings of a baseline network that may be shared; the only texts are choices, Hub ids and their revisions."""
SHARED_WORDS = frozenset(
    {
        *names.TRANSCRIPT_SOURCES, *names.LABEL_SCORES, *names.DTYPES, *names.ATTENTION, *names.QUANTIZATIONS,
        *names.LOSSES, *names.OPTIMIZERS, *KINDS, *SAMPLINGS, *DIRECTIONS, *(kind.value for kind in SchedulerType),
        "refuse", "read", "epoch", "steps", "none", "balanced", "white", "random", "group_by_length",
        "audio_tower", "projector", "language_model",
    }
)  # fmt: skip
"""Values of settings and notes that are text, besides families, modules and the base model."""
_LOCAL = "local model"
_HASHES = ("data", "folds", "prompt", "base_model")
_NAMES = ("corpus", "protocol")
_FACTS = (*_NAMES, "fold", "expected", "trained", "used", "max_new_tokens")
_MODULES = ("adapter.towers", "adapter.full", "adapter.options")  # settings that have names of modules
_WITH_KEYS = (*_MODULES, "model.attn_implementation")  # whose own keys are text of the user
_NAME = re.compile(r"[^\W_][\w .,+()-]*")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:[.-]\w+)*", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{4,64}")
_REVISION = re.compile(r"\w[\w./-]{0,127}", re.ASCII)
_VERSION = re.compile(r"\d+(?:\.\d+)*(?:\.?(?:a|b|rc|dev|post)\d*)*")
_OF_SERVERS = (NoteCode.SERVED_MODEL, NoteCode.FIRST_TOKEN, NoteCode.PARITY, NoteCode.SERVER_TOKENS)  # none trains
_WITHOUT_ADAPTER = (NoteCode.SPEAKER_STATISTICS, NoteCode.FITTED_ON_DEV)  # of baselines and late fusions
_NOT_SHARED = (
    NoteCode.CONTAMINATION, NoteCode.MISSING_CLASSES, NoteCode.FEW_UTTERANCES, NoteCode.FOUND_BATCH_SIZE, *_OF_SERVERS,
    *_WITHOUT_ADAPTER,
)  # fmt: skip


def public_record(record: RunRecord, model: ModelRecord, published: str | None, revision: str | None) -> PublicRecord:
    """The record that is shared, of a run that trained an adapter.

    Args:
        record: the complete record
        model: its base model
        published: Hub id of the base model; None for a folder, whose name is not shared
        revision: branch, tag or commit of ``published``
    """
    options = [f"adapter.options.{name}" for name in KINDS[record.method].options]
    base = {"model": {"id": published or _LOCAL, "revision": revision}}
    recognizer = f"{model.family} ({published.rpartition('/')[2] if published else _LOCAL})"
    return _public(record, recognizer, published, picked(record.config, (*SHARED_SETTINGS, *options), base))


def public_baseline_record(record: RunRecord, network: NetworkSettings) -> PublicRecord:
    """The record that is shared, of a run that trained a baseline.

    Args:
        record: the complete record
        network: the settings of the network that are shared, whose pretrained encoders are on the Hub
    """
    published = [encoder.model for encoder in network.encoders.values() if encoder.uses_model]
    parts = {"baseline": picked(asdict(network), NETWORK_SETTINGS)}
    config = picked(record.config, SHARED_SETTINGS) | parts
    return _public(record, network.name, ", ".join(published) or None, config)


def _public(record: RunRecord, recognizer: str, base_model: str | None, config: Mapping[str, Any]) -> PublicRecord:
    """The record with the given fields, and the others as they are shared of any run."""
    return PublicRecord(
        RunRecord(
            recognizer=recognizer,
            base_model=base_model,
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
            class_weights=record.class_weights and _of_labels(record.class_weights, record.labels),
            notes=tuple(_public_note(note) for note in record.notes if note.code not in _NOT_SHARED),
            config=config,
            versions={name: public_version(record.versions.get(name)) for name in ("python", *PACKAGES)},
            git=record.git,
            started_at=record.started_at,
            seconds=record.seconds,
        )
    )


def check_text(record: PublicRecord) -> None:
    """Check that every text of the record is a name, a word of a setting, a hash, a version or a time.

    Labels are not checked here, but compared with those of the protocol.

    Raises:
        AdapterError: naming the key and what was expected
    """
    for key, fits, expected in _texts(record):
        if not fits:
            raise AdapterError(f"run.json: key {key!r}: not pushed, since it could be private; expected {expected}")


def is_name(value: object, longest: int = 64) -> bool:
    """Whether a value has the form of a name, which is no path, with at most ``longest`` characters."""
    return isinstance(value, str) and len(value) <= longest and _is(_NAME, value)


def is_hash(value: object) -> bool:
    """Whether a value has the form of a hash, or of the beginning of one."""
    return _is(_HASH, value)


def is_version(value: object) -> bool:
    """Whether a value has the form of a version, such as ``2.13.0``."""
    return _is(_VERSION, value)


def is_revision(value: object) -> bool:
    """Whether a value has the form of a branch, tag or commit on the Hub."""
    return _is(_REVISION, value)


def is_module_path(value: object) -> bool:
    """Whether a value has the form of the path of a module, such as ``model.layers.0.q_proj``."""
    return _is(_MODULE, value)


def _texts(record: PublicRecord) -> Iterator[tuple[str, bool, str]]:
    """Each key with text, whether its value has the expected form, and that form."""
    for key in ("corpus", "protocol", "task"):
        yield key, is_name(getattr(record, key)), "a name, without / \\ : and ~"
    for key in ("disjoint_in", "shared_in"):
        yield key, set(getattr(record, key)) <= set(COLUMNS), f"some of {', '.join(COLUMNS)}"
    for key, value in record.hashes.items():
        plain = str(value).removeprefix(f"{record.base_model}@") if key == "base_model" else value
        yield f"hashes.{key}", value is None or _is(_HASH, plain), "a hash"
    yield "git.commit", record.git.commit is None or _is(_HASH, record.git.commit), "a hash"
    for key, value in record.versions.items():
        yield f"versions.{key}", value is None or _is(_VERSION, value), "a version such as 2.13.0"
    yield "started_at", _is_time(record.started_at), "a time in ISO 8601"
    for number, note in enumerate(record.notes):
        for key, fact in note.facts.items():
            fits = is_name(fact) if key in _NAMES else is_plain(fact)
            yield f"notes.{number}.facts.{key}", fits, "a name, a number or a method"
    family = record.config.get("model", {}).get("family")
    allowed = {"model.id": record.base_model or _LOCAL, "model.family": family if family in model_names() else None}
    for key, value in _leaves(record.config):
        if key in allowed:
            yield f"config.{key}", value == allowed[key], "a known model"
        elif key.startswith("baseline."):
            yield f"config.{key}", _fits_network(key, value), "a number, a choice of the setting, or a Hub id"
        elif key.startswith(_MODULES):
            yield f"config.{key}", is_plain(value) or is_module_path(value), "numbers and names of modules"
        elif key != "model.revision":  # of a published model
            yield f"config.{key}", is_plain(value), "a number, or a choice of the setting"


def _leaves(content: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is no mapping or list as section.key; of settings with keys of the user, also these."""
    for name, value in content.items():
        key = f"{section}{name}"
        if section.startswith(_WITH_KEYS):
            yield section, name
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield from ((key, item) for item in (value if isinstance(value, list | tuple) else [value]))


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def is_plain(value: object, words: frozenset[str] = SHARED_WORDS) -> bool:
    """Whether a value is null, a finite number, or one of the words."""
    if isinstance(value, str):
        return value in words
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _fits_network(key: str, value: object) -> bool:
    """Whether a value is one that a setting of a baseline may have that is shared."""
    if key.endswith("encoder.model"):
        return isinstance(value, str) and has_id_form(value)
    if key.endswith("encoder.revision"):
        return value is None or is_revision(value)
    return is_plain(value, NETWORK_WORDS)


def _choices(schema: type) -> Iterator[str]:
    """The choices of all settings of a dataclass that are text."""
    for declared in settings_of(schema).values():
        if declared.section is not None:
            yield from _choices(declared.section)
        yield from (word for word in declared.allowed if isinstance(word, str))


NETWORK_WORDS = frozenset({*_choices(NetworkSettings), "last", "all"})
"""Texts in the settings of a baseline network, besides Hub ids and revisions."""


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _of_labels(weights: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    return {label: weights[label] for label in labels if label in weights}


def _without_groups(balance: Balance, labels: Sequence[str]) -> Balance:
    """The counts of classes only, since groups may be speakers."""
    before, after = (
        Counts(counts.examples, {label: counts.classes.get(label, 0) for label in labels})
        for counts in (balance.before, balance.after)
    )
    return Balance(before, after)


def public_version(version: str | None) -> str | None:
    """The version without its local part, which is that of a build."""
    return version and version.split("+")[0]


def _public_note(note: Note) -> Note:
    return Note(note.code, note.split, note.n, facts={key: note.facts[key] for key in _FACTS if key in note.facts})


def picked(
    content: Mapping[str, Any], settings: Iterable[str], given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a config, named ``section.key``, that it has, added to those that are given.

    Example:
        >>> picked({"train": {"seed": 1, "dir": "/home"}}, ["train.seed", "train.steps"])
        {'train': {'seed': 1}}
    """
    public: dict[str, Any] = {name: dict(section) for name, section in (given or {}).items()}
    for setting in settings:
        *sections, key = setting.split(".")
        found: Any = content
        for section in sections:
            found = found.get(section) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping) and key in found:
            place = public
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = found[key]
    return public
