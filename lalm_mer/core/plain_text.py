"""Text of other people as plain text: no control sequence for a terminal, no formula for a spreadsheet."""

from __future__ import annotations

import unicodedata
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PlainOutput", "from_cell", "plain_cells", "printable", "to_cell"]

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text with control characters and marks of direction as escapes; line breaks and tabs are kept.

    Example:
        >>> print(printable("\\x1b[31mred\\x07"))
        \\x1b[31mred\\x07
    """
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or not _controls(letter) else _escape(letter) for letter in text)


def _controls(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs") or letter in _DIRECTIONS or letter in "\u2028\u2029"


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def to_cell(value: Any) -> Any:  # noqa: ANN401 a cell of any type
    """A cell of a CSV file: a text that a spreadsheet would take for a formula gets an apostrophe, others are kept.

    Example:
        >>> to_cell("=1+1"), to_cell("sad"), to_cell(-0.5), to_cell("'-1")
        ("'=1+1", 'sad', -0.5, "''-1")
    """
    if not isinstance(value, str):
        return value
    text = "".join(_escape(letter) if _controls(letter) else letter for letter in value)
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def plain_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with ``to_cell`` of all texts and names of columns, for a CSV file."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    plain = frame.assign(**{str(name): texts[name].map(to_cell, na_action="ignore") for name in texts})
    return plain.rename(columns=to_cell)


def from_cell(text: str) -> str:
    """The text of a cell without the apostrophe of ``to_cell``.

    Example:
        >>> from_cell("'=1+1"), from_cell("'tis")
        ('=1+1', "'tis")
    """
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


class PlainOutput:
    """A text stream that writes ``printable`` text to another."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, and return its length."""
        self._stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 an attribute of the stream
        return getattr(self._stream, name)
