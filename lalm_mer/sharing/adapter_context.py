"""The data, prompt and base model of a training, compared with those of a run that uses its adapter or its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from lalm_mer.core.errors import AdapterError, SplitLeakError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.output import write_json
from lalm_mer.core.run_record import RUN_FILE, RunRecord, read_record
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.models.adapter_files import CONFIG, read_json
from lalm_mer.sharing.hub_folder import ADAPTER
from lalm_mer.sharing.hub_ids import published_id

__all__ = [
    "MERGED_FROM",
    "AdapterContext",
    "MergedFrom",
    "context_of",
    "origin_of",
    "read_merged_from",
    "read_trained_run",
    "require_fit",
    "surely_differ",
    "training_notes",
    "with_contexts",
]  # fmt: skip

MERGED_FROM = "merged_from.json"
"""File in the folder of a merged model, or of one that was trained in full."""


@dataclass(frozen=True)
class AdapterContext:
    """Data, prompt and base model that an adapter, or a model in full, is trained with, or used with.

    Args:
        corpus: name of the corpus
        protocol: name of the protocol
        fold: number of the fold
        labels: the K labels
        folds_digest: SHA-256 of the folds
        prompt_digest: SHA-256 of the prompt
        base_digest: result of ``base_digest``; None is not compared
        quantization: quantization of the base model; None for none
    """

    corpus: str
    protocol: str
    fold: int
    labels: tuple[str, ...]
    folds_digest: str | None
    prompt_digest: str | None
    base_digest: str | None
    quantization: str | None


@dataclass(frozen=True)
class MergedFrom:
    """What a model was made from.

    Args:
        base_model: Hub id or folder of its base model
        adapter: SHA-256 of the weights of the merged adapter; None if the base model was trained in full
        trained_with: context of that training
        earlier: contexts of the trainings that the base model itself contains
    """

    base_model: str
    adapter: str | None
    trained_with: AdapterContext
    earlier: tuple[AdapterContext, ...] = ()

    @classmethod
    def of(cls, base_model: str, adapter: str | None, trained_with: AdapterContext) -> Self:
        """Add a training to those of the base model."""
        before = read_merged_from(Path(base_model))
        return cls(base_model, adapter, trained_with, () if before is None else before.trainings)

    @property
    def trainings(self) -> tuple[AdapterContext, ...]:
        """The contexts of all trainings, the last first."""
        return (self.trained_with, *self.earlier)

    @property
    def what(self) -> str:
        """What was trained: the ``model`` or an ``adapter``."""
        return "model" if self.adapter is None else "adapter"

    @property
    def note(self) -> Note:
        """That the weights are not those of the base model alone."""
        return Note(NoteCode.TRAINED_BASE_MODEL if self.adapter is None else NoteCode.MERGED_BASE_MODEL)

    def write(self, folder: Path) -> None:
        """Write ``merged_from.json`` into the folder of the model."""
        write_json(folder / MERGED_FROM, asdict(self))


def with_contexts(merged: MergedFrom, contexts: Sequence[AdapterContext]) -> MergedFrom:
    """The same with the contexts of the corpora of its last training, in place of one for all of them.

    Args:
        merged: of an alignment, which is trained on several corpora at once
        contexts: one for each corpus
    """
    earlier = tuple(each for each in merged.earlier if each not in contexts)
    return replace(merged, trained_with=contexts[0], earlier=(*contexts[1:], *earlier))


def read_merged_from(folder: Path) -> MergedFrom | None:
    """What the model in a folder was made from; None if the folder does not say.

    Raises:
        PredictionError: if its file is malformed
    """
    file = folder / MERGED_FROM
    return parse(MergedFrom, read_object(file), str(file)) if file.is_file() else None


def training_notes(folder: Path, *, corpus: str, folds_digest: str | None, fold: int) -> list[Note]:
    """Notes on the data that the model in a folder was trained on; empty if the folder does not say.

    Args:
        folder: folder of a model
        corpus: name of the corpus that it is used on
        folds_digest: SHA-256 of the folds
        fold: number of the fold

    Raises:
        SplitLeakError: if it was trained on another fold of the same folds
        PredictionError: if its file is malformed
    """
    merged = read_merged_from(folder)
    if merged is None:
        return []
    notes = _data_notes(merged.trainings, merged.what, corpus=corpus, folds_digest=folds_digest, fold=fold)
    return [merged.note, *notes]


def context_of(record: RunRecord, source: str) -> AdapterContext:
    """The context of a run that trained an adapter or a model; errors name ``source``."""
    return AdapterContext(
        corpus=record.corpus,
        protocol=record.protocol,
        fold=record.fold,
        labels=record.labels,
        folds_digest=record.hashes["folds"],
        prompt_digest=record.hashes["prompt"],
        base_digest=record.hashes["base_model"],
        quantization=record.model(source).quantization,
    )


def origin_of(record: RunRecord) -> MergedFrom:
    """What the model of a run that trains it in full is made from."""
    return MergedFrom.of(str(record.base_model), None, context_of(record, RUN_FILE))


def read_trained_run(folder: Path) -> RunRecord | None:
    """The record of the run that trained an adapter, from the run folder or the adapter's; None if there is none.

    Raises:
        PredictionError: if it is malformed or of another format
    """
    own_run = [folder.parent / RUN_FILE] if folder.name == ADAPTER else []  # has the path of the base model
    for file in (*own_run, folder / RUN_FILE):
        if file.is_file():
            return read_record(file)
    return None


def require_fit(folder: Path, now: AdapterContext, base_model: str | None) -> list[Note]:
    """Compare the use of an adapter with its training.

    Args:
        folder: the folder of the adapter, or of a model that is merged or trained in full
        now: the context of its use
        base_model: Hub id or folder of the base model; None is not compared

    Returns:
        notes for a reader of the results

    Raises:
        SplitLeakError: if the run uses another fold of the same folds, whose test set is in the training data; also of
            an earlier training of the same weights
        AdapterError: if the adapter was trained on another base model
        PredictionError: if the record of its training is malformed or of another format
    """
    if base_model is not None:
        _require_same_base(folder, base_model)
    merged = read_merged_from(folder)
    record = None if merged is not None else read_trained_run(folder)
    if merged is not None:
        trainings, what = merged.trainings, merged.what
    elif record is not None:
        trainings, what = (context_of(record, str(folder)),), "adapter"
    else:
        return [Note(NoteCode.UNKNOWN_TRAINING_DATA)]
    on_data = _data_notes(trainings, what, corpus=now.corpus, folds_digest=now.folds_digest, fold=now.fold)
    then = trainings[0]
    base = now.base_digest or then.base_digest
    if surely_differ(base, then.base_digest):
        raise AdapterError(f"{folder}: the adapter was trained on another base model; set model.id to the same one")
    quantization: dict[str, str | int] = {"trained": then.quantization or "none", "used": now.quantization or "none"}
    differences = (
        (base != then.base_digest, Note(NoteCode.OTHER_BASE_MODEL)),
        (now.quantization != then.quantization, Note(NoteCode.OTHER_QUANTIZATION, facts=quantization)),
        (now.prompt_digest != then.prompt_digest, Note(NoteCode.OTHER_PROMPT)),
        (now.labels != then.labels, Note(NoteCode.OTHER_LABELS)),
    )
    return [*on_data, *(note for differs, note in differences if differs)]


def surely_differ(one: object, another: object) -> bool:
    """Whether two digests are certainly of two base models; a commit on the Hub cannot be compared with a SHA-256.

    Example:
        >>> surely_differ("sha-of-one", "sha-of-another"), surely_differ("sha-of-one", "user/name@commit")
        (True, False)
    """
    return one != another and all("@" not in str(digest) for digest in (one, another))


def _data_notes(
    trainings: Sequence[AdapterContext], what: str, *, corpus: str, folds_digest: str | None, fold: int
) -> list[Note]:
    """Notes on trainings with other data than those of a run."""
    notes: list[Note] = []
    for then in trainings:
        if folds_digest == then.folds_digest:
            if fold == then.fold:
                continue
            raise SplitLeakError(
                f"argument 'fold': {fold}, but the {what} was trained on fold {then.fold} of the same folds, whose "
                f"training data may contain these test utterances; set it to {then.fold}"
            )
        facts: dict[str, str | int] = {"corpus": then.corpus, "protocol": then.protocol, "fold": then.fold}
        note = Note(NoteCode.OTHER_FOLDS if corpus == then.corpus else NoteCode.OTHER_CORPUS, facts=facts)
        notes += [] if note in notes else [note]
    return notes


def _require_same_base(folder: Path, model_id: str) -> None:
    """Refuse another Hub id; the name of a folder is not compared."""
    trained = str(read_json(folder / CONFIG).get("base_model_name_or_path"))
    if published_id(trained) and published_id(model_id) and trained.lower() != model_id.lower():
        raise AdapterError(
            f"{folder}: the adapter was trained on {trained}, and model.id is {model_id}; set model.id={trained}, or "
            "to a folder with a copy of it"
        )
