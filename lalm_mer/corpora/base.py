"""What all corpus readers share: finding, reading and checking files, and the tasks of a corpus.

A reader is a function ``read(root, ...) -> Iterator[Utterance | Rejection]``. It yields one of the two for every file
or row that it finds, in an order that does not depend on the file system, and raises ``CorpusError`` only if nothing
can be read. It does not open audio: the writer does, on all cores, and rejects files that cannot be decoded.
"""

from __future__ import annotations

import csv
import functools
import math
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from lalm_mer.core.audio import decode, decode_video, encode, is_video
from lalm_mer.core.config import read_yaml
from lalm_mer.core.csv_records import Record, csv_records, is_like_rows
from lalm_mer.core.declared_size import MOST_BYTES
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError, one_line
from lalm_mer.core.file_kinds import placeholder
from lalm_mer.core.labels import Interval, LabelSet, Task
from lalm_mer.core.schema import Rejection
from lalm_mer.core.spelling import normalised
from lalm_mer.core.suggestions import no_such_path

__all__ = [
    "AUDIO_SUFFIXES", "AudioFile", "accepted", "decoded_text", "integer_of", "list_files", "load_tasks", "number_of",
    "read_audio", "read_table", "reject_outside", "relative", "require_inside",
]  # fmt: skip

T = TypeVar("T")

AUDIO_SUFFIXES = frozenset((
    ".wav", ".w64", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".aifc", ".au", ".caf",
    ".sph", ".wma",
))  # fmt: skip


@dataclass(frozen=True)
class AudioFile:
    """The audio of one utterance, decoded once to check that it is complete.

    Args:
        path: relative to the corpus root, with forward slashes
        content: encoded audio: the file as released; for a video or part of a recording, a lossless file of that part
        sampling_rate: sampling rate of ``content`` in Hz
        duration_s: duration of ``content`` in seconds
        samples_sha256: hash of its decoded samples, ``Waveform.sha256``
    """

    path: str
    content: bytes
    sampling_rate: int
    duration_s: float
    samples_sha256: str


def accepted(items: Iterable[T | Rejection]) -> Generator[Rejection, None, list[T]]:
    """Yield the rejections among ``items``, and return the other items."""
    others: list[T] = []
    for item in items:
        if isinstance(item, Rejection):
            yield item
        else:
            others.append(item)
    return others


def list_files(root: Path) -> Iterator[Path | Rejection]:
    """List the files under ``root``, sorted by relative path.

    A link to a folder outside is rejected, and so is a file or folder whose name is not UTF-8. Hidden files and
    folders, such as ``._*`` of macOS, are not part of a release and are skipped.

    Raises:
        CorpusError: if there is no such folder
    """
    if not root.is_dir():
        found = "a file" if root.exists() else f"nothing: {no_such_path(root, 'folder')}"
        raise CorpusError(f"corpus root {root}: expected a folder, found {found}")
    found_here: list[Path | Rejection] = []

    def reject_folder(error: OSError) -> None:
        path = relative(root, Path(error.filename))
        found_here.append(Rejection(path, "unreadable", f"the folder cannot be opened ({error.strerror})"))

    for folder, subfolders, files in os.walk(root, onerror=reject_folder):
        for name in files:
            if not name.startswith("."):
                found_here.append(Path(folder, name) if _is_utf8(name) else _reject_name(root, folder, name, "file"))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found_here += [_reject_name(root, folder, name, "folder") for name in subfolders if not _is_utf8(name)]
        subfolders[:] = [name for name in subfolders if _is_utf8(name)]
        for name in subfolders:  # os.walk lists links to folders but does not enter them
            path = Path(folder, name)
            if path.is_symlink() and (rejection := reject_outside(root, path)) is not None:
                found_here.append(rejection)
    yield from sorted(found_here, key=lambda item: relative(root, item) if isinstance(item, Path) else item.path)


def read_audio(
    root: Path, path: Path, start_s: float | None = None, end_s: float | None = None
) -> AudioFile | Rejection:
    """Read and check an audio or video file, or its part from ``start_s`` to ``end_s`` in seconds.

    Returns:
        The audio, or a rejection with reason ``outside_root``, ``missing_audio`` or one of ``decode`` and
        ``decode_video``
    """
    name = relative(root, path)
    is_part = start_s is not None or end_s is not None
    try:
        if (outside := reject_outside(root, path)) is not None:
            return outside
        if not path.is_file():
            target = f"; it is a link to {_in_utf8(str(path.readlink()))}" if path.is_symlink() else ""
            return Rejection(name, "missing_audio", f"no such file in the corpus folder{target}")
        source = _source(path, name, is_part=is_part)
        waveform = decode(source, name, start_s, end_s)
    except AudioError as error:
        return Rejection(name, error.reason, " ".join(str(error).removeprefix(f"{name}: ").split()))
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, permissions, circular links
        reason = getattr(error, "strerror", None) or error
        return Rejection(name, "unreadable", f"cannot be opened ({reason})")
    content = source if isinstance(source, bytes) and not is_part else encode(waveform)
    return AudioFile(name, content, waveform.sampling_rate, waveform.duration_s, waveform.sha256)


def _source(path: Path, name: str, *, is_part: bool) -> bytes | Path:
    """What ``decode`` takes: a file of which a part is used is not read completely."""
    if is_video(path):
        return _audio_of_video(path, name, path.stat().st_mtime_ns)
    if is_part:
        return path
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise AudioError(
            f"{name}: {size} bytes; expected at most {MOST_BYTES}; cut it into utterances, by start_s and end_s in a "
            "manifest or into files",
            "too_long",
        )
    return path.read_bytes()


@functools.lru_cache(maxsize=1)  # utterances of one video follow each other
def _audio_of_video(path: Path, name: str, modified_ns: int) -> bytes:
    return encode(decode_video(path, name))


def decoded_text(root: Path, path: Path) -> str:
    """Read a table or transcript of a release as UTF-8 (with or without BOM), or else as Windows-1252.

    Raises:
        CorpusError: if it cannot be read, or points outside ``root``
    """
    require_inside(root, path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); is {root} the folder of the release?") from error
    if (what := placeholder(content)) is not None:
        raise CorpusError(f"{path}: {what}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def require_inside(root: Path, path: Path) -> None:
    """Check that a table of a release is a file inside its folder.

    Raises:
        CorpusError: if it points outside ``root``, or is not a regular file
    """
    try:
        inside, regular = _is_inside(root, path), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"{path}: cannot be opened ({error})") from error
    if not inside:
        raise CorpusError(f"{path}: points outside the corpus folder {root}; copy the file into the folder")
    if path.exists() and not regular:
        raise CorpusError(f"{path}: not a regular file; is {root} the folder of the release?")


def read_table(
    root: Path, path: Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[Mapping[str, str] | Rejection]:
    """Read the rows of a CSV of a release as {column: cell} with normalised cells.

    A row with fewer cells than the header, such as a truncated one, is rejected as ``bad_row``.

    Raises:
        CorpusError: if the table cannot be read or lacks one of ``columns``; it may have others
    """
    records = csv_records(decoded_text(root, path), delimiter, is_row=is_like_rows, strict=False)
    name = relative(root, path)
    try:
        header = [normalised(cell) for cell in next(records, Record(1, ())).cells]
    except csv.Error as error:
        raise CorpusError(f"{path}: not a valid CSV ({error}); check its quotation marks") from error
    missing = sorted(set(columns) - set(header))
    if missing:
        raise CorpusError(
            f"{path}: no column {missing[0]!r}, found {one_line(', '.join(header)) if header else 'none'}"
        )
    for record in records:
        fault = record.fault
        if fault is None and 0 < len(record.cells) < len(header):
            fault = f"{len(record.cells)} cells of {len(header)}: {delimiter.join(record.cells)[:80]!r}"
        if fault is not None:
            yield Rejection(name, "bad_row", " ".join(f"row {record.number}: {fault}".split()))
        elif record.cells:
            yield {column: normalised(cell) for column, cell in zip(header, record.cells, strict=False)}


def integer_of(cell: str) -> int | None:
    """Parse a number of at most nine decimal digits; None for any other text.

    Example:
        >>> integer_of("007"), integer_of("1.5"), integer_of("2147483648")
        (7, None, None)
    """
    return int(cell) if cell.isascii() and cell.isdecimal() and len(cell) <= 9 else None


def number_of(cell: str) -> float | None:
    """Parse a finite number; None for an empty cell, ``NA`` or any other text."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def load_tasks(corpus: str) -> dict[str, Task]:
    """Load the tasks that the package defines for a corpus, by name; none for a corpus that it does not know.

    Example:
        >>> load_tasks("ravdess")["ravdess_8"].label_of("happy")
        'happy'
    """
    if not corpus.isidentifier():  # the name of a manifest, which may not be used as a path
        return {}
    file = resources.files("lalm_mer.corpora") / "tasks" / f"{corpus}.yaml"
    if not file.is_file():
        return {}
    with resources.as_file(file) as path:
        return {name: _task(name, content, path) for name, content in read_yaml(path).items()}


def _task(name: str, content: Any, path: Path) -> Task:  # noqa: ANN401 a YAML value
    known = {"source", "labels", "map", "kind", "column", "columns", "channel", "intervals"}
    if not isinstance(content, dict) or not {"source"} <= set(content) <= known:
        raise ConfigError(f"{path}: task {name!r} needs a source, and may only have {', '.join(sorted(known))}")
    if {"column", "columns"} <= set(content):
        raise ConfigError(f"{path}: task {name!r}: has column and columns; give one of them")
    forms = {label: tuple(forms) for label, forms in content.get("labels", {}).items()}
    return Task(
        name,
        LabelSet(tuple(forms), forms) if forms else None,
        dict(content.get("map", {})),
        kind=content.get("kind", "single"),
        columns=tuple(content.get("columns", [content.get("column", "label")])),
        channel=content.get("channel"),
        intervals={label: Interval.parse(written) for label, written in content.get("intervals", {}).items()},
    )


def relative(root: Path, path: Path) -> str:
    """``path`` relative to ``root``, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _reject_name(root: Path, folder: str, name: str, kind: str) -> Rejection:
    written = _in_utf8(relative(root, Path(folder, name)))
    return Rejection(written, "unreadable_name", f"its name is not UTF-8; rename the {kind}")


def _in_utf8(name: str) -> str:
    """A name whose bytes that are not UTF-8 are written as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_inside(root: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def reject_outside(root: Path, path: Path) -> Rejection | None:
    """Reject a link to a file or folder outside of ``root``; None for other paths."""
    detail = "points outside the corpus folder; copy the file into the folder"
    return None if _is_inside(root, path) else Rejection(relative(root, path), "outside_root", detail)
