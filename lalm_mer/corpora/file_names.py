"""Find the file that a row of a table names, whichever form of its path the row has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from lalm_mer.core.spelling import normalised

__all__ = ["FileNames", "is_absolute"]


class FileNames:
    """The files below the root of a corpus, found by any form in which a row may write their paths.

    Args:
        root: folder of the corpus
        paths: the files, relative to it, with forward slashes
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self._roots = [_parts(form(root)) for form in (os.path.abspath, os.path.realpath)]
        self._by_form: dict[str, list[str]] = {}
        for path in paths:
            self._by_form.setdefault(_form_of(path), []).append(path)

    def below_root(self, written: str) -> str:
        """A path as it would be relative to the root; one outside of it stays absolute, or begins with ``..``."""
        path = os.path.normpath(written).replace(os.sep, "/")
        if not Path(path).is_absolute():
            return path
        for parts in (_parts(path), _parts(os.path.realpath(path))):
            for root in self._roots:
                if [normalised(part) for part in parts[: len(root)]] == [normalised(part) for part in root]:
                    return "/".join(parts[len(root) :]) or "."
        return path

    def find(self, written: str) -> str:
        """The file that a row names: the one of exactly this name, or else the only one of this name in another form.

        Forms differ in backslashes, Unicode normalisation, zero-width characters, outer white space and case.

        Returns:
            its path relative to the root; if there is none, the path as written, relative to the root where possible
        """
        paths = [self.below_root(form) for form in (written, written.replace("\\", "/"))]
        for path in paths:
            alike = self._by_form.get(_form_of(path), [])
            same_case = [other for other in alike if normalised(other) == normalised(path)]
            for found in ([other for other in alike if other == path], same_case, alike):
                if len(found) == 1:
                    return found[0]
        return paths[-1]


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path.replace(os.sep, "/")).parts


def _form_of(path: str) -> str:
    return "/".join(normalised(part) for part in path.split("/")).casefold()


def is_absolute(path: str) -> bool:
    """Whether a path is absolute here or on Windows."""
    return Path(path).is_absolute() or bool(PureWindowsPath(path).drive)
