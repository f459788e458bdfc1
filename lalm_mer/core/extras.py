"""How an optional dependency is installed: the package is not on an index, only in a clone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["install_extra"]

_CLONE = Path(__file__).resolve().parents[2]


def install_extra(*extras: str) -> str:
    """The command that installs extras of this package from its clone.

    Example:
        >>> install_extra("quant", "video").endswith("[quant,video]'")
        True
    """
    elsewhere = (_CLONE / "pyproject.toml").is_file() and Path.cwd() != _CLONE
    return f"pip install -e '{_CLONE if elsewhere else '.'}[{','.join(extras)}]'"
