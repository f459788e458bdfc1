"""The data, prompt and base model that an adapter was trained with, compared with those of a run that uses it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lalm_mer.core.errors import AdapterError, SplitLeakError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.output import write_json
from lalm_mer.core.run_record import RUN_FILE, RunRecord, read_record
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.models.adapter_files import CONFIG, read_json
from lalm_mer.sharing.hub_folder import ADAPTER
from lalm_mer.sharing.hub_ids import published_id

__all__ = [
    "MERGED_FROM", "AdapterContext", "MergedFrom", "context_of", "read_trained_run", "require_fit", "surely_differ",
]  # fmt: skip

MERGED_FROM = "merged_from.json"
"""File in the folder of a merged model."""


@dataclass(frozen=True)
class AdapterContext:
    """Data, prompt and base model that an adapter is trained with, or used with.

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
    """The base model (Hub id or folder) and the adapter (SHA-256 of its weights) of a merged model."""

    base_model: str
    adapter: str
    trained_with: AdapterContext

    def write(self, folder: Path) -> None:
        """Write ``merged_from.json`` into the folder of the merged model."""
        write_json(folder / MERGED_FROM, asdict(self))


def context_of(record: RunRecord, source: str) -> AdapterContext:
    """The context of a run that trained an adapter; errors name ``source``."""
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
        folder: the folder of the adapter, or of a merged model
        now: the context of its use
        base_model: Hub id or folder of the base model; None is not compared

    Returns:
        notes for a reader of the results

    Raises:
        SplitLeakError: if the run uses another fold of the same folds, whose test set is in the training data
        AdapterError: if the adapter was trained on another base model
        PredictionError: if the record of its training is malformed or of another format
    """
    if base_model is not None:
        _require_same_base(folder, base_model)
    then = _trained_with(folder)
    if then is None:
        return [Note(NoteCode.UNKNOWN_TRAINING_DATA)]
    if now.folds_digest == then.folds_digest and now.fold != then.fold:
        raise SplitLeakError(
            f"argument 'fold': {now.fold}, but the adapter was trained on fold {then.fold} of the same folds, whose "
            f"training data may contain these test utterances; set it to {then.fold}"
        )
    base = now.base_digest or then.base_digest
    if surely_differ(base, then.base_digest):
        raise AdapterError(f"{folder}: the adapter was trained on another base model; set model.id to the same one")
    other_folds = NoteCode.OTHER_FOLDS if now.corpus == then.corpus else NoteCode.OTHER_CORPUS
    trained_on: dict[str, str | int] = {"corpus": then.corpus, "protocol": then.protocol, "fold": then.fold}
    quantization: dict[str, str | int] = {"trained": then.quantization or "none", "used": now.quantization or "none"}
    differences = (
        (now.folds_digest != then.folds_digest, Note(other_folds, facts=trained_on)),
        (base != then.base_digest, Note(NoteCode.OTHER_BASE_MODEL)),
        (now.quantization != then.quantization, Note(NoteCode.OTHER_QUANTIZATION, facts=quantization)),
        (now.prompt_digest != then.prompt_digest, Note(NoteCode.OTHER_PROMPT)),
        (now.labels != then.labels, Note(NoteCode.OTHER_LABELS)),
    )
    return [note for differs, note in differences if differs]


def surely_differ(one: object, another: object) -> bool:
    """Whether two digests are certainly of two base models; a commit on the Hub cannot be compared with a SHA-256.

    Example:
        >>> surely_differ("sha-of-one", "sha-of-another"), surely_differ("sha-of-one", "user/name@commit")
        (True, False)
    """
    return one != another and all("@" not in str(digest) for digest in (one, another))


def _trained_with(folder: Path) -> AdapterContext | None:
    merged = folder / MERGED_FROM
    if merged.is_file():
        return parse(MergedFrom, read_object(merged), str(merged)).trained_with
    record = read_trained_run(folder)
    return None if record is None else context_of(record, str(folder))


def _require_same_base(folder: Path, model_id: str) -> None:
    """Refuse another Hub id; the name of a folder is not compared."""
    trained = str(read_json(folder / CONFIG).get("base_model_name_or_path"))
    if published_id(trained) and published_id(model_id) and trained.lower() != model_id.lower():
        raise AdapterError(
            f"{folder}: the adapter was trained on {trained}, and model.id is {model_id}; set model.id={trained}, or "
            "to a folder with a copy of it"
        )
