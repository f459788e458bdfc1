"""The record of a run, the content of run.json: what was run, on which data, with which model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from lalm_mer.core.errors import PredictionError, one_line
from lalm_mer.core.names import CONDITIONS, METHODS, MODALITIES, TASK_KINDS, TRANSCRIPT_SOURCES, uses_transcript
from lalm_mer.core.notes import Note, NoteCode, needed_facts
from lalm_mer.core.provenance import Commit
from lalm_mer.core.strict_json import parse, read_object

__all__ = [
    "DEV_METRICS_FILE", "METRICS_FILE", "MODEL_FOLDER", "RUN_FILE", "Balance", "Counts", "Member", "ModelRecord",
    "Parameters", "PeakMemory", "RunRecord", "has_results", "read_record",
]  # fmt: skip

T = TypeVar("T")
METRICS_FILE = "metrics.json"
DEV_METRICS_FILE = "dev_metrics.json"
"""Metrics of a run that scores dev alone, which has no ``METRICS_FILE``"""
RUN_FILE = "run.json"
MODEL_FOLDER = "model"
"""Folder of a run with its baseline, linear model, rule of late fusion, or the model that it trained in full"""
_FORMAT = 2
_HASHES = ("data", "folds", "prompt", "base_model")


@dataclass(frozen=True)
class Counts:
    """Numbers of training examples.

    Args:
        examples: number of all examples, repeats included
        classes: label -> number of examples
        groups: label -> group -> number of examples; empty if no groups were requested
        without_group: number of examples whose group the corpus does not state, if groups were requested
    """

    examples: int
    classes: Mapping[str, int]
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    without_group: int = 0


@dataclass(frozen=True)
class Balance:
    """Counts of training examples before and after balancing."""

    before: Counts
    after: Counts


@dataclass(frozen=True)
class ModelRecord:
    """The base model of a run: section ``model`` of its config.

    Args:
        family: architecture
        id: Hub id or local folder
        revision: branch, tag or commit on the Hub
        dtype: data type of the weights
        quantization: one of ``QUANTIZATIONS``; None if not quantized
    """

    family: str
    id: str
    revision: str | None
    dtype: str
    quantization: str | None


@dataclass(frozen=True)
class Member:
    """A member of a late fusion.

    Args:
        folder: its run folder, as named in the config of the fusion
        recognizer: its name in comparisons
        method: one of ``METHODS``
        modalities: one of ``MODALITIES``
        predictions: hash of its file of predictions
    """

    folder: str
    recognizer: str
    method: str
    modalities: str
    predictions: str


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a recognizer.

    Frozen encoders whose features a baseline or a linear model reads are not counted. Of a linear model they are its
    coefficients and intercepts, of a late fusion those of its members and of its rule.

    Args:
        trained: of those that were trained for the task; 0 without training
        all: of all, the trained ones included
    """

    trained: int
    all: int


@dataclass(frozen=True)
class PeakMemory:
    """Largest memory of the first process of a run, from the opening of its folder to its end, in bytes.

    Args:
        bytes: number of bytes
        of: ``gpu``, allocated by torch on its GPU, or ``process``, resident, without that of its workers
    """

    bytes: int
    of: Literal["gpu", "process"]


@dataclass(frozen=True)
class RunRecord:
    """The record of one run: one recognizer, trained with one seed and tested on one fold.

    Args:
        recognizer: name in comparisons
        base_model: Hub id or folder of its base model; None if it has none
        modalities: one of ``MODALITIES``
        transcript_source: one of ``TRANSCRIPT_SOURCES``; None if no transcript is used
        method: one of ``METHODS``
        condition: one of ``CONDITIONS`` for the test set
        corpus: name of the corpus
        synthetic: whether the corpus is synthetic
        protocol: name of the protocol that made the folds
        protocol_version: version of the protocol
        fold: number of the fold
        seed: training seed
        task: name of the task
        labels: the K labels, or the T targets of a task on numbers
        unmapped: utterances whose label is outside the task
        left_out: utterances of the task that are in no split of the fold
        disjoint_in: columns in which train, dev and test share no value
        shared_in: columns in which the protocol allows shared values
        primary_metric: metric on dev that selects the checkpoint
        hashes: hashes of ``data``, ``folds``, ``prompt``, ``base_model`` and other inputs that the scores depend on;
            None if the run has no such input
        balance: counts of the training examples; None without training
        class_weights: label -> factor of its loss; None for equal weights
        notes: what a reader of the results has to know
        config: resolved config
        versions: package -> version; None if it is not installed
        git: commit of the code
        started_at: start time in ISO 8601
        seconds: duration of the complete run; None until it ends
        members: of a late fusion; empty for any other run
        task_kind: ``single``, ``multi`` or ``scalar``
        ranges: lowest and highest value of each target of a ``scalar`` task
        parameters: None if they are not known: of a model on a server, or in run.json of an earlier version
        peak_memory: None if it is not known, likewise
    """

    recognizer: str
    base_model: str | None
    modalities: str
    transcript_source: str | None
    method: str
    condition: str
    corpus: str
    synthetic: bool
    protocol: str
    protocol_version: int
    fold: int
    seed: int
    task: str
    labels: tuple[str, ...]
    unmapped: int
    left_out: int
    disjoint_in: tuple[str, ...]
    shared_in: tuple[str, ...]
    primary_metric: str
    hashes: Mapping[str, str | None]
    balance: Balance | None
    class_weights: Mapping[str, float] | None
    notes: tuple[Note, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str | None]
    git: Commit
    started_at: str
    seconds: float | None
    members: tuple[Member, ...] = ()
    task_kind: str = "single"
    ranges: tuple[tuple[float, float], ...] = ()
    parameters: Parameters | None = None
    peak_memory: PeakMemory | None = None

    @property
    def randomly_initialised(self) -> bool:
        """Whether the base model's weights were never trained."""
        return any(note.code == NoteCode.RANDOMLY_INITIALISED for note in self.notes)

    def model(self, source: str) -> ModelRecord:
        """Section ``model`` of the config.

        Raises:
            PredictionError: naming ``source`` and the key, if the section or a key is missing or malformed
        """
        return parse(ModelRecord, self.config.get("model", {}), f"{source}: section 'model'", ignore_unknown=True)

    def setting(self, key: str, kind: type[T], source: str) -> T:
        """A setting of the config by its key, such as ``prompt.file``.

        Raises:
            PredictionError: naming ``source`` and the key, if it is missing or not of that kind
        """
        value: Any = self.config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None:
            raise PredictionError(f"{source}: key 'config.{key}' is missing; run it again")
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise PredictionError(
                f"{source}: key 'config.{key}': expected {kind.__name__}, found {one_line(repr(value))}"
            )
        return value

    def to_json(self) -> dict[str, Any]:
        """Convert to plain data, as written to run.json."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any], source: str) -> RunRecord:
        """Create the record from the content of run.json.

        Raises:
            PredictionError: naming ``source`` and the key, if the record has another format, or a key is unknown,
                missing, of the wrong type or outside its choices
        """
        if content.get("format") != _FORMAT:
            raise PredictionError(
                f"{source}: format {content.get('format')}, but this version reads format {_FORMAT}; run it again"
            )
        record = parse(cls, {key: value for key, value in content.items() if key != "format"}, source)
        choices: dict[str, tuple[str | None, ...]] = {
            "modalities": MODALITIES,
            "method": METHODS,
            "task_kind": TASK_KINDS,
            "condition": CONDITIONS,
            "transcript_source": TRANSCRIPT_SOURCES if uses_transcript(record.modalities) else (None,),
        }
        for key, allowed in choices.items():
            if (found := getattr(record, key)) not in allowed:
                expected = f"null with modalities {record.modalities}" if None in allowed else f"one of {list(allowed)}"
                raise PredictionError(f"{source}: key {key!r}: expected {expected}, found {one_line(repr(found))}")
        for number, note in enumerate(record.notes):
            for name in sorted(needed_facts(note.code) - note.facts.keys()):
                raise PredictionError(f"{source}: key 'notes.{number}.facts.{name}' is missing; code is {note.code}")
            if note.reasons and len(note.reasons) != len(note.ids):
                raise PredictionError(
                    f"{source}: key 'notes.{number}.reasons': {len(note.reasons)} reasons, but {len(note.ids)} ids; "
                    "expected one per id, or none"
                )
        for key in _HASHES:
            if key not in record.hashes:
                raise PredictionError(f"{source}: key 'hashes.{key}' is missing; found {sorted(record.hashes)}")
            if key in ("data", "folds") and not record.hashes[key]:
                raise PredictionError(f"{source}: key 'hashes.{key}': expected a hash, found {record.hashes[key]!r}")
        return record


def has_results(folder: Path, metrics: str = METRICS_FILE) -> bool:
    """Whether a run folder has its record and its metrics, which are written last."""
    return (folder / metrics).is_file() and (folder / RUN_FILE).is_file()


def read_record(file: Path) -> RunRecord:
    """Read run.json.

    Raises:
        PredictionError: naming the file and, where there is one, the key
    """
    return RunRecord.from_json(read_object(file), str(file))
