"""Speech of eSpeak NG, synthesised by a separate program, for the synthetic corpora."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.extras import install_extra

__all__ = ["SAMPLING_RATE", "VOICES", "Request", "Samples", "level_gain", "synthesised"]

Samples = npt.NDArray[np.float32]

SAMPLING_RATE = 16_000
VOICES: Mapping[str, str] = {
    "m1": "male", "f1": "female", "m3": "male", "f4": "female", "m7": "male", "linda": "female", "michel": "male",
    "aunty": "female", "max": "male", "steph2": "female", "m2": "male", "belinda": "female", "john": "male",
    "Annie": "female", "m6": "male", "steph": "female", "travis": "male", "anika": "female", "Gene": "male",
    "Andrea": "female",
}  # fmt: skip
"""Variant of the American English voice -> its gender. Those with eSpeak's `breath` (f2, f3, f5, victor ...) are left
out: their samples differ between processes."""
_PROGRAM = Path(__file__).with_name("espeak_program.py")


@dataclass(frozen=True)
class Request:
    """What is synthesised.

    Args:
        words: the text; phonemes of eSpeak in double square brackets
        voice: language and variant, such as en-us+m1
        rate: words per minute
        pitch: 0 to 100
        pitch_range: 0 to 100
    """

    words: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int


def synthesised(requests: Sequence[Request], corpus: str) -> list[Samples]:
    """Samples of each request at ``SAMPLING_RATE``, without silence at either end.

    They depend on the earlier requests of the list, and on nothing else: eSpeak has a noise state.

    Args:
        requests: what is synthesised, in this order, by one process
        corpus: name of the corpus, for errors

    Raises:
        CorpusError: if the extra ``synthesis`` is not installed, or eSpeak NG fails
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise CorpusError(f"{corpus}: the package espeakng-loader is not installed; {install_extra('synthesis')}")
    command = [sys.executable, "-P", str(_PROGRAM)]  # a separate program: eSpeak NG is GPL-3
    sent = json.dumps([asdict(request) for request in requests]).encode()
    done = subprocess.run(command, input=sent, capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise CorpusError(f"{corpus}: speech synthesis failed: {reason[-1]}")
    (rate,) = struct.unpack_from("<I", done.stdout)
    spoken, position = [], 4
    for request in requests:
        (count,) = struct.unpack_from("<I", done.stdout, position)
        samples = np.frombuffer(done.stdout, "<i2", count, position + 4).astype(np.float32) / np.float32(32768)
        position += 4 + 2 * count
        spoken.append(_trimmed(Waveform(samples, rate).resampled(SAMPLING_RATE).samples, request.words, corpus))
    return spoken


def level_gain(samples: Samples, level_db: float) -> np.float32:
    """The factor that scales ``samples`` to an RMS of ``level_db`` re full scale."""
    rms = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    return np.float32(10 ** (level_db / 20) / rms)


def _trimmed(samples: Samples, words: str, corpus: str) -> Samples:
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max(initial=0.0))
    if len(loud) == 0:
        raise CorpusError(f"{corpus}: eSpeak NG produced no sound for {words!r}")
    return samples[loud[0] : loud[-1] + 1]
