"""Frame features of a waveform, 100 per second: the 36 of Pepino et al. by openSMILE, or log-mel bands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from importlib import metadata, util
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, ModelError
from lalm_mer.core.extras import install_extra
from lalm_mer.core.names import FEATURES
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames, samples_hash

__all__ = ["SAMPLING_RATE", "TRIM_DB", "AcousticFeatures", "LogMelFeatures", "OpenSmileFeatures", "acoustic_features"]

SAMPLING_RATE = 16_000
"""Sampling rate of all extractors, in Hz."""
TRIM_DB = 35.0
"""Level of silence, in dB below the loudest 25 ms of a clip."""

_STATIC = (
    *("F0final_sma", "jitterLocal_sma", "shimmerLocal_sma", "logHNR_sma", "audspec_lengthL1norm_sma"),
    *(f"mfcc_sma[{number}]" for number in range(1, 14)),
)
_DELTA = tuple(name.replace("_sma", "_sma_de") for name in _STATIC)


class AcousticFeatures(ABC):
    """A ``FeatureExtractor`` of audio.

    Silence at both ends is removed, since its duration would affect features that are pooled over time. A clip shorter
    than the longest analysis window is padded to one window, so that every utterance has a frame.

    Args:
        trim_db: level of silence, in dB below the clip's loudest 25 ms; None keeps the complete clip

    Raises:
        ConfigError: if ``trim_db`` is not above 0
    """

    size: int
    """D, features per frame."""
    window: int
    """Longest analysis window, in samples."""

    def __init__(self, trim_db: float | None = TRIM_DB) -> None:
        if trim_db is not None and trim_db <= 0:
            raise ConfigError(f"argument 'trim_db': {trim_db}; expected more than 0, or null to keep complete clips")
        self.trim_db = trim_db

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name, versions and parameters, as plain data."""

    @abstractmethod
    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames: ...

    def source_hash(self, given: Input) -> str | None:
        """Hash of the samples; None where the input has no waveform."""
        return samples_hash(given)

    def extract(self, given: Input) -> Frames:
        """Features of an input's waveform, (F, D).

        Raises:
            AudioError: naming the utterance, if it has no waveform, or as ``frames``
        """
        if given.waveform is None:
            raise AudioError(f"utterance {given.utterance_id}: no waveform; load the examples with audio", "empty")
        try:
            return self.frames(given.waveform)
        except AudioError as error:
            raise AudioError(f"utterance {given.utterance_id}: {error}", error.reason) from error

    def frames(self, waveform: Waveform) -> Frames:
        """Features of a waveform, (F, D).

        Raises:
            AudioError: if it has no sample or another rate than 16 kHz, or a feature is not finite
        """
        name = str(self.settings()["name"])
        waveform.require_rate(SAMPLING_RATE, f"the {name} extractor")
        samples = waveform.samples
        if len(samples) == 0:
            raise AudioError("the waveform has no samples", "empty")
        if self.trim_db is not None:
            samples = _trimmed(samples, self.trim_db)
        samples = np.pad(samples, (0, max(0, self.window - len(samples))))
        frames = np.ascontiguousarray(self._compute(samples), dtype=np.float32)
        if not np.isfinite(frames).all():
            raise AudioError(f"the {name} features are not all finite; check the audio", "non_finite")
        return frames


class OpenSmileFeatures(AcousticFeatures):
    """The 36 frame features of Pepino et al.: pitch, jitter, shimmer, logHNR, loudness, 13 MFCC, and their deltas.

    They are 18 low-level descriptors of ComParE 2016 and those of its delta level, whose last two frames are dropped.

    Raises:
        ModelError: if openSMILE is not installed

    References:
        Pepino et al., ICASSP 2020; Eyben et al., openSMILE, ACM Multimedia 2010.
    """

    size = 36
    window = 960  # 60 ms, for pitch

    def __init__(self, trim_db: float | None = TRIM_DB) -> None:
        super().__init__(trim_db)
        if util.find_spec("opensmile") is None:
            raise ModelError(
                f"acoustic features 'opensmile' need the opensmile package: {install_extra('acoustic')} (its "
                "licence is for research; 'log_mel' needs no further package)"
            )

    def __reduce__(self) -> tuple[type[OpenSmileFeatures], tuple[float | None]]:
        return OpenSmileFeatures, (self.trim_db,)  # a worker process opens its own openSMILE

    def settings(self) -> dict[str, Any]:
        """Name, version, trimming and columns."""
        version = metadata.version("opensmile")
        return {"name": "opensmile", "version": version, "trim_db": self.trim_db, "columns": [*_STATIC, *_DELTA]}

    @cached_property
    def _levels(self) -> tuple[Any, Any]:
        import opensmile  # an optional extra

        compare, level = opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel
        static = opensmile.Smile(compare, level.LowLevelDescriptors)
        return static, opensmile.Smile(compare, level.LowLevelDescriptors_Deltas)

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        static, delta = (level.process_signal(samples, SAMPLING_RATE) for level in self._levels)
        return np.hstack([static[list(_STATIC)].to_numpy(), delta[list(_DELTA)].to_numpy()[: len(static)]])


class LogMelFeatures(AcousticFeatures):
    """D = ``bands`` log-mel bands: 25 ms Hann windows every 10 ms, natural logarithm of the power in each band."""

    window = 400  # 25 ms

    def __init__(self, trim_db: float | None = TRIM_DB, bands: int = 40) -> None:
        super().__init__(trim_db)
        self.size = bands
        self._filters = mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=bands,
            min_frequency=20.0,
            max_frequency=SAMPLING_RATE / 2,
            sampling_rate=SAMPLING_RATE,
            mel_scale="htk",
        )
        self._window = window_function(self.window, "hann")

    def settings(self) -> dict[str, Any]:
        """Name, version, trimming and number of bands."""
        return {"name": "log_mel", "version": 1, "trim_db": self.trim_db, "bands": self.size}

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        bands = spectrogram(
            samples,
            self._window,
            frame_length=self.window,
            hop_length=SAMPLING_RATE // 100,
            fft_length=512,
            power=2.0,
            center=False,
            mel_filters=self._filters,
            mel_floor=1e-10,
            log_mel="log",
        )
        return np.asarray(bands.T, dtype=np.float32)


def acoustic_features(name: str, trim_db: float | None = TRIM_DB) -> AcousticFeatures:
    """The extractor called ``name``, one of ``FEATURES``.

    Raises:
        ConfigError: if the name is unknown, or ``trim_db`` is not above 0
        ModelError: if its package is not installed
    """
    if name not in FEATURES:
        raise ConfigError(f"acoustic features {name!r} are unknown; expected {' or '.join(FEATURES)}")
    return OpenSmileFeatures(trim_db) if name == "opensmile" else LogMelFeatures(trim_db)


def _trimmed(samples: npt.NDArray[np.float32], trim_db: float) -> npt.NDArray[np.float32]:
    """The samples from the first to the last 25 ms at most ``trim_db`` below the loudest."""
    window, hop = SAMPLING_RATE // 40, SAMPLING_RATE // 100
    if len(samples) <= window:
        return samples
    power = np.square(sliding_window_view(samples, window)[::hop], dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
    return samples[loud[0] * hop : loud[-1] * hop + window]
