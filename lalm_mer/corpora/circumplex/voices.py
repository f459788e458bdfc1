"""The audio of the circumplex corpus: pieces synthesised by a child process, joined around a burst or a spoken word."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.extras import install_extra
from lalm_mer.corpora.circumplex import design

__all__ = ["SAMPLING_RATE", "Voices"]

Samples = npt.NDArray[np.float32]
Piece = tuple[str, str, str, str]  # part, carrier or word, speaker, arousal

SAMPLING_RATE = 16_000
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
_PROGRAM = Path(__file__).with_name("synthesis.py")


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
        self._pieces: Mapping[Piece, Samples] = dict(zip(requests, _speak(list(requests.values())), strict=True))
        self._burst = _burst()

    def wav(self, cell: design.Cell) -> bytes:
        """One utterance as a 16-bit mono WAV file.

        Without a spoken word it depends only on carrier, speaker and the arousal of the voice.
        """
        carrier, speaker, arousal = cell.carrier.name, cell.speaker.name, cell.voice_arousal
        before, after = (self._voiced((part, carrier, speaker, arousal)) for part in ("before", "after"))
        level = random.Random(f"circumplex/level/{self._seed}/{carrier}/{speaker}").uniform(-JITTER_DB, JITTER_DB)
        gain = _gain(np.concatenate([before, after]), LEVEL_DB + AROUSAL_DB[arousal] + level)
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


def _requests(variant: str) -> dict[Piece, dict[str, str | int]]:
    """The requests to the child process; carriers come first, so that their samples are the same in all variants."""
    requests: dict[Piece, dict[str, str | int]] = {}
    for speaker, carrier, arousal in product(design.SPEAKERS, design.CARRIERS, design.AROUSALS):
        if carrier.split == speaker.split:
            parts = carrier.hum if variant == "wordless" else (carrier.before, carrier.after)
            for part, words in zip(("before", "after"), parts, strict=True):
                requests[part, carrier.name, speaker.name, arousal] = _request(words, speaker, arousal)
    if variant in ("spoken", "mismatched"):
        for speaker, word, arousal in product(design.SPEAKERS, design.WORDS, design.AROUSALS):
            requests["word", word.form, speaker.name, arousal] = _request(word.form, speaker, arousal)
    return requests


def _request(words: str, speaker: design.Speaker, arousal: str) -> dict[str, str | int]:
    return {
        "words": words,
        "voice": speaker.voice,
        "rate": round(speaker.rate * RATE_FACTOR[arousal]),
        "pitch": speaker.pitch + PITCH_STEP[arousal],
        "pitch_range": PITCH_RANGE[arousal],
    }


def _speak(requests: Sequence[Mapping[str, str | int]]) -> list[Samples]:
    """Run the synthesis program once on ``requests``; returns trimmed samples at ``SAMPLING_RATE`` for each."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise CorpusError(f"circumplex: the package espeakng-loader is not installed; {install_extra('synthesis')}")
    command = [sys.executable, "-P", str(_PROGRAM)]  # a separate program: eSpeak NG is GPL-3
    done = subprocess.run(command, input=json.dumps(requests).encode(), capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise CorpusError(f"circumplex: speech synthesis failed: {reason[-1]}")
    (rate,) = struct.unpack_from("<I", done.stdout)
    spoken, position = [], 4
    for request in requests:
        (count,) = struct.unpack_from("<I", done.stdout, position)
        samples = np.frombuffer(done.stdout, "<i2", count, position + 4).astype(np.float32) / np.float32(32768)
        position += 4 + 2 * count
        spoken.append(_trimmed(Waveform(samples, rate).resampled(SAMPLING_RATE).samples, str(request["words"])))
    return spoken


def _trimmed(samples: Samples, words: str) -> Samples:
    """The samples without silence at either end."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max(initial=0.0))
    if len(loud) == 0:
        raise CorpusError(f"circumplex: eSpeak NG produced no sound for {words!r}")
    return samples[loud[0] : loud[-1] + 1]


def _faded(samples: Samples) -> Samples:
    ramp = np.linspace(0, 1, round(FADE_S * SAMPLING_RATE), dtype=np.float32)
    faded = samples.copy()
    faded[: len(ramp)] *= ramp
    faded[-len(ramp) :] *= ramp[::-1]
    return faded


def _gain(samples: Samples, level_db: float) -> np.float32:
    """The factor that scales ``samples`` to an RMS of ``level_db`` re full scale."""
    rms = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    return np.float32(10 ** (level_db / 20) / rms)


def _burst() -> Samples:
    """The noise that replaces the word: the same samples in all utterances and variants."""
    noise = np.random.default_rng(0).uniform(-1, 1, round(BURST_S * SAMPLING_RATE)).astype(np.float32)
    return _faded(noise * _gain(noise, LEVEL_DB))
