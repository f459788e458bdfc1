"""Utterances, rejections, inputs and examples: the rows on their way from a corpus to a recognizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lalm_mer.core.audio import Waveform

__all__ = ["Example", "Facts", "Input", "Rejection", "Turn", "Utterance"]


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance of a corpus as its release describes it; what the release does not say is None.

    What only the audio itself can tell (rate, duration) is measured when the corpus is written.

    Args:
        utterance_id: unique in the corpus
        corpus: name of the corpus
        audio_path: path of the audio (or video) file relative to the corpus root, with forward slashes
        audio_bytes: the encoded audio, where the reader made it itself; None to read ``audio_path``
        cut: whether ``audio_path`` is a longer recording, of which only ``start_s`` to ``end_s`` is the utterance
        start_s: start of the utterance in the recording that the release took it from, in seconds
        end_s: its end, in seconds
        transcript_source: ``human``, ``asr`` or ``simulated``
        script: what is said or acted, where several utterances share it
        split: the release's own split, as it names it
        label: as the corpus names it
        ratings: label -> number of votes; ``channel:label`` where several channels were rated
        sentiment: on the scale that the corpus's ranges give
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
    """What an utterance id tells by itself, by the rule of its corpus; None where it does not."""

    speaker: str | None = None
    session: str | None = None
    script: str | None = None


@dataclass(frozen=True)
class Rejection:
    """A file or row that is no utterance of the corpus, and why.

    Args:
        path: path relative to the corpus root, or the utterance id where there is no file
        reason: short code: ``unreadable``, ``empty``, ``truncated``, ``non_finite``, ``duplicate_id`` ...
        detail: one line for a person
    """

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Turn:
    """What somebody said before an utterance, in the same dialogue.

    Args:
        speaker: None where the corpus does not say
        transcript: their words
    """

    speaker: str | None
    transcript: str


@dataclass(frozen=True)
class Input:
    """What a recognizer is given of one utterance; it carries no truth.

    Args:
        utterance_id: unique in the corpus, or in what is predicted
        transcript: None where there is none or the recognizer does not use it
        waveform: mono samples; None where the recognizer does not use audio
        speaker: None where it is not known
        without_audio: whether there is no audio of it and the recognizer is to do without
        context: the turns before it, the nearest last
        descriptors: description of its voice; None where the recognizer does not use it
    """

    utterance_id: str
    transcript: str | None
    waveform: Waveform | None
    speaker: str | None = None
    without_audio: bool = False
    context: tuple[Turn, ...] = ()
    descriptors: str | None = None


@dataclass(frozen=True)
class Example:
    """An utterance to learn from: an input and its truth.

    Args:
        input: what a recognizer is given
        label: the task's label
    """

    input: Input
    label: str
