"""The design of the synthetic circumplex corpus: the cells of carrier, word, voice and speaker, and their labels.

An utterance is a carrier sentence x a word (pleasant or unpleasant) x a voice (calm or aroused) x a speaker. Its label
is the quadrant of Russell's circumplex given by word and voice together, so the best possible scores from transcript,
audio and both follow from the design. This module has no audio.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.names import SIMULATED
from lalm_mer.corpora.espeak import VOICES

__all__ = [
    "AROUSALS", "CARRIERS", "NEUTRAL_WORDS", "RANGES", "RATERS", "SPEAKERS", "SPLITS", "VARIANTS", "WORDS", "Carrier",
    "Cell", "Speaker", "Word", "cells", "check", "dimensions", "label", "labels", "shown_word", "simulated_votes",
    "spoken_word", "transcript",
]  # fmt: skip

SPLITS = ("train", "dev", "test")
AROUSALS = ("calm", "aroused")
VARIANTS = ("masked", "spoken", "sarcastic", "neutral", "wordless", "mismatched")
QUADRANTS = {
    ("pleasant", "aroused"): "happy",
    ("unpleasant", "aroused"): "angry",
    ("pleasant", "calm"): "content",
    ("unpleasant", "calm"): "sad",
}
_OPPOSITE = {"pleasant": "unpleasant", "unpleasant": "pleasant", "calm": "aroused", "aroused": "calm"}
RANGES = {"valence": [1, 5], "arousal": [1, 5]}
RATERS = SIMULATED
"""Channel of the simulated raters in the column ``ratings``."""
_LOW, _HIGH = 2.0, 4.0  # on the scales of RANGES
_AGREEMENT = 0.8  # probability that a simulated rater reports the valence of an utterance, and as much for its arousal
TRAIN_WORDS_PER_CELL = 2  # half of them pleasant; dev and test are fully crossed


@dataclass(frozen=True)
class Carrier:
    """A sentence with a slot for one word.

    Args:
        name: identifier: ``c01``, ``c02`` ...
        split: the only split that it occurs in
        before: words before the slot
        after: words after it
        hum: eSpeak phonemes that replace these words in the wordless variant, before and after the slot
    """

    name: str
    split: str
    before: str
    after: str
    hum: tuple[str, str]


@dataclass(frozen=True)
class Speaker:
    """A synthetic speaker: an eSpeak voice with its own pitch (0 to 100) and rate (words per minute)."""

    name: str
    split: str
    gender: str
    voice: str
    pitch: int
    rate: int


@dataclass(frozen=True)
class Word:
    """A word for the slot and its valence, ``pleasant`` or ``unpleasant``."""

    form: str
    valence: str


@dataclass(frozen=True)
class Cell:
    """One utterance of the design.

    Args:
        arousal: arousal of the label
        voice_arousal: arousal of the voice; differs from ``arousal`` only through the ``noise`` setting
    """

    split: str
    carrier: Carrier
    word: Word
    speaker: Speaker
    arousal: str
    voice_arousal: str

    @property
    def utterance_id(self) -> str:
        """Utterance id, which is the same in all variants so that their utterances can be paired."""
        return f"{self.split}_{self.speaker.name}_{self.carrier.name}_{self.word.form}_{self.arousal}"


_SENTENCES = {
    "train": (
        ("The garden looked", "today"), ("This soup is", "again"), ("The film was", "overall"),
        ("Our walk felt", "at noon"), ("The house seems", "inside"), ("His letter was", "this time"),
        ("Her class became", "later"), ("Our ride was", "as usual"), ("Music sounds", "out here"),
        ("The weather stays", "all week"), ("My office is", "in winter"), ("The game turned", "at last"),
    ),
    "dev": (("This town looked", "last year"), ("Their answer seemed", "to me")),
    "test": (
        ("The meeting felt", "on Monday"), ("Your street is", "in spring"), ("A holiday sounds", "right now"),
        ("That story was", "to hear"),
    ),
}  # fmt: skip
_SYLLABLES = ("l'a:", "m'i:", "n'u:", "l'i:", "m'a:", "n'i:")


def _carriers() -> Iterator[Carrier]:
    sentences = [(split, *sentence) for split in SPLITS for sentence in _SENTENCES[split]]
    for number, (split, before, after) in enumerate(sentences):
        first, second = _SYLLABLES[number % 6], _SYLLABLES[number // 6]
        hum = (f"[[{first}{second}{first}]]", f"[[{second}{first}]]")  # a different one for each carrier
        yield Carrier(f"c{number + 1:02d}", split, before, after, hum)


# Train uses every voice twice, as two speakers with different pitch and rate.
_VOICES = {
    "train": (
        ("m1", 46, 172), ("f1", 44, 181), ("m3", 38, 178), ("f4", 52, 166), ("m7", 54, 184),
        ("linda", 40, 174), ("michel", 42, 164), ("aunty", 50, 186), ("max", 52, 169), ("steph2", 47, 177),
        ("m1", 55, 186), ("f1", 37, 168), ("m3", 50, 165), ("f4", 40, 183), ("m7", 39, 171),
        ("linda", 53, 187), ("michel", 54, 180), ("aunty", 38, 170), ("max", 41, 185), ("steph2", 56, 163),
    ),
    "dev": (("m2", 49, 167), ("belinda", 41, 183), ("john", 40, 180), ("Annie", 51, 171)),
    "test": (
        ("m6", 41, 170), ("steph", 45, 185), ("travis", 53, 179),
        ("anika", 39, 165), ("Gene", 47, 182), ("Andrea", 50, 173),
    ),
}  # fmt: skip


def _speakers() -> Iterator[Speaker]:
    voices = [(split, *voice) for split in SPLITS for voice in _VOICES[split]]
    for number, (split, variant, pitch, rate) in enumerate(voices):
        yield Speaker(f"s{number + 1:02d}", split, VOICES[variant], f"en-us+{variant}", pitch, rate)


CARRIERS = tuple(_carriers())
SPEAKERS = tuple(_speakers())
WORDS = tuple(
    Word(form, valence)
    for valence, forms in (
        ("pleasant", ("lovely", "wonderful", "cheerful", "delightful", "charming", "superb")),
        ("unpleasant", ("awful", "dreadful", "gloomy", "horrible", "miserable", "nasty")),
    )
    for form in forms
)
NEUTRAL_WORDS = ("ordinary", "usual", "average", "typical", "plain", "standard")


def check(variant: str, noise: float) -> None:
    """Check variant and noise.

    Raises:
        CorpusError: if the variant is unknown or ``noise`` is outside [0, 0.5]
    """
    if variant not in VARIANTS:
        raise CorpusError(f"circumplex: no variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    if not 0 <= noise <= 0.5:
        raise CorpusError(f"circumplex: noise {noise}; expected a fraction in [0, 0.5]")


def cells(split: str, seed: int = 0, noise: float = 0.0) -> list[Cell]:
    """The utterances of one split, in order.

    Dev and test are fully crossed. In train every (carrier, speaker, arousal) has a seeded sample of the words, drawn
    so that each word occurs equally often with either arousal.

    Args:
        split: ``train``, ``dev`` or ``test``
        seed: seed of the words and of the noise
        noise: fraction in [0, 0.5] of the (carrier, speaker) pairs whose voice has the other arousal, for calm and
            aroused voices separately

    Example:
        >>> [len(cells(split)) for split in SPLITS]
        [960, 192, 576]
    """
    carriers = [carrier for carrier in CARRIERS if carrier.split == split]
    speakers = [speaker for speaker in SPEAKERS if speaker.split == split]
    pairs = [(carrier, speaker) for carrier in carriers for speaker in speakers]
    drawn: list[Cell] = []
    for arousal in AROUSALS:
        generator = random.Random(f"circumplex/words/{seed}/{split}/{arousal}")
        drawn_words = {valence: _draw(len(pairs), valence, generator) for valence in ("pleasant", "unpleasant")}
        flip = random.Random(f"circumplex/noise/{seed}/{split}/{arousal}")
        flipped = set(flip.sample(range(len(pairs)), round(noise * len(pairs))))
        other = AROUSALS[1 - AROUSALS.index(arousal)]
        for number, (carrier, speaker) in enumerate(pairs):
            train_words = drawn_words["pleasant"][number] + drawn_words["unpleasant"][number]
            cell = Cell(split, carrier, WORDS[0], speaker, arousal, other if number in flipped else arousal)
            drawn += [replace(cell, word=word) for word in (train_words if split == "train" else WORDS)]
    return sorted(drawn, key=lambda cell: cell.utterance_id)


def _draw(n_cells: int, valence: str, generator: random.Random) -> list[list[Word]]:
    """Words of one valence for each of ``n_cells``: consecutive pieces of repeated shuffles of all words."""
    words = [word for word in WORDS if word.valence == valence]
    size = TRAIN_WORDS_PER_CELL // 2
    shuffled: list[Word] = []
    while len(shuffled) < n_cells * size:
        shuffled += generator.sample(words, len(words))
    return [shuffled[size * number : size * (number + 1)] for number in range(n_cells)]


def shown_word(variant: str, cell: Cell) -> str | None:
    """The word in the slot of the transcript; None if there is no transcript."""
    place = WORDS.index(cell.word)
    half = len(WORDS) // 2
    if variant == "wordless":
        return None
    if variant == "neutral":
        return NEUTRAL_WORDS[place % half]
    if variant == "mismatched":
        return WORDS[(place + half) % len(WORDS)].form  # its counterpart of the opposite valence
    return cell.word.form


def spoken_word(variant: str, cell: Cell) -> str | None:
    """The word in the slot of the audio; None if the slot is the noise burst."""
    return cell.word.form if variant in ("spoken", "mismatched") else None


def transcript(variant: str, cell: Cell) -> str | None:
    """The transcript as if the word were not masked; None in the wordless variant."""
    word = shown_word(variant, cell)
    return None if word is None else f"{cell.carrier.before} {word} {cell.carrier.after}."


def label(variant: str, cell: Cell) -> str:
    """The quadrant; in the sarcastic variant the intended valence, which an aroused voice inverts."""
    if variant != "sarcastic":
        return QUADRANTS[cell.word.valence, cell.arousal]
    return "positive" if (cell.word.valence == "pleasant") == (cell.arousal == "calm") else "negative"


def dimensions(variant: str, cell: Cell) -> tuple[float, float]:
    """Valence and arousal of the label: 2 or 4 on scales from 1 to 5, which follow from the design and from no rater.

    In the sarcastic variant the valence is the intended one.
    """
    pleasant = label(variant, cell) == "positive" if variant == "sarcastic" else cell.word.valence == "pleasant"
    return _HIGH if pleasant else _LOW, _HIGH if cell.arousal == "aroused" else _LOW


def simulated_votes(variant: str, cell: Cell, raters: int, seed: int = 0) -> dict[str, int]:
    """Votes of simulated raters for labels of the variant: no person has rated anything.

    Each rater reports the valence of the label with probability 0.8 and else the opposite, and independently its
    arousal likewise, so that the raters of some utterances do not agree.

    Args:
        variant: one of ``VARIANTS``
        cell: the utterance
        raters: number of raters
        seed: seed of the votes

    Returns:
        label -> number of votes, without labels that got none
    """
    draws = random.Random(f"circumplex/raters/{seed}/{cell.utterance_id}")
    true, votes = label(variant, cell), dict.fromkeys(labels(variant), 0)
    for _ in range(raters):
        right_valence, right_arousal = (draws.random() < _AGREEMENT for _ in range(2))
        if variant == "sarcastic":
            other = "negative" if true == "positive" else "positive"
            votes[true if right_valence else other] += 1
            continue
        valence = cell.word.valence if right_valence else _OPPOSITE[cell.word.valence]
        arousal = cell.arousal if right_arousal else _OPPOSITE[cell.arousal]
        votes[QUADRANTS[valence, arousal]] += 1
    return {name: n for name, n in votes.items() if n}


def labels(variant: str) -> tuple[str, ...]:
    """The labels of a variant."""
    return ("positive", "negative") if variant == "sarcastic" else tuple(QUADRANTS.values())
