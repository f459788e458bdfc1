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
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError, one_line
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.parts import SCHEMA
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
        summary: content of ``summary.json``
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
        AudioError: naming the utterance, if it has no audio, or its audio is damaged
    """
    audio = row["audio"]
    if audio is None:
        raise AudioError(f"utterance {row['utterance_id']} has no audio", "missing_audio")
    return decode(audio["bytes"], f"utterance {row['utterance_id']} ({audio['path']})").resampled(sampling_rate)


def load(folder: Path) -> PreparedCorpus:
    """Open a prepared corpus, the ``output.dir`` of its preparation, without network access.

    Raises:
        CorpusError: if the folder is not a prepared corpus, or is damaged

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
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        parts = sorted((folder / "utterances").glob("*.parquet"))
        of_this_version = all(pq.read_schema(path).names == SCHEMA.names for path in parts)
        found, stated = sum(pq.read_metadata(path).num_rows for path in parts), summary["n_utterances"]
        opened = PreparedCorpus(summary["corpus"], tuple(parts), summary)
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        raise CorpusError(f"{folder}: damaged ({one_line(error)}); {_HINT}") from error
    if not of_this_version:
        raise CorpusError(f"{folder}: prepared by another version of this library, with other columns; {_HINT}")
    if found != stated:
        raise CorpusError(f"{folder}: {found} utterances, but summary.json counts {stated}; {_HINT}")
    return opened
