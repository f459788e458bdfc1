"""Spectral features of a waveform."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import dct
from transformers.audio_utils import mel_filter_bank, window_function

from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import SAMPLING_RATE, TRIM_DB, AudioEncoder

__all__ = ["LogMel", "Mfcc", "WaveformBlocks"]

_FFT = 512  # samples, of which the window fills 400
_FLOOR = 1e-10


class LogMel(AudioEncoder):
    """D = ``bands`` log-mel bands: 25 ms Hann windows, natural logarithm of the power in each band.

    Args:
        hop_ms: milliseconds from the start of a window to the next
    """

    window = 400  # 25 ms

    def __init__(
        self, trim_db: float | None = TRIM_DB, bands: int = 40, *, hop_ms: int = 10, pooled: bool = False
    ) -> None:
        super().__init__(trim_db, pooled=pooled)
        self.frame_size = self.bands = bands
        self.hop_ms = hop_ms
        self._filters = mel_filter_bank(
            num_frequency_bins=_FFT // 2 + 1,
            num_mel_filters=bands,
            min_frequency=20.0,
            max_frequency=SAMPLING_RATE / 2,
            sampling_rate=SAMPLING_RATE,
            mel_scale="htk",
        )
        self._window = window_function(self.window, "hann")

    def _settings(self) -> dict[str, Any]:
        return {"name": "log_mel", "version": 1, "bands": self.bands, "hop_ms": self.hop_ms}

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        # as transformers' spectrogram, which loops over the windows
        hop = self.hop_ms * SAMPLING_RATE // 1000
        windows = sliding_window_view(samples.astype(np.float64), self.window)[::hop] * self._window
        power = np.square(np.abs(np.fft.rfft(windows, _FFT)))
        bands: Frames = np.log(np.maximum(power @ self._filters, _FLOOR)).astype(np.float32)
        return bands


class Mfcc(LogMel):
    """Mel-frequency cepstral coefficients, their deltas and the deltas of these: D = 3 * ``coefficients``.

    They are the first coefficients of an orthonormal DCT-II of the log-mel bands, the 0th included; a delta is the
    slope over five frames, with the first and the last frame repeated beyond the ends.

    Args:
        coefficients: number of coefficients
    """

    def __init__(
        self,
        trim_db: float | None = TRIM_DB,
        bands: int = 40,
        coefficients: int = 13,
        *,
        hop_ms: int = 10,
        pooled: bool = False,
    ) -> None:
        super().__init__(trim_db, bands, hop_ms=hop_ms, pooled=pooled)
        self.coefficients = coefficients
        self.frame_size = 3 * coefficients

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "name": "mfcc", "coefficients": self.coefficients}

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        static = dct(super()._compute(samples), type=2, norm="ortho", axis=1)[:, : self.coefficients]
        delta = _slopes(static)
        return np.hstack([static, delta, _slopes(delta)])


def _slopes(frames: Frames) -> Frames:
    """Slope of each feature by linear regression over five frames."""
    padded = np.pad(frames, ((2, 2), (0, 0)), mode="edge")
    count = len(frames)
    shifted = [padded[start : start + count] for start in range(5)]
    slopes: Frames = (shifted[3] - shifted[1] + 2 * (shifted[4] - shifted[0])) / 10
    return slopes


class WaveformBlocks(AudioEncoder):
    """The samples in blocks of 10 ms, D = 160; the last block is filled with zeros.

    A convolution over blocks is one over the samples, with a window of as many blocks and a step of 10 ms.
    """

    frame_size = window = SAMPLING_RATE // 100

    def _settings(self) -> dict[str, Any]:
        return {"name": "waveform", "version": 1}

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        return np.pad(samples, (0, -len(samples) % self.window)).reshape(-1, self.window)
