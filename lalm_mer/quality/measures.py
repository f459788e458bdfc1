"""Measures of one utterance: its audio, the length of its transcript, and its word times.

The audio is the mono mix that recognizers use. Levels are in dB re full scale (dBFS), -120 for digital silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from lalm_mer.core.audio import Waveform, decode
from lalm_mer.core.errors import AudioError, CorpusError
from lalm_mer.core.processes import in_processes
from lalm_mer.core.word_times import find_word_times, read_word_times
from lalm_mer.core.words import words_of

__all__ = ["Measures", "Sound", "measure", "measure_all", "measure_sound"]

_LOWEST_DBFS = -120.0
_FRAME_S = 0.025
_FULL_SCALE = 32766.5 / 32768  # the largest magnitude of 16 bits, of either sign
_SHORTEST_FLAT_RUN = 3  # samples; two equal ones at the peak are natural
_FLAT_PEAK = 0.1  # re full scale; below -20 dBFS a natural peak is flat at 16 bits
_SILENT_BELOW_LOUDEST_DB = 40.0  # speech varies by about 30 dB between vowels and fricatives
_SILENT_DBFS = -70.0
_TRIM = 10 ** (-60 / 20)
_ROWS_AT_A_TIME = 32

_COPIED = ("utterance_id", "audio_sha256", "transcript", "label", "speaker", "session", "dialogue")

_Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Measures of the audio samples.

    Args:
        peak: largest magnitude, 1 for full scale
        clipped_share: fraction of samples at or beyond full scale
        flat_share: fraction of samples in runs of three or more that equal the largest or the smallest sample
        flat_runs: number of these runs; clipping at any level gives many
        level_dbfs: root mean square without the mean
        loudest_dbfs: the same for the loudest 25 ms
        silence_share: fraction of 25 ms frames 40 dB below the loudest one, or below -70 dBFS
        samples_hash: hash of the samples at 16 bits and their rate; None if all samples are equal
        trimmed_hash: the same without samples below -60 dBFS at both ends; None if no samples remain
    """

    peak: float
    clipped_share: float
    flat_share: float
    flat_runs: int
    level_dbfs: float
    loudest_dbfs: float
    silence_share: float
    samples_hash: str | None
    trimmed_hash: str | None


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Measures of one utterance; None where a value cannot be measured.

    Args:
        label_duration_s: ``end_s - start_s`` of the label
        n_characters: number of characters of the transcript without punctuation, single spaces included
        audio_error: why the audio cannot be decoded
        word_times_error: why the word times cannot be read
        words_match: whether the words of the word times are those of the transcript
        words_end_s: end of the last word that has a time
    """

    utterance_id: str
    audio_path: str | None
    audio_sha256: str | None
    transcript: str | None
    label: str | None
    speaker: str | None
    session: str | None
    dialogue: str | None
    duration_s: float | None
    label_duration_s: float | None
    n_characters: int | None
    sound: Sound | None
    audio_error: str | None
    has_word_times: bool
    word_times_error: str | None
    words_match: bool | None
    words_end_s: float | None

    @property
    def characters_per_s(self) -> float | None:
        """Characters of the transcript per second of audio; None without either."""
        return self.n_characters / self.duration_s if self.n_characters and self.duration_s else None


def measure_all(
    dataset: datasets.Dataset, word_times: Path | None = None, processes: int = 1
) -> Iterator[list[Measures]]:
    """Measure all rows of a prepared corpus in several processes, in order, a few rows at a time."""
    starts = range(0, len(dataset), _ROWS_AT_A_TIME)
    # for worker processes the dataset is pickled as the name of its memory-mapped file
    yield from in_processes(partial(_measure_rows, dataset, word_times=word_times), starts, processes)


def _measure_rows(dataset: datasets.Dataset, start: int, *, word_times: Path | None) -> list[Measures]:
    rows = dataset.select(range(start, min(start + _ROWS_AT_A_TIME, len(dataset))))
    return [measure(row, word_times) for row in rows]


def measure(row: Mapping[str, Any], word_times: Path | None = None) -> Measures:
    """Measure one row of a prepared corpus; ``word_times`` is a folder with one file per utterance."""
    audio, sound, audio_error, duration_s = row["audio"], None, None, None
    if audio is not None:
        try:
            waveform = decode(audio["bytes"], row["utterance_id"])
            sound, duration_s = measure_sound(waveform), waveform.duration_s
        except AudioError as error:  # a row damaged after preparation is a finding, not an error
            audio_error = str(error)
    times = (row["start_s"], row["end_s"])
    words = None if row["transcript"] is None else words_of(row["transcript"])
    return Measures(
        **{name: row[name] for name in _COPIED},
        audio_path=audio["path"] if audio is not None else None,
        duration_s=duration_s,
        label_duration_s=None if None in times else times[1] - times[0],
        n_characters=None if words is None else len(" ".join(words)),
        sound=sound,
        audio_error=audio_error,
        **_measure_words(row["utterance_id"], words, word_times),
    )


def _measure_words(utterance_id: str, transcript: list[str] | None, folder: Path | None) -> dict[str, Any]:
    nothing = {"has_word_times": False, "word_times_error": None, "words_match": None, "words_end_s": None}
    if folder is None:
        return nothing
    try:
        path = find_word_times(folder, utterance_id)
        if path is None:
            return nothing
        words = read_word_times(path, utterance_id)
    except CorpusError as error:
        return nothing | {"has_word_times": True, "word_times_error": str(error)}
    aligned = words_of(" ".join(word.word for word in words))
    return {
        "has_word_times": True,
        "word_times_error": None,
        # joined, since aligners split words differently: "ice-cream", "ice cream"
        "words_match": None if transcript is None else _joined(aligned) == _joined(transcript),
        "words_end_s": max((word.end_s for word in words if word.end_s is not None), default=None),
    }


def _joined(words: list[str]) -> str:
    return "".join(words).replace("'", "")


def measure_sound(waveform: Waveform) -> Sound:
    """Measure the samples of a waveform.

    Example:
        >>> import numpy
        >>> sound = measure_sound(Waveform(numpy.zeros(8000, numpy.float32), 8000))
        >>> sound.level_dbfs, sound.silence_share
        (-120.0, 1.0)
    """
    samples = waveform.samples
    magnitude = np.abs(samples)
    steps = np.rint(np.clip(samples, -1, 1) * 32768).clip(-32768, 32767).astype("<i2")
    flat_share, flat_runs = _flat(steps, float(magnitude.max()))
    frames = _frame_levels(samples, waveform.sampling_rate)
    loudest = float(frames.max())
    floor = max(loudest - _SILENT_BELOW_LOUDEST_DB, _SILENT_DBFS)
    audible = np.flatnonzero(magnitude >= _TRIM)
    trimmed = steps[audible[0] : audible[-1] + 1] if len(audible) else steps[:0]
    return Sound(
        peak=float(magnitude.max()),
        clipped_share=float(np.mean(magnitude >= _FULL_SCALE)),
        flat_share=flat_share,
        flat_runs=flat_runs,
        level_dbfs=float(_dbfs(np.var(samples, dtype=np.float64))),
        loudest_dbfs=loudest,
        silence_share=float(np.mean(frames < floor)),
        samples_hash=_hash(steps, waveform.sampling_rate) if steps.min() < steps.max() else None,
        trimmed_hash=_hash(trimmed, waveform.sampling_rate) if len(trimmed) else None,
    )


def _flat(steps: npt.NDArray[np.int16], peak: float) -> tuple[float, int]:
    """Fraction of samples in flat runs at an extreme, and the number of such runs."""
    if peak < _FLAT_PEAK:
        return 0.0, 0
    n_samples, n_runs = 0, 0
    for extreme in {int(steps.min()), int(steps.max())}:
        edges = np.diff(np.concatenate(([0], (steps == extreme).astype(np.int8), [0])))
        lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
        long = lengths[lengths >= _SHORTEST_FLAT_RUN]
        n_samples += int(long.sum())
        n_runs += len(long)
    return n_samples / len(steps), n_runs


def _frame_levels(samples: _Samples, sampling_rate: int) -> npt.NDArray[np.float64]:
    """Level of each frame of 25 ms in dBFS, shape (n,); the last, shorter one is left out unless it is the only one."""
    size = min(max(1, round(_FRAME_S * sampling_rate)), len(samples))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return _dbfs(np.var(frames, axis=1, dtype=np.float64))


def _dbfs(power: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (_LOWEST_DBFS / 10))), dtype=np.float64)


def _hash(steps: npt.NDArray[np.int16], sampling_rate: int) -> str:
    return hashlib.sha256(sampling_rate.to_bytes(4, "little") + steps.tobytes()).hexdigest()[:32]
