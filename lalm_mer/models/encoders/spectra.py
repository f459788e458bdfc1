"""Spectral features of a waveform, 100 frames per second."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import SAMPLING_RATE, TRIM_DB, AudioEncoder

__all__ = ["LogMel"]


class LogMel(AudioEncoder):
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
