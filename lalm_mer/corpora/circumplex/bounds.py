"""What the best recognizer of each modality can score on the circumplex test set, by enumeration of the design."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lalm_mer.corpora.circumplex import design

__all__ = ["Ceilings", "best_additive_uar", "best_uar", "ceilings"]


@dataclass(frozen=True)
class Ceilings:
    """Highest UAR of a deterministic recognizer, as fractions.

    Args:
        transcript: that reads only
        audio: that hears only
        both: that reads and hears, combined in any way
        additive: that adds a score for what it reads to a score for what it hears, as late fusion does
    """

    transcript: float
    audio: float
    both: float
    additive: float


def ceilings(variant: str, noise: float = 0.0, seed: int = 0) -> Ceilings:
    """The ceilings of one variant, counted over every utterance of its test set.

    A recognizer reads the word shown and hears the word spoken (or the burst) and the arousal of the voice. It cannot
    have learnt which test cells the ``noise`` turned round, as no test speaker or carrier occurs in train.

    Raises:
        CorpusError: if variant or noise are not of the design

    Example:
        >>> ceilings("masked")
        Ceilings(transcript=0.5, audio=0.5, both=1.0, additive=1.0)
        >>> ceilings("sarcastic")
        Ceilings(transcript=0.5, audio=0.5, both=1.0, additive=0.75)
    """
    design.check(variant, noise)
    test = design.cells("test", seed, noise)
    truth = [design.label(variant, cell) for cell in test]
    read = [design.shown_word(variant, cell) for cell in test]
    heard = [(design.spoken_word(variant, cell), cell.voice_arousal) for cell in test]
    # For the sum of scores, words of a valence are interchangeable by the design's symmetry: enumerate their kinds.
    valence: dict[str | None, str] = {word.form: word.valence for word in design.WORDS}
    read_kind = [valence.get(word, "none") for word in read]
    heard_kind = [(valence.get(word, "none"), arousal) for word, arousal in heard]
    return Ceilings(
        transcript=best_uar(read, truth),
        audio=best_uar(heard, truth),
        both=best_uar(list(zip(read, heard, strict=True)), truth),
        additive=best_additive_uar(read_kind, heard_kind, truth),
    )


def best_uar(evidence: Sequence[Hashable], truth: Sequence[str]) -> float:
    """Highest UAR of a function of ``evidence``.

    UAR is a sum over utterances of 1 / (K x utterances of the class), so the best label of each piece of evidence can
    be chosen on its own.

    Args:
        evidence: what is known of each utterance, N values
        truth: label of each utterance, N strings; the K classes are those that occur

    Returns:
        UAR as a fraction, rounded to 12 places

    Example:
        >>> best_uar(["a", "a", "b", "b"], ["x", "y", "y", "y"])
        0.833333333333
    """
    size = Counter(truth)
    hits: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for known, label in zip(evidence, truth, strict=True):
        hits[known][label] += 1
    gain = sum(max(count / size[label] for label, count in found.items()) for found in hits.values())
    return round(gain / len(size), 12)


def best_additive_uar(read: Sequence[Hashable], heard: Sequence[Hashable], truth: Sequence[str]) -> float:
    """Highest UAR of a decision by the largest sum ``f(read, label) + g(heard, label)``.

    Tries every table of decisions, best first, and asks a linear program whether scores f and g exist that lead to
    it. Meant for a handful of kinds of evidence: K ** (pairs that occur) tables.

    Args:
        read: evidence of the first modality for each utterance, N values
        heard: evidence of the second, N values
        truth: label of each utterance, N strings

    Example:
        >>> best_additive_uar([0, 0, 1, 1], [0, 1, 0, 1], ["x", "y", "y", "x"])  # exclusive or
        0.75
    """
    labels, size = sorted(set(truth)), Counter(truth)
    pairs = sorted(set(zip(read, heard, strict=True)), key=repr)
    gain = {(pair, label): 0.0 for pair in pairs for label in labels}
    for first, second, label in zip(read, heard, truth, strict=True):
        gain[(first, second), label] += 1 / (size[label] * len(labels))
    tables = [
        (round(sum(gain[pair, label] for pair, label in zip(pairs, table, strict=True)), 12), table)
        for table in itertools.product(labels, repeat=len(pairs))
    ]
    ranked = sorted(tables, key=lambda scored: -scored[0])
    return next(uar for uar, table in ranked if _is_additive(pairs, table, labels))


def _is_additive(pairs: Sequence[tuple[Hashable, Hashable]], table: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether some sum of scores prefers each pair's decision to every other label by a margin."""
    columns: dict[Hashable, int] = {}
    for modality in (0, 1):
        for pair in pairs:
            for label in labels:
                columns.setdefault((modality, pair[modality], label), len(columns))
    rows = []
    for pair, decision in zip(pairs, table, strict=True):
        for rival in labels:
            if rival != decision:
                row = np.zeros(len(columns))
                for modality in (0, 1):
                    row[columns[modality, pair[modality], rival]] += 1
                    row[columns[modality, pair[modality], decision]] -= 1
                rows.append(row)
    from scipy.optimize import linprog  # here, for it takes a second, which --help does not need

    found = linprog(np.zeros(len(columns)), A_ub=np.array(rows), b_ub=-np.ones(len(rows)), bounds=(None, None))
    return bool(found.status == 0)
