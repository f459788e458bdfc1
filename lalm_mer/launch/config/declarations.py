"""Declarations of single keys that the schemas of several recipes have."""

from __future__ import annotations

from typing import Any

from lalm_mer.core.settings import setting

__all__ = ["preflight_setting", "seed_setting"]

_LARGEST_SEED = 2**32 - 1  # numpy's


def seed_setting() -> Any:  # noqa: ANN401 a declaration
    """The seed of a run."""
    return setting(0, at_least=0, at_most=_LARGEST_SEED, help="seed of all random draws")


def preflight_setting() -> Any:  # noqa: ANN401 a declaration
    """Whether a run begins with a preflight."""
    return setting(True, may_change=True, help="a few seconds of checks before the run")
