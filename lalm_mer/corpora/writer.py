"""Write the rows of any reader as one prepared corpus: Parquet, the rejected files, and a summary that adds up."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.labels import Task
from lalm_mer.core.provenance import hash_bytes, hash_json, write_json
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora.base import load_tasks

__all__ = ["SCHEMA", "is_prepared", "write_corpus"]

ROWS_IN_A_GROUP = 100  # what is held in memory at a time
PARTS = frozenset(("utterances", "rejected.jsonl", "summary.json"))

_VOTES = pa.list_(pa.struct([("label", pa.string()), ("votes", pa.int32())]))
_INTENSITIES = pa.list_(pa.struct([("label", pa.string()), ("intensity", pa.float64())]))
SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("corpus", pa.string()),
        ("audio", pa.struct([("path", pa.string()), ("bytes", pa.binary())])),
        ("sampling_rate", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        *((name, pa.string()) for name in ("transcript", "transcript_source", "speaker", "gender")),
        ("age", pa.int32()),
        *((name, pa.string()) for name in ("ethnicity", "language", "session", "dialogue")),
        ("turn", pa.int32()),
        ("script", pa.string()),
        ("label", pa.string()),
        ("ratings", _VOTES),
        *((name, pa.float64()) for name in ("valence", "arousal", "dominance", "sentiment")),
        ("intensities", _INTENSITIES),
        ("video_path", pa.string()),
    ]
)


@dataclass
class _Counts:
    """What has gone by so far; a hash a row is all that is kept of it."""

    rejected: Counter[str] = field(default_factory=Counter)
    first_rejection: Rejection | None = None
    labels: Counter[str] = field(default_factory=Counter)
    speakers: Counter[str] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)
    row_hashes: list[tuple[str, str]] = field(default_factory=list)
    duration_s: float = 0.0

    def root_hash(self) -> str:
        """One hash of every audio file and row, whatever their order and machine."""
        return hash_json(sorted(self.row_hashes))


def write_corpus(
    rows: Iterable[Utterance | Rejection],
    *,
    corpus: str,
    out_dir: Path,
    loader_version: str,
    synthetic: bool = False,
    ranges: Mapping[str, Sequence[float]] | None = None,
    tasks: Mapping[str, Task] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Stream ``rows`` to ``out_dir``, which appears whole at the end or not at all.

    A prepared corpus that is already there is replaced; of two utterances with one id the first is kept and the other
    rejected as ``duplicate_id``. ``n_found = n_utterances + n_rejected`` by construction.

    Args:
        rows: what a reader yields
        corpus: name of the corpus
        out_dir: folder to write
        loader_version: version of the reader
        synthetic: whether the speech is synthetic
        ranges: ``valence``, ``arousal``, ``dominance`` or ``sentiment`` -> lowest and highest value of its scale
        tasks: tasks to count the labels of; None for those the package knows for ``corpus``
        extra: further keys of the summary, plain data

    Returns:
        The summary, as written to ``summary.json``

    Raises:
        CorpusError: if nothing was found, if everything was rejected (nothing is written then), or if ``out_dir``
            holds something that is not a prepared corpus
    """
    if out_dir.exists() and not is_prepared(out_dir) and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise CorpusError(f"{out_dir}: holds something that is not a prepared corpus; choose another output.dir")
    counts = _Counts()
    with _replaced_at_the_end(out_dir) as partial:
        (partial / "utterances").mkdir()
        metadata = {"corpus": corpus, "synthetic": synthetic, "loader_version": loader_version, "ranges": ranges}
        with (partial / "rejected.jsonl").open("w", encoding="utf-8") as rejected:
            kept = _kept(rows, corpus, counts, rejected)
            _write_parquet(kept, partial / "utterances" / "part-00000.parquet", metadata, counts)
        _require_utterances(counts, corpus)
        known = load_tasks(corpus) if tasks is None else tasks
        summary = {
            "corpus": corpus,
            "synthetic": synthetic,
            "root_hash": counts.root_hash(),
            "loader_version": loader_version,
            "n_found": len(counts.ids) + counts.rejected.total(),
            "n_utterances": len(counts.ids),
            "n_rejected": counts.rejected.total(),
            "rejected": dict(sorted(counts.rejected.items())),
            "labels": dict(sorted(counts.labels.items())),
            "speakers": dict(sorted(counts.speakers.items())),
            "duration_s": round(counts.duration_s, 3),
            "ranges": None if ranges is None else {name: list(scale) for name, scale in ranges.items()},
            "tasks": {name: _task_counts(task, counts) for name, task in known.items()},
            **(extra or {}),
        }
        write_json(partial / "summary.json", summary)
    return summary


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` is a corpus that ``write_corpus`` wrote, and holds nothing else."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == PARTS


@contextmanager
def _replaced_at_the_end(out_dir: Path) -> Iterator[Path]:
    """A fresh folder beside ``out_dir`` that takes its place if the block ends without an error."""
    out_dir = out_dir.resolve()
    partial, old = (out_dir.with_name(f".{out_dir.name}.{state}") for state in ("partial", "old"))
    try:
        if old.exists() and not out_dir.exists():  # a run was killed between the two renames below
            old.replace(out_dir)
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    except OSError as error:
        raise CorpusError(f"{out_dir}: cannot be written ({error}); choose another output.dir") from error
    try:
        yield partial
        if out_dir.exists():
            out_dir.replace(old)
        partial.replace(out_dir)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    if old.exists():
        shutil.rmtree(old)


def _kept(rows: Iterable[Utterance | Rejection], corpus: str, counts: _Counts, rejected: Any) -> Iterator[Utterance]:  # noqa: ANN401 a text file
    """The utterances among ``rows``; everything else goes to ``rejected``."""
    for row in tqdm(rows, desc=f"prepare {corpus}", unit=" files", disable=None):
        if isinstance(row, Utterance) and row.utterance_id in counts.ids:
            detail = f"utterance {row.utterance_id} was already read from {counts.ids[row.utterance_id]}"
            row = Rejection(row.audio_path, "duplicate_id", detail)
        if isinstance(row, Rejection):
            counts.rejected[row.reason] += 1
            counts.first_rejection = counts.first_rejection or row
            rejected.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        else:
            counts.ids[row.utterance_id] = row.audio_path
            yield row


def _write_parquet(rows: Iterable[Utterance], path: Path, metadata: Mapping[str, Any], counts: _Counts) -> None:
    encoded = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    # Sound does not repeat, so a dictionary of it would be built in vain.
    dictionary = [name for name in SCHEMA.names if name not in ("utterance_id", "audio")]
    with pq.ParquetWriter(path, SCHEMA.with_metadata(encoded), compression="zstd", use_dictionary=dictionary) as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(_row(row, counts))
            if len(group) == ROWS_IN_A_GROUP:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
        writer.add_key_value_metadata({"root_hash": json.dumps(counts.root_hash())})


def _row(utterance: Utterance, counts: _Counts) -> dict[str, Any]:
    """One row as Parquet has it, counted and hashed."""
    row = {name: getattr(utterance, name) for name in SCHEMA.names if name != "audio"}
    if utterance.ratings is not None:
        row["ratings"] = [{"label": label, "votes": n} for label, n in sorted(utterance.ratings.items())]
    if utterance.intensities is not None:
        intensities = sorted(utterance.intensities.items())
        row["intensities"] = [{"label": label, "intensity": value} for label, value in intensities]
    identity = [utterance.audio_path, hash_bytes(utterance.audio_bytes), row]
    counts.row_hashes.append((utterance.audio_path, hash_json(identity)))
    counts.duration_s += utterance.duration_s
    if utterance.label is not None:
        counts.labels[utterance.label] += 1
    if utterance.speaker is not None:
        counts.speakers[utterance.speaker] += 1
    return row | {"audio": {"path": utterance.audio_path, "bytes": utterance.audio_bytes}}


def _require_utterances(counts: _Counts, corpus: str) -> None:
    if counts.ids:
        return
    first = counts.first_rejection
    if first is None:
        raise CorpusError(f"{corpus}: found no audio files of the corpus; does corpus.root point to its release?")
    raise CorpusError(
        f"{corpus}: all {counts.rejected.total()} files found were rejected, the first one {first.path}: "
        f"{first.reason} ({first.detail}); nothing was written"
    )


def _task_counts(task: Task, counts: _Counts) -> dict[str, int]:
    """Utterances of each label of the task; those without one, unlabelled ones included, are unmapped."""
    found = dict.fromkeys(task.label_set.labels, 0)
    for corpus_label, n in counts.labels.items():
        label = task.label_of(corpus_label)
        if label is not None:
            found[label] += n
    return found | {"unmapped": len(counts.ids) - sum(found.values())}
