"""Settings of a preparation, and the registry of corpus readers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import Task
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.core.settings import naming_keys, setting
from lalm_mer.core.spelling import normalised
from lalm_mer.corpora import circumplex, manifest, readings
from lalm_mer.corpora.prepared import declared_task
from lalm_mer.corpora.writer import write_corpus

__all__ = [
    "READERS", "CorpusSettings", "OpenedReader", "OutputSettings", "PrepareSettings", "Reader", "open_reader",
    "prepare",
]  # fmt: skip


@dataclass(frozen=True)
class CorpusSettings:
    """The release and how it is read; all keys but name apply only to the readers in parentheses."""

    name: str = setting(choices=lambda: tuple(READERS), help="the reader")
    root: str | None = setting(None, path="folder", help="folder of the release (all but circumplex and readings)")
    missing_audio: str | None = setting(
        None,
        choices=("reject", "keep"),
        help="an utterance whose audio is missing (all but circumplex and readings); null is reject",
    )
    manifest: str | None = setting(None, help="file name of the manifest within the root (manifest)")
    alias: str | None = setting(None, help="name of the corpus in the tables (manifest); null is manifest")
    columns: dict[str, str] | None = setting(
        None, help="column of the library -> column of the manifest, where their names differ (manifest)"
    )
    labels: list[str] | None = setting(
        None, help="all labels that may occur; they define the task <alias>_<number of labels> (manifest)"
    )
    encoding: str | None = setting(None, help="character encoding of the manifest (manifest); null is utf-8-sig")
    delimiter: str | None = setting(None, help="field separator of a CSV (manifest); null detects it from the header")
    ranges: dict[str, list[float]] | None = setting(
        None, help="dimension -> lowest and highest value of its scale (manifest)"
    )
    cut: bool | None = setting(
        None,
        help="whether start_s to end_s is cut out of the file (manifest); null is true; false if files are cut already",
    )
    variant: str | None = setting(None, choices=circumplex.VARIANTS, help="design (circumplex); null is masked")
    texts: str | None = setting(
        None, path="folder", help="prepared corpus whose transcripts of train are read aloud (readings)"
    )
    utterances: int | None = setting(
        None, at_least=1, help="number of its transcripts that are read (readings); null for all that can be"
    )
    seed: int | None = setting(None, help="seed of the random draws (circumplex, readings); null is 0")
    raters: int | None = setting(
        None,
        at_least=0,
        at_most=100,
        help="simulated raters of each utterance, whose votes are named simulated (circumplex); null is 0",
    )
    noise: float | None = setting(
        None, at_least=0, at_most=0.5, help="fraction of voices with the other arousal (circumplex); null is 0"
    )


@dataclass(frozen=True)
class OutputSettings:
    """Where the prepared corpus is written."""

    dir: str = setting(path="new", help="folder of the prepared corpus")
    processes: int | None = setting(
        None, at_least=1, help="processes that read audio; null for one per core; the result is the same"
    )


@dataclass(frozen=True)
class PrepareSettings:
    """The config of a preparation."""

    corpus: CorpusSettings
    output: OutputSettings


@dataclass(frozen=True)
class OpenedReader:
    """The rows of an opened reader, and the other arguments of ``write_corpus``."""

    corpus: str
    rows: Iterator[Utterance | Rejection]
    loader_version: str
    root: Path | None = None
    keep_missing_audio: bool = False
    synthetic: bool = False
    ranges: Mapping[str, Sequence[float]] | None = None
    tasks: Mapping[str, Task] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """A registered reader.

    Args:
        open: opens the reader
        keys: keys of ``CorpusSettings`` that apply to it
        required: keys that must be set
        facts: returns what an utterance id encodes: speaker, session, script
        known_defects: utterance id -> published defect, with its source
        distinctive_ids: whether an id shows by its form that it is of this corpus
    """

    open: Callable[[CorpusSettings], OpenedReader]
    keys: frozenset[str]
    required: tuple[str, ...] = ()
    facts: Callable[[str], Facts | None] | None = None
    known_defects: Mapping[str, str] = field(default_factory=dict)
    distinctive_ids: bool = True


def open_reader(settings: CorpusSettings) -> OpenedReader:
    """Open the reader that ``settings`` name.

    Raises:
        ConfigError: if a required key is not set, or a key of another reader is set
        CorpusError: if the reader cannot be opened
    """
    reader = READERS[settings.name]
    for key in (key.name for key in dataclasses.fields(settings) if key.name != "name"):
        is_set = getattr(settings, key) is not None
        if is_set and key not in reader.keys:
            owners = " and ".join(name for name, other in READERS.items() if key in other.keys)
            raise ConfigError(f"key 'corpus.{key}': applies to {owners}, but corpus.name is {settings.name}; remove it")
        if not is_set and key in reader.required:
            raise ConfigError(
                f"key 'corpus.{key}': {settings.name} needs it; set it in the file or as corpus.{key}=..."
            )
    return reader.open(settings)


def prepare(settings: PrepareSettings) -> dict[str, Any]:
    """Prepare a corpus; returns the content of summary.json. The errors are those of its two steps."""
    opened = open_reader(settings.corpus)
    with naming_keys("corpus"):  # the rows are read as they are written
        return write_corpus(
            opened.rows,
            corpus=opened.corpus,
            out_dir=Path(settings.output.dir),
            loader_version=opened.loader_version,
            root=opened.root,
            keep_missing_audio=opened.keep_missing_audio,
            synthetic=opened.synthetic,
            ranges=opened.ranges,
            tasks=opened.tasks,
            extra=opened.extra,
            processes=settings.output.processes,
        )


_RELEASE_KEYS = frozenset({"root", "missing_audio"})


def _of_release(name: str) -> Reader:
    """The reader of a released corpus, in the module of that name."""
    release: Any = import_module(f"lalm_mer.corpora.{name}")  # has LOADER_VERSION, RANGES, read and facts

    def open_release(settings: CorpusSettings) -> OpenedReader:
        root = Path(settings.root or "")
        return OpenedReader(
            name,
            release.read(root),
            release.LOADER_VERSION,
            root=root,
            keep_missing_audio=settings.missing_audio == "keep",
            ranges=release.RANGES or None,
        )

    known_defects, distinctive_ids = getattr(release, "KNOWN_DEFECTS", {}), getattr(release, "DISTINCTIVE_IDS", True)
    return Reader(open_release, _RELEASE_KEYS, ("root",), release.facts, known_defects, distinctive_ids)


def _open_manifest(settings: CorpusSettings) -> OpenedReader:
    corpus = settings.alias or "manifest"
    labels = settings.labels and [normalised(label) for label in settings.labels]
    if not re.fullmatch(r"\w[\w.-]*", corpus):
        raise ConfigError(f"key 'corpus.alias': {corpus!r}; expected letters, digits, '_', '-' and '.'")
    rows = manifest.read(
        Path(settings.root or ""),
        settings.manifest or "",
        corpus=corpus,
        columns=settings.columns or {},
        labels=labels,
        encoding=settings.encoding or "utf-8-sig",
        delimiter=settings.delimiter,
        ranges=settings.ranges or {},
        cut=settings.cut is not False,
    )
    return OpenedReader(
        corpus,
        rows,
        manifest.LOADER_VERSION,
        root=Path(settings.root or ""),
        keep_missing_audio=settings.missing_audio == "keep",
        ranges=settings.ranges,
        tasks=declared_task(corpus, labels) if labels else {},
        extra={"declared_labels": labels} if labels else {},
    )


def _open_circumplex(settings: CorpusSettings) -> OpenedReader:
    variant, seed, noise = settings.variant or "masked", settings.seed or 0, settings.noise or 0.0
    raters = settings.raters or 0
    ceilings = dataclasses.asdict(circumplex.ceilings(variant, noise, seed))
    extra = {"variant": variant, "seed": seed, "noise": noise, "ceilings": ceilings}
    extra |= {"simulated_raters": raters} if raters else {}
    rows, version = circumplex.read(variant, seed, noise, raters), circumplex.LOADER_VERSION
    return OpenedReader("circumplex", rows, version, synthetic=True, ranges=circumplex.RANGES, extra=extra)


def _open_readings(settings: CorpusSettings) -> OpenedReader:
    texts, seed = Path(settings.texts or ""), settings.seed or 0
    rows = readings.read(texts, seed, settings.utterances)
    return OpenedReader("readings", rows, readings.LOADER_VERSION, synthetic=True, extra={"seed": seed})


RELEASES = ("ravdess", "crema_d", "emodb", "iemocap", "meld", "mosei", "msp_podcast")
"""Released corpora: each has a module of its name in this package."""
READERS: dict[str, Reader] = {
    **{name: _of_release(name) for name in RELEASES},
    "manifest": Reader(
        _open_manifest,
        _RELEASE_KEYS | {"manifest", "alias", "columns", "labels", "encoding", "delimiter", "ranges", "cut"},
        ("root", "manifest"),
    ),
    "circumplex": Reader(_open_circumplex, frozenset({"variant", "seed", "noise", "raters"})),
    "readings": Reader(_open_readings, frozenset({"texts", "utterances", "seed"}), ("texts",)),
}
