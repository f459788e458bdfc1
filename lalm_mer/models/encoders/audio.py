"""Encoders of waveforms: what all of them check and remove."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames

__all__ = ["SAMPLING_RATE", "TRIM_DB", "AudioEncoder", "pooled_frames"]

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
        pooled: whether mean and standard deviation over the frames are the only frame

    Raises:
        ConfigError: if ``trim_db`` is not above 0
    """

    frame_size: int
    """Features per frame, times ``layers``."""
    layers: int = 1
    """L, number of layers whose features are side by side in a frame."""
    window: int
    """Longest analysis window, in samples."""
    sampling_rate: int = SAMPLING_RATE
    """Rate of the waveforms, in Hz."""
    stored: bool = True
    """Whether its features are worth storing."""

    def __init__(self, trim_db: float | None = TRIM_DB, *, pooled: bool = False) -> None:
        if trim_db is not None and trim_db <= 0:
            raise ConfigError(f"argument 'trim_db': {trim_db}; expected more than 0, or null to keep complete clips")
        self.trim_db, self.pooled = trim_db, pooled

    @property
    def size(self) -> int:
        """Width of the frames."""
        return self.frame_size * (2 if self.pooled else 1)

    def settings(self) -> dict[str, Any]:
        """Name, versions and parameters, as plain data."""
        return {**self._settings(), "trim_db": self.trim_db, **({"pooled": True} if self.pooled else {})}

    @abstractmethod
    def _settings(self) -> dict[str, Any]: ...

    @abstractmethod
    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames: ...

    def save(self, folder: Path) -> None:  # noqa: B027 most have nothing to save
        """Write what was fitted; nothing."""

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
        if self.pooled:
            frames = pooled_frames(frames, self.layers)
        if not np.isfinite(frames).all():
            raise AudioError(f"the {name} features are not all finite; check the audio", "non_finite")
        return frames


def pooled_frames(frames: Frames, layers: int = 1) -> Frames:
    """Mean and standard deviation over the frames (F, L * D), layer by layer, as the only frame (1, L * 2D).

    Example:
        >>> pooled_frames(np.array([[0.0, 1.0], [4.0, 1.0]], np.float32))
        array([[2., 1., 2., 0.]], dtype=float32)
    """
    of_layers = frames.astype(np.float64).reshape(len(frames), layers, -1)
    values = np.concatenate([of_layers.mean(axis=0), of_layers.std(axis=0)], axis=1).reshape(1, -1)
    return values.astype(frames.dtype)


def _trimmed(samples: npt.NDArray[np.float32], trim_db: float, rate: int) -> npt.NDArray[np.float32]:
    """The samples from the first to the last 25 ms at most ``trim_db`` below the loudest."""
    window, hop = rate // 40, rate // 100
    if len(samples) <= window:
        return samples
    power = np.square(sliding_window_view(samples, window)[::hop], dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
    return samples[loud[0] * hop : loud[-1] * hop + window]
