"""What every corpus reader shares: how files are found, read and checked, and what tasks a corpus has.

A reader is a function ``read(root, ...) -> Iterator[Utterance | Rejection]``. It yields one of the two for every file
or row that it finds, in an order that does not depend on the file system, and raises ``CorpusError`` only where
nothing can be read at all. It opens no audio: the writer does, on all cores, and rejects what cannot be heard.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lalm_mer.core.audio import VIDEO_SUFFIXES, decode, decode_video, encode
from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError
from lalm_mer.core.labels import Interval, LabelSet, Task
from lalm_mer.core.schema import Rejection

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioFile",
    "decoded_text",
    "list_files",
    "load_tasks",
    "number_of",
    "read_audio",
    "read_table",
    "relative",
    "require_inside",
]

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".au", ".sph", ".wma")
)


@dataclass(frozen=True)
class AudioFile:
    """The audio of one utterance, decoded once to see that it is whole.

    Args:
        path: relative to the corpus root, with forward slashes
        content: encoded: the file as shipped; of a video or of a part of a recording, what was asked for, lossless
        sampling_rate: of ``content``, in Hz
        duration_s: of ``content``, in seconds
    """

    path: str
    content: bytes
    sampling_rate: int
    duration_s: float


def list_files(root: Path) -> Iterator[Path | Rejection]:
    """Every file under ``root`` in the order of its relative path; a link to a folder elsewhere is rejected.

    Hidden files and folders (``._*`` of macOS among them) are no part of a release and are skipped.

    Raises:
        CorpusError: if there is no such folder
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise CorpusError(f"corpus root {root}: expected a folder, found {found}; set corpus.root")
    found_here: list[Path | Rejection] = []

    def closed(error: OSError) -> None:
        path = relative(root, Path(error.filename))
        found_here.append(Rejection(path, "unreadable", f"the folder cannot be opened ({error.strerror})"))

    for folder, subfolders, files in os.walk(root, onerror=closed):
        for name in files:
            if not name.startswith("."):
                found_here.append(Path(folder, name) if _is_utf8(name) else _unnameable(root, Path(folder, name)))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in subfolders:  # os.walk lists links to folders but does not enter them
            path = Path(folder, name)
            if path.is_symlink() and not _is_inside(root, path):
                found_here.append(_outside(root, path))
    yield from sorted(found_here, key=lambda item: relative(root, item) if isinstance(item, Path) else item.path)


def read_audio(
    root: Path, path: Path, start_s: float | None = None, end_s: float | None = None
) -> AudioFile | Rejection:
    """Read and check one audio or video file inside ``root``.

    Args:
        root: folder of the corpus
        path: the file, absolute or below ``root`` already
        start_s: start of the part wanted, in seconds; None from the beginning
        end_s: its end, in seconds; None to the end

    Returns:
        The file, or a rejection with reason ``outside_root``, ``missing_audio``, ``unreadable``, ``empty``,
        ``truncated`` or ``non_finite``
    """
    name = relative(root, path)
    try:
        if not _is_inside(root, path):
            return _outside(root, path)
        if not path.is_file():
            return Rejection(name, "missing_audio", "no such file in the corpus folder")
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        content = b"" if is_video else path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null byte, no permission, links in a ring
        reason = getattr(error, "strerror", None) or error
        return Rejection(name, "unreadable", f"cannot be opened ({reason})")
    try:
        if is_video:
            content = _sound_of(path, name, path.stat().st_mtime_ns)
        waveform = decode(content, name, start_s, end_s)
    except AudioError as error:
        return Rejection(name, error.reason, " ".join(str(error).removeprefix(f"{name}: ").split()))
    if start_s is not None or end_s is not None:
        content = encode(waveform)
    return AudioFile(name, content, waveform.sampling_rate, waveform.duration_s)


@functools.lru_cache(maxsize=1)  # the utterances of a video are neighbours, and it is long
def _sound_of(path: Path, name: str, modified_ns: int) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror})", "unreadable") from error
    return encode(decode_video(content, name))


def decoded_text(root: Path, path: Path) -> str:
    """The characters of a release's table or transcript: UTF-8 (with or without BOM), and if it is not, Windows-1252.

    Raises:
        CorpusError: if it cannot be read, or leads out of ``root``
    """
    require_inside(root, path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); is {root} the folder of the release?") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def require_inside(root: Path, path: Path) -> None:
    """Check that a table of a release is a file of that release.

    Raises:
        CorpusError: if it leads out of ``root``, or is no regular file
    """
    try:
        inside, regular = _is_inside(root, path), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"{path}: cannot be opened ({error})") from error
    if not inside:
        raise CorpusError(f"{path}: leads out of the corpus folder {root}; copy what it points to into it")
    if path.exists() and not regular:
        raise CorpusError(f"{path}: not a regular file; is {root} the folder of the release?")


def read_table(
    root: Path, path: Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[Mapping[str, str] | Rejection]:
    """Rows of a release's CSV as {column: cell}, stripped; further columns stay.

    A row with fewer cells than the header has, cut in half say, is rejected as ``bad_row``.

    Args:
        root: folder of the release
        path: the CSV
        columns: what it must have
        delimiter: between its cells

    Raises:
        CorpusError: if it cannot be read or lacks a column
    """
    records = _records(decoded_text(root, path), path, delimiter)
    header = [name.strip() for name in next(records, [])]
    missing = sorted(set(columns) - set(header))
    if missing:
        raise CorpusError(f"{path}: no column {missing[0]!r}, found {', '.join(header) or 'none'}")
    name = relative(root, path)
    for number, record in enumerate(records, start=2):
        if not record:
            continue
        if len(record) < len(header):
            detail = f"row {number}: {len(record)} cells of {len(header)}: {delimiter.join(record)[:80]!r}"
            yield Rejection(name, "bad_row", " ".join(detail.split()))
        else:
            yield {column: cell.strip() for column, cell in zip(header, record, strict=False)}


def _records(characters: str, path: Path, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(characters, newline=""), delimiter=delimiter)
    except csv.Error as error:  # a cell beyond 128 KiB: a quotation mark that never closes
        raise CorpusError(f"{path}: not a CSV that can be read ({error}); mend its quotation marks") from error


def number_of(cell: str) -> float | None:
    """A finite number; None for an empty cell, ``NA`` and the like, or anything else that is no number."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def load_tasks(corpus: str) -> dict[str, Task]:
    """The tasks that the package knows for a corpus; none for a corpus of the user's own.

    Args:
        corpus: name of the corpus

    Returns:
        name of the task -> task

    Raises:
        ConfigError: if the package's task file is malformed

    Example:
        >>> load_tasks("ravdess")["ravdess_8"].label_of("happy")
        'happy'
    """
    if not corpus.isidentifier():  # a name of the user's own: not to be made into a path
        return {}
    file = resources.files("lalm_mer.corpora") / "tasks" / f"{corpus}.yaml"
    if not file.is_file():
        return {}
    with resources.as_file(file) as path:
        return {name: _task(name, content, path) for name, content in read_yaml(path).items()}


def _task(name: str, content: Any, path: Path) -> Task:  # noqa: ANN401 a YAML value
    known = {"source", "labels", "map", "kind", "column", "channel", "intervals"}
    if not isinstance(content, dict) or not {"source"} <= set(content) <= known:
        raise ConfigError(f"{path}: task {name!r} needs a source, and may have {', '.join(sorted(known))} and no other")
    forms = {label: tuple(forms) for label, forms in content.get("labels", {}).items()}
    return Task(
        name,
        LabelSet(tuple(forms), forms) if forms else None,
        dict(content.get("map", {})),
        kind=content.get("kind", "single"),
        column=content.get("column", "label"),
        channel=content.get("channel"),
        intervals={label: Interval.parse(written) for label, written in content.get("intervals", {}).items()},
    )


def relative(root: Path, path: Path) -> str:
    """``path`` below ``root``, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _unnameable(root: Path, path: Path) -> Rejection:
    readable = relative(root, path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return Rejection(readable, "unreadable_name", "its name is not UTF-8; rename the file")


def _is_inside(root: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _outside(root: Path, path: Path) -> Rejection:
    return Rejection(
        relative(root, path), "outside_root", "leads out of the corpus folder; copy what it points to into it"
    )
