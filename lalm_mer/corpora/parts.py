"""One part of a prepared corpus: read and check the audio of its rows and write them as one Parquet file.

Parts are made by several processes in any order. Each depends only on its own rows, so the result is the same as from
one process, and a part that an earlier, killed run completed is not made again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import AudioError, CorpusError, one_line
from lalm_mer.core.labels import Task
from lalm_mer.core.output import atomic_path, write_json
from lalm_mer.core.provenance import hash_bytes, hash_json
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora.base import AudioFile, read_audio

__all__ = ["SCHEMA", "Part", "PartCounts", "corpus_hashes", "make_part", "part_name", "row_hash"]

_FORMAT = 2
_ROWS_IN_A_GROUP = 32  # rows in memory at a time, if their audio has fewer bytes than the next constant
_BYTES_IN_A_GROUP = 2**28

_VOTES = pa.list_(pa.struct([("label", pa.string()), ("votes", pa.int32())]))
_INTENSITIES = pa.list_(pa.struct([("label", pa.string()), ("intensity", pa.float64())]))
SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("corpus", pa.string()),
        ("audio", pa.struct([("path", pa.string()), ("bytes", pa.binary())])),
        ("audio_sha256", pa.string()),
        ("samples_sha256", pa.string()),
        ("sampling_rate", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        *((name, pa.string()) for name in ("transcript", "transcript_source", "speaker", "gender")),
        ("age", pa.int32()),
        *((name, pa.string()) for name in ("ethnicity", "language", "session", "dialogue")),
        ("turn", pa.int32()),
        *((name, pa.string()) for name in ("script", "split", "label")),
        ("ratings", _VOTES),
        *((name, pa.float64()) for name in ("valence", "arousal", "dominance", "sentiment")),
        ("intensities", _INTENSITIES),
        ("video_path", pa.string()),
    ]
)
_TABLE = pa.schema([field for field in SCHEMA if field.name != "audio"])
_NUMBERS = [field.name for field in SCHEMA if pa.types.is_floating(field.type) and field.name != "duration_s"]
_MEASURED = ("audio", "audio_sha256", "samples_sha256", "sampling_rate", "duration_s")


@dataclass(frozen=True)
class Part:
    """What one process needs to make a part.

    Args:
        number: number of the part from 0, in the order of the reader
        rows: rows of the reader
        root: folder of the release; None if the reader produces the audio
        keep_missing_audio: whether an utterance whose audio is missing is kept without it
        metadata: metadata of the Parquet file
        tasks: tasks whose labels are counted
    """

    number: int
    rows: Sequence[Utterance | Rejection]
    root: Path | None
    keep_missing_audio: bool
    metadata: Mapping[str, Any]
    tasks: Mapping[str, Task]

    def key(self) -> str:
        """Hash of everything that the part depends on; audio files are represented by size and modification time."""
        rows = [_key_of(row, self.root) for row in self.rows]
        return hash_json(
            [_FORMAT, rows, self.keep_missing_audio, dict(self.metadata), sorted(map(repr, self.tasks.values()))]
        )


@dataclass
class PartCounts:
    """Counts of the utterances of a part, whose sums are the summary of the corpus.

    Args:
        key: ``Part.key`` of the part
        rejected: path, reason and detail of each rejection
        row_hashes: ``row_hash`` of each kept row, in order
        samples_hashes: its ``samples_sha256``
        tasks: task -> label -> number of utterances
        without_audio: number of utterances that were kept without audio
        duration_s: total duration
    """

    key: str
    rejected: list[dict[str, str]]
    row_hashes: list[str]
    samples_hashes: list[str | None]
    labels: dict[str, int]
    speakers: dict[str, int]
    tasks: dict[str, dict[str, int]]
    without_audio: int
    duration_s: float


def part_name(number: int) -> str:
    """File name of a part."""
    return f"part-{number:05d}.parquet"


def row_hash(cells: Mapping[str, Any]) -> str:
    """Hash of a row of the utterance table, whose audio is represented by its path and the hash of its bytes.

    The hash of the samples is not part of it: for lossy audio it depends on the version of the decoder.
    """
    path = cells["audio"]["path"] if cells["audio"] else None
    return hash_json([path, {name: cells[name] for name in SCHEMA.names if name not in ("audio", "samples_sha256")}])


def corpus_hashes(row_hashes: Sequence[str], samples_hashes: Sequence[str | None]) -> dict[str, str]:
    """``root_hash``, which identifies a corpus in runs, and ``content_hash``, which also covers the decoded samples.

    Args:
        row_hashes: ``row_hash`` of each row, in any order
        samples_hashes: ``samples_sha256`` of the same rows
    """
    rows = sorted([row, samples or ""] for row, samples in zip(row_hashes, samples_hashes, strict=True))
    return {"root_hash": hash_json([row for row, _ in rows]), "content_hash": hash_json(rows)}


def make_part(part: Part, folder: Path) -> PartCounts:
    """Write ``folder``/part-NNNNN.parquet and its counts as JSON, unless both exist for the same rows.

    A part without kept rows has no Parquet file.
    """
    counts_file = folder / f"part-{part.number:05d}.json"
    parquet = folder / part_name(part.number)
    key = part.key()
    earlier = _earlier_counts(counts_file, key)
    if earlier is not None and (parquet.is_file() or not earlier.row_hashes):
        return earlier
    counts = PartCounts(key, [], [], [], {}, {}, {name: {} for name in part.tasks}, 0, 0.0)
    rows = _kept_rows(part, counts)
    for stale in (counts_file, parquet):  # the counts first: they mark the Parquet file as complete
        stale.unlink(missing_ok=True)
    first = next(rows, None)
    if first is not None:
        with atomic_path(parquet) as partial:
            _write(partial, first, rows, part.metadata)
    write_json(counts_file, asdict(counts))
    return counts


def _earlier_counts(file: Path, key: str) -> PartCounts | None:
    if not file.is_file():
        return None
    written = json.loads(file.read_text(encoding="utf-8"))
    return PartCounts(**written) if written["key"] == key else None


def _key_of(row: Utterance | Rejection, root: Path | None) -> list[Any]:
    cells = {field.name: getattr(row, field.name) for field in fields(row)}
    if isinstance(row, Rejection):
        return ["rejected", cells]
    if row.audio_bytes is not None:
        return ["made", cells | {"audio_bytes": hash_bytes(row.audio_bytes)}]
    stat = None
    if root is not None and row.audio_path is not None:
        with contextlib.suppress(OSError, ValueError):  # a missing file or an invalid name: read_audio reports it
            found = (root / row.audio_path).stat()
            stat = [found.st_size, found.st_mtime_ns]
    return ["found", cells, stat]


def _kept_rows(part: Part, counts: PartCounts) -> Iterator[dict[str, Any]]:
    for row in part.rows:
        audio = row if isinstance(row, Rejection) else _audio_of(row, part)
        if isinstance(audio, Rejection):
            counts.rejected.append(asdict(audio))
            continue
        assert isinstance(row, Utterance)
        cells = _cells(row, audio)
        if (fault := _fault(cells)) is not None:
            detail = f"utterance {row.utterance_id}: {fault}"
            counts.rejected.append(asdict(Rejection(row.audio_path or row.utterance_id, "bad_value", detail)))
            continue
        _count(cells, counts, part.tasks)
        yield cells


def _audio_of(row: Utterance, part: Part) -> AudioFile | Rejection | None:
    if row.audio_bytes is not None:
        name = row.audio_path or row.utterance_id
        try:
            waveform = decode(row.audio_bytes, name)
        except AudioError as error:
            return Rejection(name, error.reason, str(error).removeprefix(f"{name}: "))
        return AudioFile(name, row.audio_bytes, waveform.sampling_rate, waveform.duration_s, waveform.sha256)
    if row.audio_path is None:
        if part.keep_missing_audio:
            return None
        return Rejection(row.utterance_id, "missing_audio", "the release has no audio for it")
    if part.root is None:
        raise CorpusError(f"utterance {row.utterance_id}: {row.audio_path} cannot be read without a corpus root")
    times = (row.start_s, row.end_s) if row.cut else (None, None)
    audio = read_audio(part.root, part.root / row.audio_path, *times)
    if isinstance(audio, Rejection):
        if audio.reason == "missing_audio" and part.keep_missing_audio:
            return None
        return Rejection(audio.path, audio.reason, f"utterance {row.utterance_id}: {audio.detail}")
    return audio


def _cells(row: Utterance, audio: AudioFile | None) -> dict[str, Any]:
    """One row of the Parquet file."""
    cells = {name: getattr(row, name) for name in SCHEMA.names if name not in _MEASURED}
    for name in _NUMBERS:  # as Parquet stores them, so that a row has one hash before and after
        cells[name] = None if cells[name] is None else float(cells[name])
    if row.ratings is not None:
        cells["ratings"] = [{"label": label, "votes": n} for label, n in sorted(row.ratings.items())]
    if row.intensities is not None:
        pairs = sorted(row.intensities.items())
        cells["intensities"] = [{"label": label, "intensity": float(value)} for label, value in pairs]
    if audio is None:
        return cells | dict.fromkeys(_MEASURED)
    return cells | {
        "audio": {"path": audio.path, "bytes": audio.content},
        "audio_sha256": hash_bytes(audio.content),
        "samples_sha256": audio.samples_sha256,
        "sampling_rate": audio.sampling_rate,
        "duration_s": audio.duration_s,
    }


def _fault(cells: Mapping[str, Any]) -> str | None:
    """Why the columns cannot take a row, such as a number above 2**31 - 1; None if they can."""
    try:
        pa.RecordBatch.from_pylist([cells], _TABLE)
    except (pa.ArrowException, OverflowError) as error:
        return one_line(error)
    return None


def _count(cells: Mapping[str, Any], counts: PartCounts, tasks: Mapping[str, Task]) -> None:
    counts.row_hashes.append(row_hash(cells))
    counts.samples_hashes.append(cells["samples_sha256"])
    counts.without_audio += cells["audio"] is None
    counts.duration_s += cells["duration_s"] or 0.0
    for column, counter in (("label", counts.labels), ("speaker", counts.speakers)):
        if cells[column] is not None:
            counter[cells[column]] = counter.get(cells[column], 0) + 1
    for name, task in tasks.items():
        values = task.values_of([cells[column] for column in task.columns])
        present = (
            () if values is None else tuple(name for name, value in zip(task.targets, values, strict=True) if value)
        )
        found = ("unmapped",) if values is None else present if task.kind != "scalar" else ("mapped",)
        for label in found:
            counts.tasks[name][label] = counts.tasks[name].get(label, 0) + 1


def _write(path: Path, first: dict[str, Any], rest: Iterator[dict[str, Any]], metadata: Mapping[str, Any]) -> None:
    encoded = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    # Audio and ids do not repeat, so dictionary encoding would only cost time.
    dictionary = [name for name in SCHEMA.names if name not in ("utterance_id", "audio", "audio_sha256")]
    with pq.ParquetWriter(path, SCHEMA.with_metadata(encoded), compression="zstd", use_dictionary=dictionary) as writer:
        for group in _groups(chain([first], rest)):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    n_bytes = 0
    for row in rows:
        size = len(row["audio"]["bytes"]) if row["audio"] else 0
        if group and (len(group) == _ROWS_IN_A_GROUP or n_bytes + size > _BYTES_IN_A_GROUP):
            yield group
            group, n_bytes = [], 0
        group.append(row)
        n_bytes += size
    yield group
