"""Settings of a preparation, and the registry that turns them into a reader's rows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import Task
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.core.settings import naming_keys, setting
from lalm_mer.corpora import circumplex, manifest
from lalm_mer.corpora.prepared import declared_task
from lalm_mer.corpora.writer import write_corpus

__all__ = [
    "READERS",
    "CorpusSettings",
    "OutputSettings",
    "PrepareSettings",
    "Reader",
    "Reading",
    "Release",
    "open_reader",
    "prepare",
]


@dataclass(frozen=True)
class CorpusSettings:
    """The release, and how it is read. Every key but name belongs to the readers named; null where it is not set."""

    name: str = setting(choices=lambda: tuple(READERS), help="the reader")
    root: str | None = setting(None, help="folder of the release (all but circumplex)")
    missing_audio: str | None = setting(
        None,
        choices=("reject", "keep"),
        help="an utterance whose audio is missing (all but circumplex); null is reject",
    )
    manifest: str | None = setting(None, help="file name of the manifest within the root (manifest)")
    alias: str | None = setting(None, help="name of the corpus in the tables (manifest); null is manifest")
    columns: dict[str, str] | None = setting(
        None, help="column of the library -> column of the manifest, where their names differ (manifest)"
    )
    labels: list[str] | None = setting(
        None, help="every label that may occur; they make the task <alias>_<number of labels> (manifest)"
    )
    encoding: str | None = setting(None, help="of the manifest's characters (manifest); null is utf-8-sig")
    delimiter: str | None = setting(None, help="between the fields of a CSV (manifest); null finds it from the header")
    ranges: dict[str, list[float]] | None = setting(
        None, help="dimension -> lowest and highest value of its scale (manifest)"
    )
    cut: bool | None = setting(
        None,
        help="whether start_s and end_s are cut out of the file (manifest); null is true; false where files are cut "
        "already and the times are the label's",
    )
    variant: str | None = setting(None, choices=circumplex.VARIANTS, help="of the corpus (circumplex); null is masked")
    seed: int | None = setting(None, help="of the random draws (circumplex); null is 0")
    noise: float | None = setting(
        None, at_least=0, at_most=0.5, help="fraction of voices with the other arousal (circumplex); null is 0"
    )


@dataclass(frozen=True)
class OutputSettings:
    """The prepared corpus."""

    dir: str = setting(help="folder that becomes the prepared corpus")
    processes: int | None = setting(
        None, at_least=1, help="how many read audio; null for one a core; the result is the same"
    )


@dataclass(frozen=True)
class PrepareSettings:
    """All of a preparation's config."""

    corpus: CorpusSettings
    output: OutputSettings


@dataclass(frozen=True)
class Reading:
    """A reader at work, and what ``write_corpus`` has to know beside its rows."""

    corpus: str
    rows: Iterator[Utterance | Rejection]
    loader_version: str
    root: Path | None = None
    keeps_missing: bool = False
    synthetic: bool = False
    ranges: Mapping[str, Sequence[float]] | None = None
    tasks: Mapping[str, Task] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Release(Protocol):
    """What the module of a released corpus offers."""

    LOADER_VERSION: str
    RANGES: Mapping[str, Sequence[float]]

    def read(self, root: Path) -> Iterator[Utterance | Rejection]:
        """Every utterance of the release."""
        ...

    def facts(self, utterance_id: str) -> Facts | None:
        """What an utterance id tells by itself; None where it is no id of this corpus."""
        ...


@dataclass(frozen=True)
class Reader:
    """A reader and the keys of the config that are its own; ``required`` ones among them must be set.

    ``facts`` tells what an utterance id says by itself: speaker, session, script. ``known_defects``: utterance id ->
    what others found wrong with it, with its source.
    """

    open: Callable[[CorpusSettings], Reading]
    keys: frozenset[str]
    required: tuple[str, ...] = ()
    facts: Callable[[str], Facts | None] | None = None
    known_defects: Mapping[str, str] = field(default_factory=dict)


def open_reader(settings: CorpusSettings) -> Reading:
    """Start the reader that ``settings`` name.

    Raises:
        ConfigError: if the reader lacks a key, or a key of another reader is set
        CorpusError: if the reader finds nothing it can begin with
    """
    reader = READERS[settings.name]
    for key in (key.name for key in dataclasses.fields(settings) if key.name != "name"):
        is_set = getattr(settings, key) is not None
        if is_set and key not in reader.keys:
            owners = " and ".join(name for name, other in READERS.items() if key in other.keys)
            raise ConfigError(f"key 'corpus.{key}': belongs to {owners}, but corpus.name is {settings.name}; remove it")
        if not is_set and key in reader.required:
            raise ConfigError(
                f"key 'corpus.{key}': {settings.name} needs it; set it in the file or as corpus.{key}=..."
            )
    return reader.open(settings)


def prepare(settings: PrepareSettings) -> dict[str, Any]:
    """Run one preparation.

    Returns:
        The summary, as in ``summary.json``

    Raises:
        ConfigError: as ``open_reader``
        CorpusError: as ``write_corpus``
    """
    reading = open_reader(settings.corpus)
    with naming_keys("corpus"):  # the rows are read as they are written
        return write_corpus(
            reading.rows,
            corpus=reading.corpus,
            out_dir=Path(settings.output.dir),
            loader_version=reading.loader_version,
            root=reading.root,
            keeps_missing=reading.keeps_missing,
            synthetic=reading.synthetic,
            ranges=reading.ranges,
            tasks=reading.tasks,
            extra=reading.extra,
            processes=settings.output.processes,
        )


def _of_release(name: str) -> Reader:
    """The reader of a released corpus, which is the module of that name."""
    release: Any = import_module(f"lalm_mer.corpora.{name}")  # a Release

    def open_release(settings: CorpusSettings) -> Reading:
        root = Path(settings.root or "")
        return Reading(
            name,
            release.read(root),
            release.LOADER_VERSION,
            root=root,
            keeps_missing=settings.missing_audio == "keep",
            ranges=release.RANGES or None,
        )

    known_defects = getattr(release, "KNOWN_DEFECTS", {})
    return Reader(open_release, frozenset({"root", "missing_audio"}), ("root",), release.facts, known_defects)


def _open_manifest(settings: CorpusSettings) -> Reading:
    corpus = settings.alias or "manifest"
    if not re.fullmatch(r"\w[\w.-]*", corpus):
        raise ConfigError(f"key 'corpus.alias': {corpus!r}; expected letters, digits, '_', '-' and '.'")
    rows = manifest.read(
        Path(settings.root or ""),
        settings.manifest or "",
        corpus=corpus,
        columns=settings.columns or {},
        labels=settings.labels,
        encoding=settings.encoding or "utf-8-sig",
        delimiter=settings.delimiter,
        ranges=settings.ranges or {},
        cut=settings.cut is not False,
    )
    declared = settings.labels
    tasks = declared_task(corpus, declared) if declared else {}
    extra = {"declared_labels": declared} if declared else {}
    return Reading(
        corpus,
        rows,
        manifest.LOADER_VERSION,
        root=Path(settings.root or ""),
        keeps_missing=settings.missing_audio == "keep",
        ranges=settings.ranges,
        tasks=tasks,
        extra=extra,
    )


def _open_circumplex(settings: CorpusSettings) -> Reading:
    variant, seed, noise = settings.variant or "masked", settings.seed or 0, settings.noise or 0.0
    ceilings = dataclasses.asdict(circumplex.ceilings(variant, noise, seed))
    extra = {"variant": variant, "seed": seed, "noise": noise, "ceilings": ceilings}
    rows = circumplex.read(variant, seed, noise)
    return Reading("circumplex", rows, circumplex.LOADER_VERSION, synthetic=True, extra=extra)


RELEASES = ("ravdess", "crema_d", "emodb", "iemocap", "meld", "mosei", "msp_podcast")
"""Released corpora: each has a module of its name in this package."""
READERS: dict[str, Reader] = {
    **{name: _of_release(name) for name in RELEASES},
    "manifest": Reader(
        _open_manifest,
        frozenset(
            {
                "root",
                "missing_audio",
                "manifest",
                "alias",
                "columns",
                "labels",
                "encoding",
                "delimiter",
                "ranges",
                "cut",
            }
        ),
        ("root", "manifest"),
    ),
    "circumplex": Reader(_open_circumplex, frozenset({"variant", "seed", "noise"})),
}
