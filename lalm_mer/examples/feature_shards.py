"""Frames of features on disk: memory-mapped Arrow files with a checksum for every utterance."""

from __future__ import annotations

import logging
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.output import atomic_path, write_json, writing

__all__ = ["KEY_FILE", "FeatureShards", "Place", "Row"]

KEY_FILE = "key.json"
"""File with the key of a folder; its time of change is the last use"""
_ROWS = pa.schema(
    [
        ("name", pa.string()), ("source_hash", pa.string()), ("dtype", pa.string()), ("frames", pa.uint32()),
        ("size", pa.uint32()), ("checksum", pa.uint32()), ("values", pa.large_binary()),
    ]
)  # fmt: skip
_SHARD_BYTES = 256 * 2**20

Place: TypeAlias = tuple[int, int]
"""Number of the shard, and row in it"""
Row: TypeAlias = tuple[str, str | None, npt.NDArray[Any]]
"""Name, hash of what the frames were computed from, and frames (F, D) as float32, float16 or 16 bits (uint16)"""


class FeatureShards:
    """A folder of shards, each written once and atomically, so that several processes can write at the same time.

    A damaged shard is removed on opening, so that its rows are computed again; a row whose checksum is wrong is an
    error when it is read.

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
        self.reopen()

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

    def write(self, rows: Iterable[Row]) -> int:
        """Write rows into new shards of at most about 256 MiB; returns their number.

        The shards before an error are kept.
        """
        remaining = iter(rows)
        count = 0
        for first in remaining:
            if not count:
                write_json(self.folder / KEY_FILE, self._key)
            count += self._write_shard(chain([first], remaining))
        return count

    def _write_shard(self, rows: Iterator[Row]) -> int:
        path = self.folder / f"part-{len(self._shards):05d}-{uuid.uuid4().hex[:8]}.arrow"
        count = size = 0
        with atomic_path(path) as unfinished:
            with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, _ROWS) as writer:
                for name, source_hash, frames in rows:
                    values, dtype = np.ascontiguousarray(frames).tobytes(), frames.dtype.name
                    count_of_frames, width = frames.shape
                    checksum = _checksum(name, dtype, count_of_frames, width, values)
                    cells = (name, source_hash, dtype, count_of_frames, width, checksum, values)
                    columns = [pa.array([cell], field.type) for cell, field in zip(cells, _ROWS, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_ROWS))
                    count, size = count + 1, size + len(values)
                    if size >= _SHARD_BYTES:
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


def _checksum(name: str, dtype: str, frames: int, size: int, values: bytes | pa.Buffer) -> int:
    return zlib.crc32(values, zlib.crc32(f"{name} {dtype} {frames} {size}".encode()))
