"""Descriptions of voices: pitch, energy and speaking rate as low, medium or high relative to the training utterances.

They are for prompts that describe the voice as text. They use no transcript, so modalities that include only audio do
not change.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from numpy.lib.stride_tricks import sliding_window_view

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, CorpusError
from lalm_mer.core.processes import usable_cores
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Input
from lalm_mer.examples.dataset import ExampleSource, InputDataset
from lalm_mer.examples.feature_store import FeatureStore, Frames

__all__ = ["Descriptors", "Measures", "Terciles", "describe_corpus", "describe_voice", "levels_of", "measure"]

_VERSION = 1  # version of the measures, part of the key of their store
_RATE = 16_000
_HOP = _RATE // 100
_LOWEST_HZ, _HIGHEST_HZ = 75.0, 600.0
_PITCH_WINDOW = 3 * _RATE // 75  # three periods of the lowest pitch (Boersma 1993)
_VOICED = 0.5  # smallest autocorrelation at the period; 1 for a perfectly periodic signal
_OCTAVE_COST = 0.01  # prefers the higher pitch of two equal peaks, at one period and two
_ENVELOPE_WINDOW = round(0.064 * _RATE)  # as Praat smooths intensity for pitches from 50 Hz
_SILENT_BELOW_LOUDEST_DB = 25.0  # de Jong & Wempe
_DIP_DB = 2.0  # de Jong & Wempe: smallest dip between two nuclei
_DIGITAL_SILENCE = 1e-12  # mean square: -120 dBFS

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """Measures of one utterance, at the precision of float32; None where a value does not exist.

    Args:
        pitch_hz: median fundamental frequency of the voiced frames; None if no frame is voiced
        energy_db: root mean square of the frames that are not silent, in dB re full scale; None for digital silence
        rate_per_s: syllable nuclei per second, between leading and trailing silence; None for digital silence
    """

    pitch_hz: float | None
    energy_db: float | None
    rate_per_s: float | None


def measure(waveform: Waveform) -> Measures:
    """Measure pitch, energy and speaking rate of a waveform at any sampling rate.

    Pitch is estimated by autocorrelation, from 75 to 600 Hz. Frames 25 dB below the loudest one count as silent. Nuclei
    are peaks of the energy envelope with a dip of 2 dB between them; unlike those of de Jong and Wempe they may be
    unvoiced, so that whispered speech has a rate. Energy is that of the recording: with moving microphones or automatic
    gain it says little about the voice.

    Raises:
        AudioError: if the waveform has no samples

    Example:
        >>> time_s = np.arange(16_000) / 16_000
        >>> round(measure(Waveform(np.sin(2 * np.pi * 200 * time_s).astype(np.float32), 16_000)).pitch_hz)
        200

    References:
        Boersma, IFA Proceedings 17, 1993; de Jong and Wempe, Behavior Research Methods 41, 2009.
    """
    samples = waveform.resampled(_RATE).samples.astype(np.float64)
    if not len(samples):
        raise AudioError("the waveform has no samples", "empty")
    power = _envelope(samples)
    if power.max() <= _DIGITAL_SILENCE:
        return Measures(None, None, None)
    level_db = 10 * np.log10(np.maximum(power, _DIGITAL_SILENCE))
    silent_db = level_db.max() - _SILENT_BELOW_LOUDEST_DB
    sounding = level_db > silent_db
    first, last = np.flatnonzero(sounding)[[0, -1]]
    sloping_db = level_db - 1e-9 * np.arange(len(level_db))  # one of equal peaks without a dip is the highest
    nuclei, _ = scipy.signal.find_peaks(
        np.pad(sloping_db, 1, constant_values=-np.inf), height=silent_db, prominence=_DIP_DB
    )
    pitch_hz = _pitch(samples, sounding)
    return Measures(
        None if pitch_hz is None else _single(pitch_hz),
        _single(10 * np.log10(power[sounding].mean())),
        _single(len(nuclei) / ((last - first + 1) * _HOP / _RATE)),
    )


def _single(value: float) -> float:
    """Round as in the store, so that stored and newly measured values are equal."""
    return float(np.float32(round(value, 3)))


def _envelope(samples: _Array) -> _Array:
    """Smoothed mean square, every 10 ms."""
    window = scipy.signal.windows.hann(_ENVELOPE_WINDOW, sym=False)
    smooth = scipy.signal.oaconvolve(np.square(samples), window / window.sum())
    start = _ENVELOPE_WINDOW // 2
    return np.asarray(np.maximum(smooth[start : start + len(samples) : _HOP], 0.0))


def _pitch(samples: _Array, sounding: npt.NDArray[np.bool_]) -> float | None:
    """Median fundamental frequency of the frames that are periodic and not silent, in Hz."""
    padded = np.pad(samples, _PITCH_WINDOW // 2)
    frames = sliding_window_view(padded, _PITCH_WINDOW)[::_HOP][: len(sounding)][sounding]
    frames = frames - frames.mean(axis=1, keepdims=True)
    window = scipy.signal.windows.hann(_PITCH_WINDOW, sym=False)
    correlation = _autocorrelation(frames * window) / _autocorrelation(window[None])  # correction of Boersma
    shortest, longest = int(_RATE / _HIGHEST_HZ), round(_RATE / _LOWEST_HZ)
    lags = np.arange(shortest - 1, longest + 2)  # a peak needs a neighbour at both ends
    strength = correlation[:, lags] - _OCTAVE_COST * np.log2(lags / shortest)
    inner = strength[:, 1:-1]
    peaks = (inner >= strength[:, :-2]) & (inner >= strength[:, 2:])
    best = np.where(peaks, inner, -np.inf).argmax(axis=1) + 1
    rows = np.arange(len(best))
    voiced = peaks[rows, best - 1] & (correlation[rows, lags[best]] > _VOICED)
    if not voiced.any():
        return None
    rows, best = rows[voiced], best[voiced]
    left, middle, right = (correlation[rows, lags[best] + step] for step in (-1, 0, 1))
    curvature = left - 2 * middle + right  # parabolic interpolation between samples
    shift = np.where(curvature < 0, 0.5 * (left - right) / np.where(curvature < 0, curvature, 1), 0.0)
    return float(np.median(_RATE / (lags[best] + np.clip(shift, -0.5, 0.5))))


def _autocorrelation(frames: _Array) -> _Array:
    """Autocorrelation of each frame, 1 at lag 0, up to half the frame, for which the padding avoids wrap-around."""
    spectrum = np.fft.rfft(frames, _PITCH_WINDOW * 3 // 2)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, : _PITCH_WINDOW // 2]
    return np.asarray(correlation / np.maximum(correlation[:, :1], _DIGITAL_SILENCE))


@dataclass(frozen=True)
class Terciles:
    """Terciles of the measures, in which all speakers have equal weight.

    Each pair has the highest low value and the highest medium value. An utterance of an unknown speaker counts as a
    separate speaker.
    """

    pitch_hz: tuple[float, float]
    energy_db: tuple[float, float]
    rate_per_s: tuple[float, float]
    n_utterances: int
    n_speakers: int

    @classmethod
    def of(cls, measures: Sequence[Measures], speakers: Sequence[str | None]) -> Terciles:
        """Compute the terciles of N training utterances.

        Raises:
            CorpusError: naming the measure that no utterance has

        Example:
            >>> rows = [Measures(hertz, -20.0, 4.0) for hertz in (100.0, 200.0, 300.0)]
            >>> Terciles.of(rows, ["a", "b", "c"]).pitch_hz
            (100.0, 200.0)
        """
        names = [f"number {row}" if speaker is None else f"speaker {speaker}" for row, speaker in enumerate(speakers)]
        found: dict[str, tuple[float, float]] = {}
        for name, title in _TITLES.items():
            values = [getattr(row, name) for row in measures]
            known = [(value, owner) for value, owner in zip(values, names, strict=True) if value is not None]
            if not known:
                raise CorpusError(
                    f"{title}: none of {len(measures)} training utterances with audio has any, so there are no "
                    "terciles; choose a prompt without {{ descriptors }}, or a corpus with speech in its audio"
                )
            of_speaker = Counter(owner for _, owner in known)
            found[name] = _thirds([(value, 1 / of_speaker[owner]) for value, owner in known])
        return cls(**found, n_utterances=len(names), n_speakers=len(set(names)))

    @property
    def digest(self) -> str:
        """SHA-256 of the thresholds and the version of the measures."""
        return hash_json(dataclasses.asdict(self) | {"version": _VERSION})


_TITLES = {"pitch_hz": "pitch", "energy_db": "energy", "rate_per_s": "speaking rate"}


def _thirds(weighted: list[tuple[float, float]]) -> tuple[float, float]:
    """The smallest values that a third and two thirds of the weight do not exceed."""
    values, weights = (np.asarray(column) for column in zip(*sorted(weighted), strict=True))
    share = np.cumsum(weights) / weights.sum()
    first, second = (float(values[np.searchsorted(share, third - 1e-9)]) for third in (1 / 3, 2 / 3))
    return first, second


def describe_voice(measures: Measures, terciles: Terciles) -> str:
    """Describe a voice as text.

    Example:
        >>> terciles = Terciles((120.0, 200.0), (-30.0, -20.0), (3.0, 5.0), 9, 3)
        >>> describe_voice(Measures(230.0, -40.0, 4.0), terciles)
        'pitch high, energy low, speaking rate medium'
        >>> describe_voice(Measures(None, -40.0, 4.0), terciles)
        'pitch not heard, energy low, speaking rate medium'
    """
    # "not heard" is part of prompts, whose results would change
    return ", ".join(f"{title} {level or 'not heard'}" for title, level in levels_of(measures, terciles).items())


def levels_of(measures: Measures, terciles: Terciles) -> dict[str, str | None]:
    """Pitch, energy and speaking rate as low, medium or high; None where there is no value.

    Example:
        >>> levels_of(Measures(None, -40.0, 6.0), Terciles((120.0, 200.0), (-30.0, -20.0), (3.0, 5.0), 9, 3))
        {'pitch': None, 'energy': 'low', 'speaking rate': 'high'}
    """
    return {title: _level(getattr(measures, name), getattr(terciles, name)) for name, title in _TITLES.items()}


def _level(value: float | None, limits: tuple[float, float]) -> str | None:
    if value is None:
        return None
    return "low" if value <= limits[0] else "medium" if value <= limits[1] else "high"


class _Extractor:
    """``measure`` as a ``FeatureExtractor``: one frame of three numbers, NaN for None."""

    size = len(_TITLES)

    def settings(self) -> dict[str, Any]:
        return {"name": "descriptors", "version": _VERSION}

    def source_hash(self, given: Input) -> str | None:
        return given.audio_sha256

    def extract(self, given: Input) -> Frames:
        if given.waveform is None:
            raise AudioError(f"utterance {given.utterance_id}: no waveform; load the examples with audio", "empty")
        found = [getattr(measure(given.waveform), name) for name in _TITLES]
        return np.array([[np.nan if value is None else value for value in found]], dtype=np.float32)


def _measures(stored: Frames) -> Measures:
    return Measures(*(None if np.isnan(value) else float(value) for value in stored[0]))


@dataclass(frozen=True)
class Descriptors:
    """Descriptions of the utterances of a corpus, relative to the training split of one fold.

    Args:
        by_id: utterance id -> description, for all utterances in a fold that have audio
        measures: utterance id -> its measures
        terciles: terciles of the training utterances
    """

    by_id: Mapping[str, str]
    measures: Mapping[str, Measures]
    terciles: Terciles


def describe_corpus(
    source: ExampleSource, train_ids: Iterable[str], cache_dir: Path, *, processes: int | None = None
) -> Descriptors:
    """Describe the voices of all utterances in a fold that have audio.

    The measures are stored below ``cache_dir`` under the hash of the audio, for all folds and runs. They are those of
    the audio in the corpus: for modified audio use ``describe_voice(measure(waveform), terciles)``.

    Args:
        source: source of the examples
        train_ids: training utterances, which define the terciles; a repeated one counts once
        cache_dir: folder of all stores
        processes: number of processes that measure, as in ``write_corpus``; None for one per core

    Raises:
        CorpusError: if no training utterance has a pitch, an energy or a speaking rate
        AudioError: naming an utterance whose audio is damaged
    """
    folded = source.folded
    ids = folded.with_audio
    store = FeatureStore(cache_dir, _Extractor())
    examples = source.examples_of(ids, _RATE)
    store.add(InputDataset(examples).not_stored(store), processes or usable_cores())
    hashes = zip(ids, examples.audio_hashes(), strict=True)
    measures = {name: _measures(store[audio_hash]) for name, audio_hash in hashes if audio_hash is not None}
    train = [name for name in dict.fromkeys(train_ids) if name in measures]
    table = folded.corpus.columns(["utterance_id", "speaker"])
    known = table.dropna(subset=["speaker"])
    speakers = dict(zip(known["utterance_id"], known["speaker"], strict=True))
    terciles = Terciles.of([measures[name] for name in train], [speakers.get(name) for name in train])
    return Descriptors({name: describe_voice(found, terciles) for name, found in measures.items()}, measures, terciles)
