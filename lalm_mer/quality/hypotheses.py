"""Whether a transcript is that of its audio, judged by what speech recognition heard: its own, or another's?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jiwer

from lalm_mer.core.words import words_of
from lalm_mer.quality.measures import Measures

__all__ = ["Better", "Fit", "TranscriptIndex", "fit"]

_CANDIDATES = 20
_MOST_POSTINGS = 20_000  # looked through for one hypothesis, rare words first, so that common ones cost nothing
_PLACES = ("dialogue", "session", "speaker")  # where a neighbour with whom it was swapped is likeliest, in this order


@dataclass(frozen=True)
class Fit:
    """How far a hypothesis is from a transcript.

    Args:
        wer: word errors by the words of the transcript; may exceed 1
        cer: the same in characters
        n_errors: word errors
        n_words: of the longer of the two
    """

    wer: float
    cer: float
    n_errors: int
    n_words: int


@dataclass(frozen=True)
class Better:
    """Another utterance of the corpus whose transcript a hypothesis fits."""

    utterance_id: str
    transcript: str
    fit: Fit


def fit(transcript: str, hypothesis: str) -> Fit | None:
    """Compare what was heard with a transcript; None where the transcript has no word.

    Example:
        >>> fit("Kids are talking.", "dogs are talking")
        Fit(wer=0.3333333333333333, cer=0.1875, n_errors=1, n_words=3)
    """
    said, heard = words_of(transcript), words_of(hypothesis)
    if not said:
        return None
    counts = jiwer.process_words(" ".join(said), " ".join(heard))
    n_errors = counts.substitutions + counts.deletions + counts.insertions
    cer = float(jiwer.cer(" ".join(said), " ".join(heard)))
    return Fit(n_errors / len(said), cer, n_errors, max(len(said), len(heard)))


class TranscriptIndex:
    """The transcripts of a corpus by their words; utterances that say the same share an entry.

    Args:
        shortest: words that a transcript needs to be proposed; shorter ones fit too much by chance
    """

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._entries: dict[tuple[str, ...], int] = {}
        self._transcripts: list[str] = []
        self._speakers_of: list[list[tuple[str, str | None, str | None, str | None]]] = []
        self._postings: dict[str, list[int]] = defaultdict(list)

    def add(self, row: Measures) -> None:
        """Take in one utterance."""
        words = tuple(words_of(row.transcript or ""))
        if len(words) < self._shortest:
            return
        entry = self._entries.setdefault(words, len(self._entries))
        if entry == len(self._transcripts):
            self._transcripts.append(row.transcript or "")
            self._speakers_of.append([])
            for word in set(words):
                self._postings[word].append(entry)
        self._speakers_of[entry].append((row.utterance_id, row.dialogue, row.session, row.speaker))

    def better(self, row: Measures, hypothesis: str, own: Fit, *, highest_wer: float) -> Better | None:
        """The utterance whose transcript fits ``hypothesis`` at most half as badly as ``row``'s own.

        One of the same dialogue is preferred to one of the same session, then speaker, then any other.

        Args:
            row: the utterance that was heard
            hypothesis: what was heard
            own: how its own transcript fits
            highest_wer: of a transcript that fits
        """
        found: list[tuple[int, float, str, Better]] = []
        for entry in self._candidates(words_of(hypothesis)):
            its = fit(self._transcripts[entry], hypothesis)
            if its is None or its.wer > min(highest_wer, own.wer / 2) or own.n_errors - its.n_errors < 2:
                continue
            distance, name = self._nearest(entry, row)
            found.append((distance, its.wer, name, Better(name, self._transcripts[entry], its)))
        return min(found, key=lambda item: item[:3])[3] if found else None

    def _candidates(self, heard: Iterable[str]) -> list[int]:
        lists = sorted((self._postings[word] for word in set(heard) if word in self._postings), key=len)
        shared: Counter[int] = Counter()
        looked_at = 0
        for postings in lists:
            looked_at += len(postings)
            if shared and looked_at > _MOST_POSTINGS:
                break
            shared.update(postings)
        return [entry for entry, _ in shared.most_common(_CANDIDATES)]

    def _nearest(self, entry: int, row: Measures) -> tuple[int, str]:
        own: Mapping[str, str | None] = {"dialogue": row.dialogue, "session": row.session, "speaker": row.speaker}

        def distance(other: tuple[str, str | None, str | None, str | None]) -> tuple[int, str]:
            values = dict(zip(_PLACES, other[1:], strict=True))
            for number, place in enumerate(_PLACES):
                if own[place] is not None and own[place] == values[place]:
                    return number, other[0]
            return len(_PLACES), other[0]

        return min(distance(other) for other in self._speakers_of[entry])
