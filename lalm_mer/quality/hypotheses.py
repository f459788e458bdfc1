"""Comparison of transcripts with hypotheses of speech recognition, to find those of another utterance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import jiwer

from lalm_mer.core.words import words_of
from lalm_mer.quality.measures import Measures

__all__ = ["BetterMatch", "ErrorRates", "TranscriptIndex", "error_rates"]

_CANDIDATES = 20
_MOST_POSTINGS = 20_000  # entries to search per hypothesis; rare words come first, so that common ones cost no time


@dataclass(frozen=True)
class ErrorRates:
    """Errors of a hypothesis on a transcript.

    Args:
        wer: word error rate as a fraction; may exceed 1
        cer: character error rate as a fraction; may exceed 1
        n_errors: number of word errors
        n_words: number of words of the longer of the two
    """

    wer: float
    cer: float
    n_errors: int
    n_words: int


@dataclass(frozen=True)
class BetterMatch:
    """Another utterance of the corpus whose transcript matches a hypothesis better."""

    utterance_id: str
    transcript: str
    rates: ErrorRates


def error_rates(transcript: str, hypothesis: str) -> ErrorRates | None:
    """Compare a hypothesis with a transcript; None if the transcript has no words.

    Example:
        >>> error_rates("Kids are talking.", "dogs are talking")
        ErrorRates(wer=0.3333333333333333, cer=0.1875, n_errors=1, n_words=3)
    """
    reference, recognised = words_of(transcript), words_of(hypothesis)
    if not reference:
        return None
    counts = jiwer.process_words(" ".join(reference), " ".join(recognised))
    n_errors = counts.substitutions + counts.deletions + counts.insertions
    cer = float(jiwer.cer(" ".join(reference), " ".join(recognised)))
    return ErrorRates(n_errors / len(reference), cer, n_errors, max(len(reference), len(recognised)))


class TranscriptIndex:
    """An inverted index of the transcripts of a corpus; utterances with the same words share an entry.

    Args:
        shortest: fewest words of a transcript in the index; shorter ones match by chance
    """

    def __init__(self, shortest: int) -> None:
        self._shortest = shortest
        self._entries: dict[tuple[str, ...], int] = {}
        self._transcripts: list[str] = []
        self._utterances_of: list[list[tuple[str, tuple[str | None, ...]]]] = []
        self._postings: dict[str, list[int]] = defaultdict(list)

    def add(self, row: Measures) -> None:
        """Add an utterance."""
        words = tuple(words_of(row.transcript or ""))
        if len(words) < self._shortest:
            return
        entry = self._entries.setdefault(words, len(self._entries))
        if entry == len(self._transcripts):
            self._transcripts.append(row.transcript or "")
            self._utterances_of.append([])
            for word in set(words):
                self._postings[word].append(entry)
        self._utterances_of[entry].append((row.utterance_id, _contexts(row)))

    def better_match(
        self, row: Measures, hypothesis: str, own: ErrorRates, *, highest_wer: float
    ) -> BetterMatch | None:
        """Find an utterance whose transcript has at most half the word errors of the transcript of ``row``.

        An utterance of the same dialogue is preferred, then of the same session, of the same speaker, and any other.

        Args:
            row: the utterance
            hypothesis: hypothesis of speech recognition for it
            own: error rates of the hypothesis on the transcript of ``row``
            highest_wer: highest word error rate of a match
        """
        found: list[tuple[int, float, str, BetterMatch]] = []
        for entry in self._candidates(words_of(hypothesis)):
            rates = error_rates(self._transcripts[entry], hypothesis)
            if rates is None or rates.wer > min(highest_wer, own.wer / 2) or own.n_errors - rates.n_errors < 2:
                continue
            distance, name = self._nearest(entry, row)
            found.append((distance, rates.wer, name, BetterMatch(name, self._transcripts[entry], rates)))
        return min(found, key=lambda item: item[:3])[3] if found else None

    def _candidates(self, words: Iterable[str]) -> list[int]:
        lists = sorted((self._postings[word] for word in set(words) if word in self._postings), key=len)
        shared: Counter[int] = Counter()
        n_postings = 0
        for postings in lists:
            n_postings += len(postings)
            if shared and n_postings > _MOST_POSTINGS:
                break
            shared.update(postings)
        return [entry for entry, _ in shared.most_common(_CANDIDATES)]

    def _nearest(self, entry: int, row: Measures) -> tuple[int, str]:
        own = _contexts(row)

        def distance(name: str, others: tuple[str | None, ...]) -> tuple[int, str]:
            """Position of the first context that both utterances are in, and the name of the other utterance."""
            same = (number for number, context in enumerate(own) if context is not None and context == others[number])
            return next(same, len(own)), name

        return min(distance(*other) for other in self._utterances_of[entry])


def _contexts(row: Measures) -> tuple[str | None, ...]:
    """The contexts in which transcripts are swapped most likely, in this order."""
    return row.dialogue, row.session, row.speaker
