"""What exists, and what is nearest to a name that does not, for errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = ["contents", "did_you_mean", "nearest", "no_such_path"]

_LISTED = 20


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """The end of an error about an unknown name: the most similar known name, or nothing if none is similar.

    Example:
        >>> did_you_mean("qwen2_audoi", ["qwen2_audio", "clap"]), did_you_mean("x", ["qwen2_audio"])
        ('; did you mean qwen2_audio?', '')
    """
    near = nearest(str(name), map(str, known))
    return f"; did you mean {near}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``, case ignored; None if none is similar.

    Example:
        >>> nearest("ang", ["Angry", "sad"]), nearest("ang", ["sad"])
        ('Angry', None)
    """
    by_form = {other.casefold(): other for other in known}
    near = get_close_matches(name.casefold(), by_form, 1)
    return by_form[near[0]] if near else None


def no_such_path(path: Path, kind: str = "file", *, among: Path | None = None) -> str:
    """The end of an error about a path that does not exist, with the nearest name and those that exist.

    Args:
        path: the path
        kind: file or folder
        among: folder whose YAML files are what the path chooses from; None for the folder that the path names
    """
    if among is not None and among.is_dir():
        names = [file.relative_to(among).as_posix() for file in sorted(among.rglob("*.yaml"))]
        near = get_close_matches(path.with_suffix(".yaml").name, names, 1)
        meant = f"; did you mean {among / near[0]}?" if near else ";"
        return f"no such {kind}{meant} {among} has {', '.join(name.removesuffix('.yaml') for name in names)}"
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing.parent.parent:
        missing = missing.parent
    names = _names(missing.parent)
    where = "" if missing == path else f": there is no {missing}"
    if meant := did_you_mean(missing.name, names):
        return f"no such {kind}{where}{meant}"
    return f"no such {kind}{where}; {missing.parent} has {contents(missing.parent)}"


def contents(folder: Path) -> str:
    """Names of the files and folders in a folder, the first of many; ``nothing`` if there are none."""
    names = _names(folder)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more or "nothing"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    except OSError:  # no permission to list it, or not a folder
        return []
