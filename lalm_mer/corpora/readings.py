"""Reader of synthetic readings: transcripts of a prepared corpus, each read by eSpeak NG in one of many voices.

They have no emotion. They are for the alignment of composed audio-language models, which learn from them to name words,
gender, pitch, level and rate.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.names import SIMULATED
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.core.words import words_of
from lalm_mer.corpora.espeak import SAMPLING_RATE, VOICES, Request, Samples, level_gain, synthesised
from lalm_mer.corpora.prepared import load

__all__ = ["LOADER_VERSION", "read"]

LOADER_VERSION = "1"
_OTHER_VOICES = {"dev": ("m2", "belinda", "john", "Annie"), "test": ("m6", "steph", "travis", "anika")}
_SHARES = {"dev": 0.08, "test": 0.08}  # of the texts; the others are of train
_WORDS = (2, 20)
_RATE = (120, 230)  # words per minute
_PITCH = (20, 80)
_PITCH_RANGE = (10, 90)
_LEVEL_DB = (-36.0, -18.0)  # RMS re full scale
_TOGETHER = 200  # texts of one process of eSpeak, whose samples depend on those before
# eSpeak reads other characters as phonemes or not at all
_PLAIN = re.compile(r"[A-Za-z0-9 ,.?!'-]*[A-Za-z0-9][A-Za-z0-9 ,.?!'-]*")


@dataclass(frozen=True)
class _Reading:
    """How a text is read, and in which split."""

    split: str
    variant: str
    request: Request
    level_db: float


def read(texts: Path, seed: int = 0, utterances: int | None = None) -> Iterator[Utterance | Rejection]:
    """Read texts aloud; bit-identical for equal settings.

    Splits share no text and no voice. Of a corpus with splits of its own, only the transcripts of train are read. The
    rows of the corpus that are not read are rejections, each with its reason.

    Args:
        texts: folder of a prepared corpus with transcripts
        seed: seed of the draws: texts, splits, voices and how each is read
        utterances: number of texts that are read; None for all that can be

    Raises:
        CorpusError: if there is no text, or the extra ``synthesis`` is not installed
    """
    chosen: list[str] = []
    for name, text, reason in _texts(texts, seed, utterances):
        if reason is None:
            chosen.append(text)
        else:
            yield Rejection(name, *reason)
    if not chosen:
        raise CorpusError(f"{texts}: none of its transcripts can be read; give a corpus with English transcripts")
    readings = [_reading(text, seed) for text in chosen]
    for start in range(0, len(readings), _TOGETHER):
        group = readings[start : start + _TOGETHER]
        spoken = synthesised([reading.request for reading in group], "readings")
        for number, (reading, samples) in enumerate(zip(group, spoken, strict=True), start + 1):
            name = f"{reading.split}_{number:06d}"
            yield Utterance(
                utterance_id=name,
                corpus="readings",
                audio_path=f"{name}.wav",
                audio_bytes=_wav(samples, reading.level_db),
                transcript=reading.request.words,
                transcript_source=SIMULATED,
                speaker=reading.variant,
                gender=VOICES[reading.variant],
                language="en",
                split=reading.split,
                label=VOICES[reading.variant],
            )


def _texts(folder: Path, seed: int, limit: int | None) -> Iterator[tuple[str, str, tuple[str, str] | None]]:
    """Utterance id, text and, if it is not read, reason and detail, of each row of a corpus, in a drawn order."""
    table = load(folder).columns(["utterance_id", "transcript", "split"]).fillna("")
    rows: list[tuple[str, str, str]] = sorted(table.itertuples(index=False, name=None))
    random.Random(f"readings/{seed}").shuffle(rows)
    of_train = any(split == "train" for *_, split in rows)
    seen: set[str] = set()
    for name, text, split in rows:
        found = " ".join(text.split())
        key = " ".join(words_of(found))
        if of_train and split != "train":
            yield name, found, ("other_split", f"of split {split}; only those of train are read")
        elif (problem := _problem(found)) is not None:
            yield name, found, ("not_read", problem)
        elif key in seen:
            yield name, found, ("duplicate_text", "another utterance has this text")
        elif limit is not None and len(seen) == limit:
            yield name, found, ("not_drawn", f"{limit} others were drawn")
        else:
            seen.add(key)
            yield name, found, None


def _problem(text: str) -> str | None:
    if not text:
        return "no transcript"
    if not _PLAIN.fullmatch(text):
        return "has other characters than letters, digits and punctuation of English"
    count = len(text.split())
    low, high = _WORDS
    return None if low <= count <= high else f"{count} words; {low} to {high} are read"


def _reading(text: str, seed: int) -> _Reading:
    """How a text is read, which depends on the text and the seed alone."""
    draw = random.Random(f"readings/{seed}/{text}")
    split = draw.choices(("train", *_SHARES), (1 - sum(_SHARES.values()), *_SHARES.values()))[0]
    variant = draw.choice(_voices(split))
    request = Request(
        words=text,
        voice=f"en-us+{variant}",
        rate=draw.randint(*_RATE),
        pitch=draw.randint(*_PITCH),
        pitch_range=draw.randint(*_PITCH_RANGE),
    )
    return _Reading(split, variant, request, draw.uniform(*_LEVEL_DB))


def _voices(split: str) -> Sequence[str]:
    others = [voice for voices in _OTHER_VOICES.values() for voice in voices]
    return _OTHER_VOICES.get(split) or [voice for voice in VOICES if voice not in others]


def _wav(samples: Samples, level_db: float) -> bytes:
    """A 16-bit mono WAV file at a level."""
    file = io.BytesIO()
    scaled = np.clip(samples * level_gain(samples, level_db), -1, 1)
    soundfile.write(file, scaled, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()
