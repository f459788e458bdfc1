"""The best possible score of each modality on the circumplex test set, by enumeration of the design."""

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
    """Highest UAR of a deterministic recognizer that uses the transcript, the audio or both, as fractions.

    ``additive`` is that of adding a score from the transcript and a score from the audio, as late fusion does.
    """

    transcript: float
    audio: float
    both: float
    additive: float


def ceilings(variant: str, noise: float = 0.0, seed: int = 0) -> Ceilings:
    """The ceilings of one variant, computed over all utterances of its test set.

    The transcript contains the shown word; the audio contains the spoken word (or the burst) and the arousal of the
    voice. Training cannot reveal which test cells the ``noise`` inverts, since no test speaker or carrier is in train.

    Raises:
        CorpusError: if the variant is unknown or the noise outside its range

    Example:
        >>> ceilings("masked")
        Ceilings(transcript=0.5, audio=0.5, both=1.0, additive=1.0)
        >>> ceilings("sarcastic")
        Ceilings(transcript=0.5, audio=0.5, both=1.0, additive=0.75)
    """
    design.check(variant, noise)
    test = design.cells("test", seed, noise)
    truth = [design.label(variant, cell) for cell in test]
    from_transcript = [design.shown_word(variant, cell) for cell in test]
    from_audio = [(design.spoken_word(variant, cell), cell.voice_arousal) for cell in test]
    # Words of one valence are interchangeable by the symmetry of the design, so the sum of scores needs only valences.
    valence: dict[str | None, str] = {word.form: word.valence for word in design.WORDS}
    transcript_valence = [valence.get(word, "none") for word in from_transcript]
    audio_valence = [(valence.get(word, "none"), arousal) for word, arousal in from_audio]
    return Ceilings(
        transcript=best_uar(from_transcript, truth),
        audio=best_uar(from_audio, truth),
        both=best_uar(list(zip(from_transcript, from_audio, strict=True)), truth),
        additive=best_additive_uar(transcript_valence, audio_valence, truth),
    )


def best_uar(evidence: Sequence[Hashable], truth: Sequence[str]) -> float:
    """Highest UAR of a function of ``evidence``, rounded to 12 places.

    UAR is a sum over utterances of 1 / (K x utterances of the class), so the best label can be chosen for each value of
    ``evidence`` separately.

    Args:
        evidence: input of the function for each utterance, N values
        truth: label of each utterance, N strings; the K classes are those that occur

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


def best_additive_uar(first: Sequence[Hashable], second: Sequence[Hashable], truth: Sequence[str]) -> float:
    """Highest UAR of a decision by the largest sum ``f(first, label) + g(second, label)``; N values each.

    Tries all tables of decisions, best first, and checks by a linear program whether scores f and g exist that produce
    the table. Only feasible for a few distinct values: there are K ** (number of distinct pairs) tables.

    Example:
        >>> best_additive_uar([0, 0, 1, 1], [0, 1, 0, 1], ["x", "y", "y", "x"])  # exclusive or
        0.75
    """
    labels, size = sorted(set(truth)), Counter(truth)
    pairs = sorted(set(zip(first, second, strict=True)), key=repr)
    gain = {(pair, label): 0.0 for pair in pairs for label in labels}
    for one, other, label in zip(first, second, truth, strict=True):
        gain[(one, other), label] += 1 / (size[label] * len(labels))
    tables = [
        (round(sum(gain[pair, label] for pair, label in zip(pairs, table, strict=True)), 12), table)
        for table in itertools.product(labels, repeat=len(pairs))
    ]
    ranked = sorted(tables, key=lambda scored: -scored[0])
    return next(uar for uar, table in ranked if _is_additive(pairs, table, labels))


def _is_additive(pairs: Sequence[tuple[Hashable, Hashable]], table: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether some sum of scores prefers the decision of each pair to every other label by a margin."""
    scores = dict.fromkeys(
        (modality, pair[modality], label) for modality in (0, 1) for pair in pairs for label in labels
    )
    columns = {score: number for number, score in enumerate(scores)}
    rows = []
    for pair, decision in zip(pairs, table, strict=True):
        for rival in (label for label in labels if label != decision):
            row = np.zeros(len(columns))
            for modality in (0, 1):
                row[columns[modality, pair[modality], rival]] = 1
                row[columns[modality, pair[modality], decision]] = -1
            rows.append(row)
    from scipy.optimize import linprog  # imported here, since it takes a second that --help does not need

    found = linprog(np.zeros(len(columns)), A_ub=np.array(rows), b_ub=-np.ones(len(rows)), bounds=(None, None))
    return bool(found.status == 0)
