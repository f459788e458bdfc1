"""What every corpus reader shares: how files are found, read and checked, and what tasks a corpus has.

A reader is a function ``read(root, ...) -> Iterator[Utterance | Rejection]``. It yields one of the two for every file
or row that it finds, in an order that does not depend on the file system, and raises ``CorpusError`` only where
nothing can be read at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lalm_mer.core.audio import decode
from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.schema import Rejection

__all__ = ["AUDIO_SUFFIXES", "AudioFile", "list_files", "load_tasks", "read_audio"]

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".au", ".sph", ".wma")
)


@dataclass(frozen=True)
class AudioFile:
    """One audio file, or a part of one, that has been decoded once to see that it is whole.

    Args:
        path: relative to the corpus root, with forward slashes
        content: its bytes as shipped
        sampling_rate: of the encoded audio, in Hz
        duration_s: of the part asked for, in seconds
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
    for folder, subfolders, files in os.walk(root):
        found_here += [Path(folder, name) for name in files if not name.startswith(".")]
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in subfolders:  # os.walk lists links to folders but does not enter them
            path = Path(folder, name)
            if path.is_symlink() and not _is_inside(root, path):
                found_here.append(_outside(root, path))
    yield from sorted(found_here, key=lambda item: _relative(root, item) if isinstance(item, Path) else item.path)


def read_audio(
    root: Path, path: Path, start_s: float | None = None, end_s: float | None = None
) -> AudioFile | Rejection:
    """Read and check one audio file inside ``root``.

    Args:
        root: folder of the corpus
        path: the file, absolute or below ``root`` already
        start_s: start of the part wanted, in seconds; None from the beginning
        end_s: its end, in seconds; None to the end

    Returns:
        The file, or a rejection with reason ``outside_root``, ``missing_audio``, ``unreadable``, ``empty``,
        ``truncated`` or ``non_finite``
    """
    if not _is_inside(root, path):
        return _outside(root, path)
    name = _relative(root, path)
    if not path.is_file():
        return Rejection(name, "missing_audio", "no such file in the corpus folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        return Rejection(name, "unreadable", f"cannot be opened ({error.strerror})")
    try:
        waveform = decode(content, name, start_s, end_s)
    except AudioError as error:
        return Rejection(name, error.reason, " ".join(str(error).removeprefix(f"{name}: ").split()))
    return AudioFile(name, content, waveform.sampling_rate, waveform.duration_s)


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
    if not isinstance(content, dict) or set(content) != {"source", "labels", "map"}:
        raise ConfigError(f"{path}: task {name!r} needs the keys source, labels and map, and no other")
    forms = {label: tuple(forms) for label, forms in content["labels"].items()}
    return Task(name, LabelSet(tuple(forms), forms), dict(content["map"]))


def _relative(root: Path, path: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _is_inside(root: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _outside(root: Path, path: Path) -> Rejection:
    return Rejection(
        _relative(root, path), "outside_root", "leads out of the corpus folder; copy what it points to into it"
    )
