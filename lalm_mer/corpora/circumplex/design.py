"""The design of the synthetic circumplex corpus: who says what in which voice, and what can be known from it.

Pure: no audio here. An utterance is a carrier sentence x a word (pleasant or unpleasant) x a voice (calm or aroused)
x a speaker, and its label is the quadrant of Russell's circumplex that word and voice make together, so the best
score from the transcript alone, from the audio alone and from both follows from the construction.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lalm_mer.core.errors import CorpusError

__all__ = [
    "AROUSALS", "CARRIERS", "NEUTRAL_WORDS", "SIDES", "SPEAKERS", "VARIANTS", "WORDS", "Carrier", "Cell", "Speaker",
    "Word", "cells", "check", "label", "labels", "shown_word", "spoken_word", "transcript",
]  # fmt: skip

SIDES = ("train", "dev", "test")
AROUSALS = ("calm", "aroused")
VARIANTS = ("masked", "spoken", "sarcastic", "neutral", "wordless", "mismatched")
QUADRANTS = {
    ("pleasant", "aroused"): "happy",
    ("unpleasant", "aroused"): "angry",
    ("pleasant", "calm"): "content",
    ("unpleasant", "calm"): "sad",
}
TRAIN_WORDS_PER_CELL = 2  # half of them pleasant; dev and test are fully crossed


@dataclass(frozen=True)
class Carrier:
    """A sentence with a slot for one word.

    Args:
        name: identifier, ``c01`` and on
        side: the only side of the split that it occurs in
        before: what is said before the slot
        after: what is said after it
        hum: eSpeak phonemes hummed in their place in the wordless variant, before and after the slot
    """

    name: str
    side: str
    before: str
    after: str
    hum: tuple[str, str]


@dataclass(frozen=True)
class Speaker:
    """A synthetic speaker: an eSpeak voice with a pitch (0 to 100) and a rate (words a minute) of its own."""

    name: str
    side: str
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
        arousal: the arousal that the label follows
        voice_arousal: the arousal that the voice has; differs from ``arousal`` only by the ``noise`` setting
    """

    side: str
    carrier: Carrier
    word: Word
    speaker: Speaker
    arousal: str
    voice_arousal: str

    @property
    def utterance_id(self) -> str:
        """The same in every variant, so that variants pair utterance by utterance."""
        return f"{self.side}_{self.speaker.name}_{self.carrier.name}_{self.word.form}_{self.arousal}"


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
    sentences = [(side, *sentence) for side in SIDES for sentence in _SENTENCES[side]]
    for number, (side, before, after) in enumerate(sentences):
        first, second = _SYLLABLES[number % 6], _SYLLABLES[number // 6]
        hum = (f"[[{first}{second}{first}]]", f"[[{second}{first}]]")  # another tune for every carrier
        yield Carrier(f"c{number + 1:02d}", side, before, after, hum)


# Voices with eSpeak's `breath` (f2, f3, f5, victor ...) are left out: they differ from process to process.
# Train meets every voice twice, as two speakers of another pitch and rate.
_VOICES = {
    "train": (
        ("male", "m1", 46, 172), ("female", "f1", 44, 181), ("male", "m3", 38, 178), ("female", "f4", 52, 166),
        ("male", "m7", 54, 184), ("female", "linda", 40, 174), ("male", "michel", 42, 164),
        ("female", "aunty", 50, 186), ("male", "max", 52, 169), ("female", "steph2", 47, 177),
        ("male", "m1", 55, 186), ("female", "f1", 37, 168), ("male", "m3", 50, 165), ("female", "f4", 40, 183),
        ("male", "m7", 39, 171), ("female", "linda", 53, 187), ("male", "michel", 54, 180),
        ("female", "aunty", 38, 170), ("male", "max", 41, 185), ("female", "steph2", 56, 163),
    ),
    "dev": (
        ("male", "m2", 49, 167), ("female", "belinda", 41, 183), ("male", "john", 40, 180),
        ("female", "Annie", 51, 171),
    ),
    "test": (
        ("male", "m6", 41, 170), ("female", "steph", 45, 185), ("male", "travis", 53, 179),
        ("female", "anika", 39, 165), ("male", "Gene", 47, 182), ("female", "Andrea", 50, 173),
    ),
}  # fmt: skip


def _speakers() -> Iterator[Speaker]:
    voices = [(side, *voice) for side in SIDES for voice in _VOICES[side]]
    for number, (side, gender, variant, pitch, rate) in enumerate(voices):
        yield Speaker(f"s{number + 1:02d}", side, gender, f"en-us+{variant}", pitch, rate)


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
    """Check the two settings that change what the corpus is.

    Raises:
        CorpusError: if the variant is unknown or ``noise`` is outside [0, 0.5]
    """
    if variant not in VARIANTS:
        raise CorpusError(f"circumplex: no variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    if not 0 <= noise <= 0.5:
        raise CorpusError(f"circumplex: noise {noise} is outside [0, 0.5], the fraction of cells in the other voice")


def cells(side: str, seed: int = 0, noise: float = 0.0) -> list[Cell]:
    """The utterances of one side of the split, in order.

    Dev and test are fully crossed. In train every (carrier, speaker, arousal) has a seeded hand of the words, dealt
    so that each word is met equally often in either arousal.

    Args:
        side: ``train``, ``dev`` or ``test``
        seed: seed of the hand and of the noise
        noise: fraction in [0, 0.5] of the (carrier, speaker) pairs whose voice has the other arousal, drawn apart
            for calm and aroused and the same number of each

    Example:
        >>> [len(cells(side)) for side in SIDES]
        [960, 192, 576]
    """
    carriers = [carrier for carrier in CARRIERS if carrier.side == side]
    speakers = [speaker for speaker in SPEAKERS if speaker.side == side]
    pairs = [(carrier, speaker) for carrier in carriers for speaker in speakers]
    drawn: list[Cell] = []
    for arousal in AROUSALS:
        deal = random.Random(f"circumplex/words/{seed}/{side}/{arousal}")
        hands = {valence: _deal(len(pairs), valence, deal) for valence in ("pleasant", "unpleasant")}
        flip = random.Random(f"circumplex/noise/{seed}/{side}/{arousal}")
        flipped = set(flip.sample(range(len(pairs)), round(noise * len(pairs))))
        other = AROUSALS[1 - AROUSALS.index(arousal)]
        for number, (carrier, speaker) in enumerate(pairs):
            in_hand = hands["pleasant"][number] + hands["unpleasant"][number]
            cell = Cell(side, carrier, WORDS[0], speaker, arousal, other if number in flipped else arousal)
            drawn += [replace(cell, word=word) for word in (in_hand if side == "train" else WORDS)]
    return sorted(drawn, key=lambda cell: cell.utterance_id)


def _deal(hands: int, valence: str, generator: random.Random) -> list[list[Word]]:
    """Deal the words of one valence into hands, a freshly shuffled pack at a time."""
    pack = [word for word in WORDS if word.valence == valence]
    size = TRAIN_WORDS_PER_CELL // 2
    dealt: list[Word] = []
    while len(dealt) < hands * size:
        dealt += generator.sample(pack, len(pack))
    return [dealt[size * number : size * (number + 1)] for number in range(hands)]


def shown_word(variant: str, cell: Cell) -> str | None:
    """The word in the slot of the transcript; None where there is no transcript."""
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
    """The word in the slot of the audio; None where the slot is the noise burst."""
    return cell.word.form if variant in ("spoken", "mismatched") else None


def transcript(variant: str, cell: Cell) -> str | None:
    """What a transcriber would have written, had the word not been masked."""
    word = shown_word(variant, cell)
    return None if word is None else f"{cell.carrier.before} {word} {cell.carrier.after}."


def label(variant: str, cell: Cell) -> str:
    """The quadrant; in the sarcastic variant the valence that is meant, which an aroused voice turns round."""
    if variant != "sarcastic":
        return QUADRANTS[cell.word.valence, cell.arousal]
    return "positive" if (cell.word.valence == "pleasant") == (cell.arousal == "calm") else "negative"


def labels(variant: str) -> tuple[str, ...]:
    """The labels of a variant."""
    return ("positive", "negative") if variant == "sarcastic" else tuple(QUADRANTS.values())
