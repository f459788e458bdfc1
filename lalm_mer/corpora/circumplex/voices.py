"""The audio of the circumplex corpus: pieces synthesised by a child process, joined around a burst or a spoken word."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from itertools import product

import numpy as np
import soundfile

from lalm_mer.corpora.circumplex import design
from lalm_mer.corpora.espeak import SAMPLING_RATE, Request, Samples, level_gain, synthesised

__all__ = ["Voices"]

Piece = tuple[str, str, str, str]  # part, carrier or word, speaker, arousal

BURST_S = 0.35
GAP_S = 0.03
FADE_S = 0.005
LEVEL_DB = -27.0  # RMS re full scale, to which the next two are added
AROUSAL_DB = {"calm": -2.0, "aroused": 2.0}
JITTER_DB = 4.0  # largest level offset of a (carrier, speaker), so that loudness alone does not reveal arousal
RATE_FACTOR = {"calm": 0.96, "aroused": 1.38}
PITCH_STEP = {"calm": -8, "aroused": 16}
PITCH_RANGE = {"calm": 12, "aroused": 92}
TILT = {"calm": 0.35, "aroused": -0.45}  # weight of the previous sample: vocal effort flattens the spectrum


class Voices:
    """All pieces of a variant, synthesised once in an order that does not depend on the settings.

    Args:
        variant: name of the variant
        seed: seed of the level of each (carrier, speaker)

    Raises:
        CorpusError: if the extra ``synthesis`` is not installed, or eSpeak NG fails
    """

    def __init__(self, variant: str, seed: int) -> None:
        self._variant, self._seed = variant, seed
        requests = _requests(variant)
        self._pieces: Mapping[Piece, Samples] = dict(
            zip(requests, synthesised(list(requests.values()), "circumplex"), strict=True)
        )
        self._burst = _burst()

    def wav(self, cell: design.Cell) -> bytes:
        """One utterance as a 16-bit mono WAV file.

        Without a spoken word it depends only on carrier, speaker and the arousal of the voice.
        """
        carrier, speaker, arousal = cell.carrier.name, cell.speaker.name, cell.voice_arousal
        before, after = (self._voiced((part, carrier, speaker, arousal)) for part in ("before", "after"))
        level = random.Random(f"circumplex/level/{self._seed}/{carrier}/{speaker}").uniform(-JITTER_DB, JITTER_DB)
        gain = level_gain(np.concatenate([before, after]), LEVEL_DB + AROUSAL_DB[arousal] + level)
        word = design.spoken_word(self._variant, cell)
        slot = self._burst if word is None else gain * self._voiced(("word", word, speaker, arousal))
        gap = np.zeros(round(GAP_S * SAMPLING_RATE), np.float32)
        joined = np.concatenate([gap, gain * before, gap, slot, gap, gain * after, gap])
        file = io.BytesIO()
        soundfile.write(file, np.clip(joined, -1, 1), SAMPLING_RATE, format="WAV", subtype="PCM_16")
        return file.getvalue()

    def _voiced(self, key: Piece) -> Samples:
        """A piece with the spectral tilt of its arousal."""
        piece = self._pieces[key]
        tilted = piece.copy()
        tilted[1:] += np.float32(TILT[key[-1]]) * piece[:-1]
        return _faded(tilted)


def _requests(variant: str) -> dict[Piece, Request]:
    """The requests to the child process; carriers come first, so that their samples are the same in all variants."""
    requests: dict[Piece, Request] = {}
    for speaker, carrier, arousal in product(design.SPEAKERS, design.CARRIERS, design.AROUSALS):
        if carrier.split == speaker.split:
            parts = carrier.hum if variant == "wordless" else (carrier.before, carrier.after)
            for part, words in zip(("before", "after"), parts, strict=True):
                requests[part, carrier.name, speaker.name, arousal] = _request(words, speaker, arousal)
    if variant in ("spoken", "mismatched"):
        for speaker, word, arousal in product(design.SPEAKERS, design.WORDS, design.AROUSALS):
            requests["word", word.form, speaker.name, arousal] = _request(word.form, speaker, arousal)
    return requests


def _request(words: str, speaker: design.Speaker, arousal: str) -> Request:
    return Request(
        words=words,
        voice=speaker.voice,
        rate=round(speaker.rate * RATE_FACTOR[arousal]),
        pitch=speaker.pitch + PITCH_STEP[arousal],
        pitch_range=PITCH_RANGE[arousal],
    )


def _faded(samples: Samples) -> Samples:
    ramp = np.linspace(0, 1, round(FADE_S * SAMPLING_RATE), dtype=np.float32)
    faded = samples.copy()
    faded[: len(ramp)] *= ramp
    faded[-len(ramp) :] *= ramp[::-1]
    return faded


def _burst() -> Samples:
    """The noise that replaces the word: the same samples in all utterances and variants."""
    noise = np.random.default_rng(0).uniform(-1, 1, round(BURST_S * SAMPLING_RATE)).astype(np.float32)
    return _faded(noise * level_gain(noise, LEVEL_DB))
