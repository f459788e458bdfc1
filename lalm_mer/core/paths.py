"""Paths of settings and arguments: absolute once they are read, relative to the working directory where recorded."""

from __future__ import annotations

from pathlib import Path

from lalm_mer.core.errors import ConfigError

__all__ = ["absolute", "as_recorded", "is_path", "is_within", "path_or_id"]


def absolute(path: str | Path) -> str:
    """The path with ``~`` expanded, from the root; links and ``..`` are kept, and an empty path stays empty.

    Raises:
        ConfigError: if the user of ``~user`` is unknown, or the path has a null character
    """
    text = str(path)
    if "\0" in text:
        raise ConfigError(f"{text!r}: a path cannot have a null character")
    try:
        return str(Path(text).expanduser().absolute()) if text else ""
    except RuntimeError as error:
        raise ConfigError(f"{text!r}: there is no such user; write the folder itself") from error


def as_recorded(path: str | Path) -> str:
    """The path relative to the working directory, if it is in it; anything else, such as a Hub id, unchanged."""
    given, here = Path(path), Path.cwd()
    return str(given.relative_to(here)) if given.is_relative_to(here) else str(path)


def is_path(text: str) -> bool:
    """Whether a value that may be a Hub id (``name`` or ``user/name``) is a path.

    It is one if it exists, cannot be an id by its form, or begins with a folder of the working directory.
    """
    first, slash, rest = text.partition("/")
    form = text.startswith(("~", ".", "/")) or "\\" in text or "/" in rest or (bool(slash) and not rest)
    return form or Path(text).exists() or (bool(slash) and Path(first).is_dir())


def is_within(path: Path, root: Path) -> bool:
    """Whether a file is in a folder after links, or in the blobs of the Hub's cache for a snapshot."""
    try:
        place, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError):  # a link to itself; which of the two depends on the version of Python
        return False
    blobs = home.parent.parent / "blobs"
    return place.is_relative_to(home) or (home.parent.name == "snapshots" and place.parent == blobs)


def path_or_id(text: str) -> str:
    """The absolute path if the value is a path, otherwise the Hub id itself; errors as in ``absolute``."""
    return absolute(text) if text and is_path(text) else text
