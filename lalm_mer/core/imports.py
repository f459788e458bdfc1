"""Imports of large packages: postponed until they are used, and without garbage collection meanwhile."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["postpone", "quick_imports"]


class _Postponed(ModuleType):
    """A package that has been found, and is executed when one of its attributes or modules is first used."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 any attribute of a module
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary module from here on
        self.__path__ = spec.submodule_search_locations or []
        spec.loader.exec_module(self)
        return getattr(self, name)


def postpone(package: str) -> None:
    """Let ``import package`` execute nothing until an attribute of the package is used.

    ``importlib.util.LazyLoader`` does not help here: it executes a module as soon as another one imports it.
    A package that is missing or already imported stays as it is.

    Args:
        package: name of a package at the top level
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Postponed
    del module.__path__  # or an import of one of its modules would not execute the package first
    sys.modules[package] = module


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch and the packages on it in the block without garbage collection, which takes a fifth of the time.

    What was imported stays, so later collections do not examine it either. Without effect if torch is imported already.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
