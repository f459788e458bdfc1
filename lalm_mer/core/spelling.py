"""Spellings of a value of a table: the form that is stored, and the form in which values are compared."""

from __future__ import annotations

import unicodedata

from lalm_mer.core.words import words_of

__all__ = ["folded", "normalised"]

_JOINERS = "\u200c\u200d"  # of letters and emoji: part of the spelling in Persian and in Indic scripts


def normalised(text: str, *, keep_joiners: bool = False) -> str:
    """The form in which a value of a table is stored: NFC, without zero-width characters and outer white space.

    Args:
        text: the value as written
        keep_joiners: whether zero-width joiners and non-joiners are kept, as in transcripts

    Example:
        >>> normalised(" Zoe\\u0301\\u200b ") == "Zo\\u00e9"
        True
    """
    if text.isascii():
        return text.strip()
    kept = _JOINERS if keep_joiners else ""
    visible = "".join(letter for letter in text if letter in kept or unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", visible).strip()


def folded(text: str) -> str:
    """The form in which values are compared for disjointness: case and punctuation are ignored as in ``words_of``.

    A text without a letter or digit keeps its punctuation.

    Example:
        >>> folded("Speaker_1"), folded("SPEAKER 1."), folded("?!")
        ('speaker 1', 'speaker 1', '?!')
    """
    return " ".join(words_of(text)) or unicodedata.normalize("NFKC", normalised(text)).casefold()
