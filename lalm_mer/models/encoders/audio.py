"""Encoders of waveforms: what all of them check and remove."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames

__all__ = ["SAMPLING_RATE", "TRIM_DB", "AudioEncoder"]

SAMPLING_RATE = 16_000
"""Sampling rate of most encoders, in Hz."""
TRIM_DB = 35.0
"""Level of silence, in dB below the loudest 25 ms of a clip."""


class AudioEncoder(ABC):
    """A ``FeatureExtractor`` of audio.

    Silence at both ends is removed, since its duration would affect features that are pooled over time. A clip shorter
    than the longest analysis window is padded to one window, so that every utterance has a frame.

    Args:
        trim_db: level of silence, in dB below the clip's loudest 25 ms; None keeps the complete clip

    Raises:
        ConfigError: if ``trim_db`` is not above 0
    """

    size: int
    """Width of the frames: features per frame, times ``layers``."""
    layers: int = 1
    """L, number of layers whose features are side by side in a frame."""
    window: int
    """Longest analysis window, in samples."""
    sampling_rate: int = SAMPLING_RATE
    """Rate of the waveforms, in Hz."""
    stored: bool = True
    """Whether its features are worth storing."""

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
        """Hash of the stored audio; None where the waveform was changed, or is not of a corpus."""
        return given.audio_sha256

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
            AudioError: if it has no sample or another rate, or a feature is not finite
        """
        name = str(self.settings()["name"])
        waveform.require_rate(self.sampling_rate, f"the {name} encoder")
        samples = waveform.samples
        if len(samples) == 0:
            raise AudioError("the waveform has no samples", "empty")
        if self.trim_db is not None:
            samples = _trimmed(samples, self.trim_db, self.sampling_rate)
        samples = np.pad(samples, (0, max(0, self.window - len(samples))))
        frames: Frames = np.ascontiguousarray(self._compute(samples))
        if frames.dtype != np.float16:
            frames = frames.astype(np.float32, copy=False)
        if not np.isfinite(frames).all():
            raise AudioError(f"the {name} features are not all finite; check the audio", "non_finite")
        return frames


def _trimmed(samples: npt.NDArray[np.float32], trim_db: float, rate: int) -> npt.NDArray[np.float32]:
    """The samples from the first to the last 25 ms at most ``trim_db`` below the loudest."""
    window, hop = rate // 40, rate // 100
    if len(samples) <= window:
        return samples
    power = np.square(sliding_window_view(samples, window)[::hop], dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
    return samples[loud[0] * hop : loud[-1] * hop + window]
