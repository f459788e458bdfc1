"""Frames of features on disk: memory-mapped Arrow files with a checksum for every utterance."""

from __future__ import annotations

import logging
import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lalm_mer.core.errors import BusyError, CorpusError
from lalm_mer.core.locks import only_writer
from lalm_mer.core.output import atomic_path, write_json, writing
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.processes import is_first_process

__all__ = ["KEY_FILE", "REMAINS", "FeatureShards", "Place", "Row", "part_of", "writing_shards"]

KEY_FILE = "key.json"
"""File with the key of a folder; its time of change is the last use"""
_ROWS = pa.schema(
    [
        ("name", pa.string()), ("source_hash", pa.string()), ("dtype", pa.string()), ("frames", pa.uint32()),
        ("size", pa.uint32()), ("checksum", pa.uint32()), ("values", pa.large_binary()),
    ]
)  # fmt: skip
_SHARD_BYTES = 256 * 2**20
_SHARD_S = 60.0
"""Time after which a shard is complete, so that a killed process loses no more"""
_SLOTS = 64
"""Number of locks; each is for as large a share of the names"""
_KEY_LOCK = "part-key"
REMAINS = ".part-*"
"""Locks and incomplete shards, of a process that writes or was killed"""

Place: TypeAlias = tuple[int, int]
"""Number of the shard, and row in it"""
Row: TypeAlias = tuple[str, str | None, npt.NDArray[Any]]
"""Name, hash of what the frames were computed from, and frames (F, D) as float32, float16 or 16 bits (uint16)"""


def part_of(name: str, parts: int) -> int:
    """Number of the part that a name belongs to, if the names are divided into parts, at most 64 of them."""
    return zlib.crc32(name.encode()) % _SLOTS % parts


@contextmanager
def writing_shards(
    folder: Path, part: int = 0, parts: int = 1, *, waiting: Callable[[], object] | None = None
) -> Iterator[None]:
    """Let no other process write the same names during the block, however many parts it divides them into.

    Args:
        folder: of the shards; it is removed at the end if it is empty
        part: number of the part that this process writes
        parts: number of parts
        waiting: called before this process waits for another one; None to refuse instead

    Raises:
        BusyError: if another process writes the same names, and this one does not wait
    """
    slots = range(part, _SLOTS, parts)
    with ExitStack() as locks:
        for slot in slots:
            locks.enter_context(only_writer(folder / f"part-{slot:x}", waiting=waiting))
        remains = [f".part-*-{slot:x}-*.partial" for slot in slots]  # of a process that was killed
        remains += [f".{KEY_FILE}.*", f".{_KEY_LOCK}.*"] if parts == 1 else []
        for path in [path for name in remains for path in folder.glob(name)]:
            path.unlink()
        yield
    with suppress(OSError):  # it has shards
        folder.rmdir()


class FeatureShards:
    """A folder of shards, each written once and atomically, so that several processes can write at the same time.

    A damaged shard is removed on opening, so that its rows are computed again; a row whose checksum is wrong is an
    error when it is read. What a killed process has left is removed on opening or by the next one that writes.

    Args:
        folder: created by the first ``write``
        key: plain data that determines the values, written beside them
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = dict(key)
        self._shards: list[datasets.Dataset] = []
        self._opened: set[Path] = set()
        self.places: dict[str, dict[str | None, Place]] = {}
        """Name -> hash of the source -> place, the newest last"""
        if (folder / KEY_FILE).exists():
            with writing(folder):
                os.utime(folder / KEY_FILE)
        if any(folder.glob(REMAINS)):
            with suppress(BusyError), writing_shards(folder):
                pass
        self.reopen()

    @contextmanager
    def only_writer(self, part: int = 0, parts: int = 1) -> Iterator[None]:
        """Let no other process write this part of the names during the block, and open what others have written.

        Args:
            part: number of this process, of those that write together
            parts: their number; each writes the names of which ``part_of`` is its number
        """

        @cache
        def waiting() -> None:
            if is_first_process():
                print(f"waiting for another process that writes {as_recorded(self.folder)}", flush=True)  # noqa: T201

        with writing_shards(self.folder, part, parts, waiting=waiting):
            self.reopen()
            yield

    def reopen(self) -> None:
        """Open shards that other processes have written."""
        for path in sorted(self.folder.glob("part-*.arrow")):
            if path not in self._opened:
                self._open(path)

    def read(self, place: Place) -> npt.NDArray[Any]:
        """The frames at a place, (F, D), of the memory map.

        Raises:
            CorpusError: if they are damaged
        """
        shard, row = place
        table = self._shards[shard].data
        name, dtype, frames, size, checksum = (
            table.column(column)[row].as_py() for column in ("name", "dtype", "frames", "size", "checksum")
        )
        values = table.column("values")[row].as_buffer()
        if _checksum(name, dtype, frames, size, values) != checksum:
            raise CorpusError(
                f"{self.folder}: the values of {name} are damaged; remove the folder by "
                f"`lalm-mer cache --clear {self.folder.name}`, and rerun the same command"
            )
        return np.frombuffer(values, dtype=dtype).reshape(frames, size)

    def write(self, batches: Iterable[Sequence[Row]], part: int = 0) -> int:
        """Write rows into new shards of at most about 256 MiB or a minute; returns their number.

        A shard ends with a batch, so that what is computed after a kill has the batches of an uninterrupted process.
        The shards before an error are kept.

        Args:
            batches: rows that are computed together
            part: as in ``only_writer``
        """
        remaining = iter(batches)
        count = 0
        for first in remaining:
            if not count:
                with only_writer(self.folder / _KEY_LOCK, waiting=lambda: None):
                    write_json(self.folder / KEY_FILE, self._key)
            count += self._write_shard(chain([first], remaining), part)
        return count

    def _write_shard(self, batches: Iterator[Sequence[Row]], part: int) -> int:
        path = self.folder / f"part-{len(self._shards):05d}-{part:x}-{uuid.uuid4().hex[:8]}.arrow"
        begun, count, size = time.monotonic(), 0, 0
        with atomic_path(path) as unfinished:
            with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, _ROWS) as writer:
                for batch in batches:
                    for row in batch:
                        writer.write_batch(_record(row))
                    count, size = count + len(batch), size + sum(frames.nbytes for _, _, frames in batch)
                    if size >= _SHARD_BYTES or time.monotonic() - begun >= _SHARD_S:
                        break
            with unfinished.open("rb") as written:
                os.fsync(written.fileno())
        self._open(path)
        return count

    def _open(self, path: Path) -> None:
        self._opened.add(path)
        try:
            shard = datasets.Dataset.from_file(str(path))
            if not shard.data.table.schema.equals(_ROWS):
                raise ValueError("it has other columns")
            shard.data.table.validate(full=True)
            names, sources = shard["name"][:], shard["source_hash"][:]
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            logging.getLogger(__name__).warning("%s: removed, because it is damaged (%s); recomputing", path, error)
            path.unlink(missing_ok=True)
            return
        number = len(self._shards)
        self._shards.append(shard)
        for row, (name, source_hash) in enumerate(zip(names, sources, strict=True)):
            self.places.setdefault(name, {})[source_hash] = (number, row)


def _record(row: Row) -> pa.RecordBatch:
    name, source_hash, frames = row
    values, dtype = np.ascontiguousarray(frames).tobytes(), frames.dtype.name
    count, width = frames.shape
    cells = (name, source_hash, dtype, count, width, _checksum(name, dtype, count, width, values), values)
    columns = [pa.array([cell], field.type) for cell, field in zip(cells, _ROWS, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=_ROWS)


def _checksum(name: str, dtype: str, frames: int, size: int, values: bytes | pa.Buffer) -> int:
    return zlib.crc32(values, zlib.crc32(f"{name} {dtype} {frames} {size}".encode()))
