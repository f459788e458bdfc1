"""The words of a transcript, for counting word errors and comparing transcripts."""

from __future__ import annotations

import unicodedata

__all__ = ["words_of"]

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))


def words_of(transcript: str) -> list[str]:
    """Split a transcript into normalised words.

    Case and punctuation are ignored: the text is normalised (NFKC) and case-folded; punctuation and symbols, other than
    an apostrophe inside a word, become spaces. Numbers stay as written, so ``2`` and ``two`` differ.

    Example:
        >>> words_of("Don\u2019t -- STOP, it's the dogs' 3.5!")
        ["don't", 'stop', "it's", 'the', 'dogs', '3', '5']
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", transcript).casefold())
    folded = folded.translate(_APOSTROPHES)
    return "".join(_kept(folded, place) for place in range(len(folded))).split()


def _kept(folded: str, place: int) -> str:
    letter = folded[place]
    if letter == "'":
        return letter if folded[place - 1 : place].isalnum() and folded[place + 1 : place + 2].isalnum() else " "
    category = unicodedata.category(letter)
    if category == "Cf":  # joiners and soft hyphens occur within words
        return ""
    return " " if category[0] in "PSC" else letter
