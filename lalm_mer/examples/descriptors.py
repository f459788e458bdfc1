"""What a voice sounds like in words: pitch, energy and speaking rate, low, medium or high among the training voices.

For prompts that tell a model in words what it hears. No transcript is used, so a prompt with audio alone stays one.
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
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import find_peaks, oaconvolve
from scipy.signal.windows import hann

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, CorpusError
from lalm_mer.core.processes import usable_cores
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Input
from lalm_mer.examples.dataset import ExampleSource, InputDataset
from lalm_mer.examples.feature_store import FeatureStore, Frames, samples_hash

__all__ = ["Descriptors", "Measures", "Terciles", "describe_corpus", "in_words", "measure"]

_VERSION = 1  # of the measures: part of the key that they are stored under
_RATE = 16_000
_HOP = _RATE // 100
_LOWEST_HZ, _HIGHEST_HZ = 75.0, 600.0
_PITCH_WINDOW = 3 * _RATE // 75  # three periods of the lowest pitch (Boersma 1993)
_VOICED = 0.5  # autocorrelation at the period, of 1 for a perfectly periodic sound
_OCTAVE_COST = 0.01  # favours the higher of two equal peaks, which are one period and two
_ENVELOPE_WINDOW = round(0.064 * _RATE)  # intensity as Praat smooths it for pitches from 50 Hz
_SILENT_BELOW_LOUDEST_DB = 25.0  # de Jong & Wempe's
_DIP_DB = 2.0  # theirs too: how far it falls between two nuclei
_DIGITAL_SILENCE = 1e-12  # mean square: -120 dBFS

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """What is measured of one utterance, each at the precision of float32; None where there is nothing to measure.

    Args:
        pitch_hz: median fundamental frequency of the voiced frames; None where nothing is voiced
        energy_db: root mean square of what is not silent, in dB of full scale; None for digital silence
        rate_per_s: syllable nuclei a second, from the first sound to the last; None for digital silence
    """

    pitch_hz: float | None
    energy_db: float | None
    rate_per_s: float | None


def measure(waveform: Waveform) -> Measures:
    """Pitch, energy and speaking rate of a waveform at any rate.

    Pitch is the autocorrelation's, from 75 to 600 Hz. What is 25 dB below the loudest moment counts as silent.
    Nuclei are peaks of the energy envelope with a dip of 2 dB between them; unlike de Jong and Wempe's they need not
    be voiced, so that whispered speech has a rate. Energy is that of the recording: where microphones were moved, or
    levels set by a machine, it says little of the voice.

    Args:
        waveform: not empty

    Raises:
        AudioError: if it has no sample

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
    sloping_db = level_db - 1e-9 * np.arange(len(level_db))  # of equal peaks without a dip between, one is the highest
    nuclei, _ = find_peaks(np.pad(sloping_db, 1, constant_values=-np.inf), height=silent_db, prominence=_DIP_DB)
    pitch_hz = _pitch(samples, sounding)
    return Measures(
        None if pitch_hz is None else _single(pitch_hz),
        _single(10 * np.log10(power[sounding].mean())),
        _single(len(nuclei) / ((last - first + 1) * _HOP / _RATE)),
    )


def _single(value: float) -> float:
    """As it is stored, so that a stored value and one measured anew are the same."""
    return float(np.float32(round(value, 3)))


def _envelope(samples: _Array) -> _Array:
    """Mean square around every 10 ms."""
    window = hann(_ENVELOPE_WINDOW, sym=False)
    smooth = oaconvolve(np.square(samples), window / window.sum())
    start = _ENVELOPE_WINDOW // 2
    return np.asarray(np.maximum(smooth[start : start + len(samples) : _HOP], 0.0))


def _pitch(samples: _Array, sounding: npt.NDArray[np.bool_]) -> float | None:
    """Median fundamental frequency of the frames that are periodic and not silent, in Hz."""
    padded = np.pad(samples, _PITCH_WINDOW // 2)
    frames = sliding_window_view(padded, _PITCH_WINDOW)[::_HOP][: len(sounding)][sounding]
    frames = frames - frames.mean(axis=1, keepdims=True)
    window = hann(_PITCH_WINDOW, sym=False)
    correlation = _autocorrelation(frames * window) / _autocorrelation(window[None])  # Boersma's correction
    shortest, longest = int(_RATE / _HIGHEST_HZ), round(_RATE / _LOWEST_HZ)
    lags = np.arange(shortest - 1, longest + 2)  # a peak needs a neighbour on either side
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
    curvature = left - 2 * middle + right  # a parabola through three points, to less than a sample
    shift = np.where(curvature < 0, 0.5 * (left - right) / np.where(curvature < 0, curvature, 1), 0.0)
    return float(np.median(_RATE / (lags[best] + np.clip(shift, -0.5, 0.5))))


def _autocorrelation(frames: _Array) -> _Array:
    """Of each frame, 1 at lag 0; as far as half its length, to which so much padding keeps it from wrapping."""
    spectrum = np.fft.rfft(frames, _PITCH_WINDOW * 3 // 2)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, : _PITCH_WINDOW // 2]
    return np.asarray(correlation / np.maximum(correlation[:, :1], _DIGITAL_SILENCE))


@dataclass(frozen=True)
class Terciles:
    """Where low ends and high begins: each speaker's utterances weigh together as much as another's.

    Args:
        pitch_hz: highest low value, highest medium value
        energy_db: the same
        rate_per_s: the same
        n_utterances: measured utterances that they are made of
        n_speakers: their speakers; an utterance of nobody known counts as a speaker of its own
    """

    pitch_hz: tuple[float, float]
    energy_db: tuple[float, float]
    rate_per_s: tuple[float, float]
    n_utterances: int
    n_speakers: int

    @classmethod
    def of(cls, measures: Sequence[Measures], speakers: Sequence[str | None]) -> Terciles:
        """Terciles of some utterances: those of the training side, and no other.

        Args:
            measures: N
            speakers: speaker of each, N; None where nobody is known

        Raises:
            CorpusError: naming the measure that no utterance has

        Example:
            >>> rows = [Measures(hertz, -20.0, 4.0) for hertz in (100.0, 200.0, 300.0)]
            >>> Terciles.of(rows, ["a", "b", "c"]).pitch_hz
            (100.0, 200.0)
        """
        names = [f"number {row}" if speaker is None else f"speaker {speaker}" for row, speaker in enumerate(speakers)]
        found: dict[str, tuple[float, float]] = {}
        for name, told in _TOLD.items():
            values = [getattr(row, name) for row in measures]
            known = [(value, owner) for value, owner in zip(values, names, strict=True) if value is not None]
            if not known:
                raise CorpusError(
                    f"{told}: none of {len(measures)} training utterances with audio has any, so nothing can be called "
                    "low or high; choose a prompt without {{ descriptors }}, or a corpus with speech in its audio"
                )
            of_speaker = Counter(owner for _, owner in known)
            found[name] = _thirds([(value, 1 / of_speaker[owner]) for value, owner in known])
        return cls(**found, n_utterances=len(names), n_speakers=len(set(names)))

    @property
    def digest(self) -> str:
        """SHA-256 of the thresholds and of how they are measured."""
        return hash_json(dataclasses.asdict(self) | {"version": _VERSION})


_TOLD = {"pitch_hz": "pitch", "energy_db": "energy", "rate_per_s": "speaking rate"}


def _thirds(weighted: list[tuple[float, float]]) -> tuple[float, float]:
    """The least values that a third and two thirds of the weight do not exceed."""
    values, weights = (np.asarray(column) for column in zip(*sorted(weighted), strict=True))
    share = np.cumsum(weights) / weights.sum()
    first, second = (float(values[np.searchsorted(share, third - 1e-9)]) for third in (1 / 3, 2 / 3))
    return first, second


def in_words(measures: Measures, terciles: Terciles) -> str:
    """Three words of a voice.

    Example:
        >>> terciles = Terciles((120.0, 200.0), (-30.0, -20.0), (3.0, 5.0), 9, 3)
        >>> in_words(Measures(230.0, -40.0, 4.0), terciles)
        'pitch high, energy low, speaking rate medium'
        >>> in_words(Measures(None, -40.0, 4.0), terciles)
        'pitch not heard, energy low, speaking rate medium'
    """
    return ", ".join(
        f"{told} {_word(getattr(measures, name), getattr(terciles, name))}" for name, told in _TOLD.items()
    )


def _word(value: float | None, limits: tuple[float, float]) -> str:
    if value is None:
        return "not heard"
    return "low" if value <= limits[0] else "medium" if value <= limits[1] else "high"


class _Extractor:
    """``measure`` as a ``FeatureExtractor``: one frame of three numbers, NaN for None."""

    size = len(_TOLD)

    def settings(self) -> dict[str, Any]:
        return {"name": "descriptors", "version": _VERSION}

    def source_hash(self, given: Input) -> str | None:
        return samples_hash(given)

    def extract(self, given: Input) -> Frames:
        if given.waveform is None:
            raise AudioError(f"utterance {given.utterance_id}: no waveform; load the examples with audio", "empty")
        found = [getattr(measure(given.waveform), name) for name in _TOLD]
        return np.array([[np.nan if value is None else value for value in found]], dtype=np.float32)


def _measures(stored: Frames) -> Measures:
    return Measures(*(None if np.isnan(value) else float(value) for value in stored[0]))


@dataclass(frozen=True)
class Descriptors:
    """The words of a corpus's utterances, low and high as the training side of one fold has it.

    Args:
        by_id: utterance id -> its words, of every utterance in a fold that has audio
        measures: utterance id -> what they say in words
        terciles: of the training utterances
    """

    by_id: Mapping[str, str]
    measures: Mapping[str, Measures]
    terciles: Terciles

    @property
    def digest(self) -> str:
        """SHA-256 of the thresholds and of how it is measured; the rest follows from the corpus."""
        return self.terciles.digest


def describe_corpus(
    source: ExampleSource, train_ids: Iterable[str], cache_dir: Path, *, processes: int | None = None
) -> Descriptors:
    """Words for every utterance in a fold that has audio.

    What is measured is kept below ``cache_dir``, under the corpus's hash, and serves every fold and run. The words
    describe the corpus's own audio: for audio that was changed since, take ``in_words(measure(waveform), terciles)``.

    Args:
        source: the folded corpus
        train_ids: training utterances, which alone decide what is low and high; a repeated one counts once
        cache_dir: folder of everything that is stored of corpora
        processes: how many measure; None for one a core. They are spawned, so a script of your own needs
            ``if __name__ == "__main__":`` around the call

    Raises:
        CorpusError: if no training utterance has a pitch, an energy or a speaking rate
        AudioError: naming an utterance whose audio is damaged
    """
    folded = source.folded
    ids = folded.with_audio
    store = FeatureStore(cache_dir, str(folded.corpus.summary["root_hash"]), _Extractor())
    missing = store.missing(ids)
    store.add(InputDataset(source.examples_of(missing, _RATE)), processes or usable_cores())
    measures = {name: _measures(store.stored(name)) for name in ids}
    train = [name for name in dict.fromkeys(train_ids) if name in measures]
    table = folded.corpus.columns(["utterance_id", "speaker"])
    known = table.dropna(subset=["speaker"])
    speakers = dict(zip(known["utterance_id"], known["speaker"], strict=True))
    terciles = Terciles.of([measures[name] for name in train], [speakers.get(name) for name in train])
    return Descriptors({name: in_words(found, terciles) for name, found in measures.items()}, measures, terciles)
