"""Utterances, rejections and examples: the rows that travel from a corpus to a recognizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lalm_mer.core.audio import Waveform

__all__ = ["Example", "Rejection", "Utterance"]


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance of a corpus as its release describes it; what the release does not say is None.

    Args:
        utterance_id: unique in the corpus
        corpus: name of the corpus
        audio_path: path of the audio file relative to the corpus root, with forward slashes
        audio_bytes: the encoded audio as shipped (or as synthesised)
        sampling_rate: rate of the encoded audio, in Hz
        start_s: start of the utterance within the file, in seconds; None for a whole file
        end_s: its end, in seconds
        duration_s: duration of the utterance, in seconds
        transcript_source: ``human``, ``asr`` or ``simulated``
        script: what is said or acted, where several utterances share it
        label: as the corpus names it
        ratings: label -> number of votes
        intensities: label -> intensity, for multi-label corpora
    """

    utterance_id: str
    corpus: str
    audio_path: str
    audio_bytes: bytes
    sampling_rate: int
    duration_s: float
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
    label: str | None = None
    ratings: Mapping[str, int] | None = None
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None
    sentiment: float | None = None
    intensities: Mapping[str, float] | None = None
    video_path: str | None = None


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
class Example:
    """One utterance of a fold as a recognizer sees it.

    Args:
        utterance_id: unique in the corpus
        speaker: None where the corpus does not say
        label: the task's label (the truth)
        transcript: None where the recognizer reads none
        waveform: mono samples; None where the recognizer hears none
    """

    utterance_id: str
    speaker: str | None
    label: str
    transcript: str | None
    waveform: Waveform | None
