"""Utterances and rejections of a corpus, and inputs and examples of a recognizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from lalm_mer.core.audio import Waveform

__all__ = ["Audio", "EncodedAudio", "Example", "Facts", "Input", "Rejection", "Turn", "Utterance"]


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance of a corpus as its release describes it; None where the release has no value.

    Sampling rate and duration are not fields: they are measured from the audio when the corpus is written.

    Args:
        utterance_id: unique in the corpus
        corpus: name of the corpus
        audio_path: path of the audio (or video) file relative to the corpus root, with forward slashes
        audio_bytes: the encoded audio, if the reader produced it; None to read ``audio_path``
        cut: whether ``audio_path`` is a longer recording, of which the utterance is ``start_s`` to ``end_s``
        start_s: start of the utterance in the recording that the release took it from, in seconds
        end_s: its end, in seconds
        transcript_source: ``human``, ``asr`` or ``simulated``
        script: sentence or scene that is spoken, if several utterances share it
        split: the release's own split, as it names it
        label: label of the corpus
        ratings: label -> number of votes; ``channel:label`` if several channels were rated
        sentiment: on the scale that ``CorpusInfo.ranges`` gives
        intensities: label -> intensity, for multi-label corpora
    """

    utterance_id: str
    corpus: str
    audio_path: str | None = None
    audio_bytes: bytes | None = None
    cut: bool = False
    start_s: float | None = None
    end_s: float | None = None
    transcript: str | None = None
    transcript_source: str | None = None
    speaker: str | None = None
    gender: str | None = None
    age: int | None = None
    ethnicity: str | None = None
    language: str | None = None
    session: str | None = None
    dialogue: str | None = None
    turn: int | None = None
    script: str | None = None
    split: str | None = None
    label: str | None = None
    ratings: Mapping[str, int] | None = None
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None
    sentiment: float | None = None
    intensities: Mapping[str, float] | None = None
    video_path: str | None = None


@dataclass(frozen=True)
class Facts:
    """What an utterance id encodes by the naming rule of its corpus; None where it encodes nothing."""

    speaker: str | None = None
    session: str | None = None
    script: str | None = None


@dataclass(frozen=True)
class Rejection:
    """A file or row that cannot be used as an utterance, with the reason.

    Args:
        path: path relative to the corpus root, or the utterance id if there is no file
        reason: short code: ``unreadable``, ``empty``, ``truncated``, ``non_finite``, ``duplicate_id`` ...
        detail: explanation in one line
    """

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Turn:
    """An earlier turn of the dialogue of an utterance; the speaker is None if the corpus does not state it."""

    speaker: str | None
    transcript: str


@dataclass(frozen=True, eq=False)
class EncodedAudio:
    """Stored output of an audio tower for one waveform.

    Args:
        states: (F, D), one frame for each placeholder of the prompt; of bfloat16 its bits, as 16-bit integers
        dtype: float32, float16 or bfloat16
    """

    states: npt.NDArray[Any]
    dtype: str


Audio: TypeAlias = Waveform | EncodedAudio
"""What fills an audio slot of a prompt"""


@dataclass(frozen=True)
class Input:
    """What a recognizer is given of one utterance; it does not contain the truth.

    Args:
        utterance_id: unique among the inputs
        transcript: None if there is none or the recognizer does not use it
        waveform: mono samples; None if the recognizer does not use audio, or uses ``encoded``
        speaker: None if unknown
        without_audio: whether the audio is missing and the recognizer is to work without it
        context: the preceding turns, the most recent last
        descriptors: description of the voice; None if the recognizer does not use it
        encoded: stored output of the audio tower for its audio; None if there is none
        audio_sha256: hash of the audio as the corpus stores it, whose features may be stored; None if the audio is not
            of a corpus, or was changed
    """

    utterance_id: str
    transcript: str | None
    waveform: Waveform | None
    speaker: str | None = None
    without_audio: bool = False
    context: tuple[Turn, ...] = ()
    descriptors: str | None = None
    encoded: EncodedAudio | None = None
    audio_sha256: str | None = None

    @property
    def audio(self) -> Audio | None:
        """The stored tower output, or else the waveform."""
        return self.waveform if self.encoded is None else self.encoded


@dataclass(frozen=True)
class Example:
    """A training example: an input and the truth of the task.

    Args:
        input: what the recognizer is given
        label: the label of a ``single`` task, of an utterance without consensus the first of those with most votes;
            empty for other kinds of tasks
        target: true value of each of T targets (``Task.values_of``), or with soft labels the distribution of the votes;
            empty if only the label is known
    """

    input: Input
    label: str
    target: tuple[float, ...] = ()
