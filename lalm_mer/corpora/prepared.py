"""Open a prepared corpus."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.audio import Waveform, decode
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError, PredictionError, one_line
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.provenance import hash_bytes
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.parts import SCHEMA, corpus_hashes, row_hash
from lalm_mer.corpora.writer import is_prepared

if TYPE_CHECKING:
    import datasets
    import pandas as pd

__all__ = ["PreparedCorpus", "declared_task", "load", "waveform_of"]

_HINT = "prepare it with `python recipes/prepare_corpus.py --config recipes/corpora/<corpus>.yaml`"


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus that ``write_corpus`` has written.

    Args:
        name: name of the corpus
        parts: its Parquet files, in order
        summary: content of ``summary.json``, of which ``load`` has checked the hashes
    """

    name: str
    parts: tuple[Path, ...]
    summary: dict[str, Any]

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """One row per utterance; ``audio`` has the encoded bytes, not samples.

        ``datasets`` memory-maps an Arrow copy in its cache (HF_DATASETS_CACHE), under the hash of the corpus.

        Raises:
            CorpusError: if a part is damaged, or the cache cannot be written
        """
        import datasets  # imported here, since it takes a second that --help does not need

        cache = Path(datasets.config.HF_DATASETS_CACHE) / "lalm_mer" / str(self.summary["root_hash"])
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        try:
            opened = datasets.Dataset.from_parquet([str(path) for path in self.parts], cache_dir=str(cache))
        except (OSError, pa.ArrowException, datasets.exceptions.DatasetGenerationError) as error:
            reason = one_line(error.__cause__ or error)
            raise CorpusError(
                f"{self.parts[0].parent}: cannot be copied to {cache} ({reason}); check the disk space there, or set "
                "HF_DATASETS_CACHE to another folder"
            ) from error
        return opened.cast_column("audio", datasets.Audio(decode=False))

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read columns of all utterances; one that does not exist is a ``ConfigError``."""
        absent = sorted(set(names) - set(SCHEMA.names))
        if absent:
            raise ConfigError(f"no column {absent[0]!r} in the utterance table; it has {', '.join(SCHEMA.names)}")
        tables = [pq.read_table(path, columns=list(names), partitioning=None) for path in self.parts]
        frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        return frame

    def audio_paths(self) -> list[str | None]:
        """Path of the audio file of each utterance, relative to the folder of the release; None without audio."""
        tables = [pq.ParquetFile(path).read(columns=["audio.path"]) for path in self.parts]
        return [row["path"] if row else None for table in tables for row in table["audio"].to_pylist()]

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks that the package defines for the corpus, and that of the declared labels of a manifest."""
        declared = self.summary.get("declared_labels")
        return load_tasks(self.name) | (declared_task(self.name, declared) if declared else {})


def declared_task(corpus: str, labels: list[str]) -> dict[str, Task]:
    """The task ``<corpus>_<K>``, which predicts the K declared labels of a corpus unchanged.

    Example:
        >>> list(declared_task("clinic", ["flat", "lively"]))
        ['clinic_2']
    """
    name = f"{corpus}_{len(labels)}"
    return {name: Task(name, LabelSet(tuple(labels)), {label: label for label in labels})}


def waveform_of(row: Mapping[str, Any], sampling_rate: int) -> Waveform:
    """Decode the audio of a row of ``PreparedCorpus.dataset`` at a sampling rate in Hz.

    Raises:
        AudioError: naming the utterance, if it has no audio, or its audio is damaged or was changed
    """
    audio = row["audio"]
    if audio is None:
        raise AudioError(f"utterance {row['utterance_id']} has no audio", "missing_audio")
    if hash_bytes(audio["bytes"]) != row["audio_sha256"]:
        raise AudioError(
            f"utterance {row['utterance_id']}: its audio is not the one that was prepared; prepare the corpus again"
        )
    return decode(audio["bytes"], f"utterance {row['utterance_id']} ({audio['path']})").resampled(sampling_rate)


def load(folder: Path) -> PreparedCorpus:
    """Open a prepared corpus, the ``output.dir`` of its preparation, without network access.

    Raises:
        CorpusError: if the folder is not a prepared corpus, is damaged, or its Parquet files were changed

    Example:
        >>> load(Path("no/such/folder"))
        Traceback (most recent call last):
            ...
        lalm_mer.core.errors.CorpusError: no/such/folder: no such folder; prepare it with ...
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; {_HINT}")
    if not is_prepared(folder):
        raise CorpusError(f"{folder}: not a prepared corpus (utterances/, rejected.jsonl, summary.json); {_HINT}")
    parts = tuple(sorted((folder / "utterances").glob("*.parquet")))
    try:
        if any(pq.read_schema(path).names != SCHEMA.names for path in parts):
            raise CorpusError(f"{folder}: prepared by another version of this library, with other columns; {_HINT}")
        summary = read_object(folder / "summary.json")
        identity = parse(_Identity, summary, str(folder / "summary.json"), ignore_unknown=True)
        for path in parts:
            _require_same(path, identity)
        found = _read_hashes(parts)
    except CorpusError:
        raise
    except PredictionError as error:  # of summary.json, which it names
        raise CorpusError(f"{error}; {_HINT}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorpusError(f"{folder}: damaged ({one_line(error)}); {_HINT}") from error
    for key, value in found.items():
        if getattr(identity, key) != value:
            raise CorpusError(
                f"{folder}: {key} is {value} by its Parquet files, but {getattr(identity, key)!r:.80} in summary.json: "
                f"one of them was changed; {_HINT}"
            )
    return PreparedCorpus(identity.corpus, parts, summary)


@dataclass(frozen=True)
class _Identity:
    """What is read of summary.json after its preparation, and checked against the Parquet files."""

    corpus: str
    synthetic: bool
    n_utterances: int
    root_hash: str
    content_hash: str
    declared_labels: list[str] | None = None


def _require_same(part: Path, identity: _Identity) -> None:
    """Check the metadata of a part against the summary."""
    metadata = pq.read_schema(part).metadata or {}
    for key in ("corpus", "synthetic", "declared_labels"):
        found, stated = json.loads(metadata.get(key.encode(), b"null")), getattr(identity, key)
        if found != stated:
            raise ValueError(f"{key} is {found!r} in {part.name}, but {stated!r} in summary.json")


def _read_hashes(parts: Sequence[Path]) -> dict[str, Any]:
    """Hash all columns but the bytes of the audio, which ``waveform_of`` checks."""
    columns = ["audio.path", *(name for name in SCHEMA.names if name != "audio")]
    row_hashes: list[str] = []
    samples_hashes: list[str | None] = []
    for path in parts:
        with pq.ParquetFile(path) as file:
            for cells in file.read(columns=columns).to_pylist():
                row_hashes.append(row_hash(cells))
                samples_hashes.append(cells["samples_sha256"])
    return {"n_utterances": len(row_hashes), **corpus_hashes(row_hashes, samples_hashes)}
