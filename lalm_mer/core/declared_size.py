"""Number of bytes of samples that an audio file declares, compared with those that it has.

libsndfile shortens a truncated file without an error, and reads nothing from some files whose writer could not enter
the number, because it wrote to a pipe or was killed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lalm_mer.core.errors import AudioError

__all__ = ["FORMATS", "MOST_BYTES", "with_size"]

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "FLAC", "OGG", "MP3")
"""Formats of libsndfile, by its names, of which a truncated file is recognised, here or by the decoder."""
MOST_BYTES = 2**30
"""Most bytes of an encoded file that are held in memory."""

_UNKNOWN = (0x7F000000, 2**31, 2**32)  # writers to a pipe enter a size near one of these: SoX, arecord, FFmpeg
_NEAR = 4096
_UNKNOWN_64 = 2**62  # and above, for sizes of 64 bits
_MOST_CHUNKS = 10_000
_LARGEST_PAGE = 65_307  # of an Ogg file, in bytes
_PAGE_HEAD = 27
_LAST_PAGE = 4  # flag


@dataclass(frozen=True)
class _Layout:
    """How a format arranges its chunks.

    Args:
        first: place of the first chunk
        total: struct of the size of the file from byte 8 on, which is at byte 4; None if the format has none
        head: struct of the name and size of a chunk
        samples: name of the chunk of samples
        skipped: bytes between the head of their chunk and the samples
        multiple: chunks begin at multiples of this number of bytes
        counts_head: whether sizes count the head of the chunk
    """

    first: int
    total: str | None
    head: str
    samples: bytes
    skipped: int = 0
    multiple: int = 2
    counts_head: bool = False


_LAYOUTS = {
    b"RIFF": _Layout(12, "<I", "<4sI", b"data"),
    b"RIFX": _Layout(12, ">I", ">4sI", b"data"),
    b"RF64": _Layout(12, None, "<4sI", b"data"),
    b"FORM": _Layout(12, ">I", ">4sI", b"SSND", skipped=8),
    b"riff": _Layout(40, None, "<16sQ", b"data", multiple=8, counts_head=True),
    b"caff": _Layout(8, None, ">4sQ", b"data", skipped=4, multiple=1),
}


@dataclass(frozen=True)
class _Size:
    """A declared number of bytes of samples.

    Args:
        declared: the number; None if the writer did not know it
        start: place of the first sample
        place: place of the field with the number
        form: struct of the field
        counted: bytes before the samples that the field counts
    """

    declared: int | None
    start: int
    place: int
    form: str
    counted: int


def with_size(file: BinaryIO, name: str) -> BinaryIO:
    """Check that an audio file has all samples that it declares; ``name`` is its name in errors.

    Returns:
        ``file``, or a copy in memory with the size that its writer did not know, at the start

    Raises:
        AudioError: with reason ``truncated``, or ``too_long`` if such a copy would have more than ``MOST_BYTES``
    """
    n_bytes = file.seek(0, io.SEEK_END)
    size = _size(file, n_bytes, name)
    file.seek(0)
    if size is None:
        return file
    found = n_bytes - size.start
    if size.declared is not None:
        if found < size.declared - 1:  # some writers count a pad byte that they do not write
            raise AudioError(
                f"{name}: {max(0, found)} bytes of the {size.declared} of samples that its header declares", "truncated"
            )
        return file
    if n_bytes > MOST_BYTES:
        raise AudioError(
            f"{name}: {n_bytes} bytes without a size in its header; expected at most {MOST_BYTES}; convert it to FLAC",
            "too_long",
        )
    content = bytearray(file.read())
    struct.pack_into(size.form, content, size.place, found + size.counted)
    return io.BytesIO(content)


def _size(file: BinaryIO, n_bytes: int, name: str) -> _Size | None:
    """The declared size; None if the format has none or its header is damaged, which the decoder reports."""
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        _check_last_page(file, n_bytes, name)
    if magic == b"NIST":
        return _nist(file)
    if magic in (b".snd", b"dns."):
        form = ">I" if magic == b".snd" else "<I"
        start, declared = struct.unpack(form[0] + "2I", file.read(8).ljust(8, b"\0"))
        known = None if declared in (0, 0xFFFFFFFF) else declared
        return _Size(known, start, 8, form, 0) if 12 <= start < n_bytes else None
    layout = _LAYOUTS.get(magic)
    return None if layout is None else _of_chunk(file, n_bytes, layout)


def _of_chunk(file: BinaryIO, n_bytes: int, layout: _Layout) -> _Size | None:
    head = struct.calcsize(layout.head)
    form = layout.head[0] + layout.head[-1]
    long_size: tuple[int, int] | None = None
    for start, chunk, declared in _chunks(file, n_bytes, layout, head):
        if chunk == b"ds64":  # of RF64: the sizes of the file and of the samples, in 64 bits
            file.seek(start + 8)
            long_size = start + 8, int.from_bytes(file.read(8), "little")
        if chunk[:4] != layout.samples:
            continue
        place, counted = start - struct.calcsize(form), layout.skipped + head * layout.counts_head
        samples = start + layout.skipped
        if long_size is not None and declared == 0xFFFFFFFF:
            place, declared, form = long_size[0], long_size[1], "<Q"
            unknown = declared == 0 or declared >= _UNKNOWN_64
        else:
            unknown = _is_unknown(file, layout, declared, counted, n_bytes - samples, samples)
        return _Size(None if unknown else declared - counted, samples, place, form, counted)
    return None


def _chunks(file: BinaryIO, n_bytes: int, layout: _Layout, head: int) -> Iterator[tuple[int, bytes, int]]:
    """Where the content of each chunk begins, its name, and its declared size."""
    place = layout.first
    for _ in range(_MOST_CHUNKS):
        if place + head > n_bytes:
            return
        file.seek(place)
        chunk, declared = struct.unpack(layout.head, file.read(head))
        yield place + head, chunk, declared
        place += max(declared, head) if layout.counts_head else head + declared
        place += -place % layout.multiple


def _is_unknown(file: BinaryIO, layout: _Layout, declared: int, counted: int, found: int, samples: int) -> bool:
    """Whether a size that is not that of the bytes found is one that a writer enters because it does not know it."""
    if declared > counted:
        near = any(abs(declared - size) <= _NEAR for size in _UNKNOWN)
        return declared - counted > found and (near or declared >= _UNKNOWN_64)
    if layout.total is None:
        return found > 0 and layout.counts_head
    file.seek(4)
    total = int(struct.unpack(layout.total, file.read(4))[0])
    return found > 0 and (total + 8 <= samples or any(abs(total - size) <= _NEAR for size in _UNKNOWN))


def _nist(file: BinaryIO) -> _Size | None:
    """The size of NIST SPHERE, whose header is a text of ``name -type value`` lines."""
    file.seek(0)
    lines = file.read(4096).decode("ascii", "replace").split("\n")
    fields = {words[0]: words[2] for words in map(str.split, lines) if len(words) == 3}
    counts = [fields.get(name, "") for name in ("sample_count", "channel_count", "sample_n_bytes")]
    if not all(count.isdecimal() and len(count) < 16 for count in (*counts, lines[1].strip() if lines[1:] else "")):
        return None
    samples, channels, width = map(int, counts)
    return _Size(samples * channels * width, int(lines[1]), 0, "", 0)


def _check_last_page(file: BinaryIO, n_bytes: int, name: str) -> None:
    """Check that the last page of an Ogg file is complete, and marked as the last."""
    file.seek(max(0, n_bytes - _LARGEST_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    n_segments = page[_PAGE_HEAD - 1] if len(page) >= _PAGE_HEAD else 256
    segments = page[_PAGE_HEAD : _PAGE_HEAD + n_segments]
    if len(segments) < n_segments or len(page) < _PAGE_HEAD + n_segments + sum(segments) or not page[5] & _LAST_PAGE:
        raise AudioError(f"{name}: its last page is not complete, or not marked as the last", "truncated")
