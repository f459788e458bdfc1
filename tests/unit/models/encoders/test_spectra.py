"""Spectral features against those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
from closeness import assert_close
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from lalm_mer.core.audio import Waveform
from lalm_mer.models.encoders.spectra import LogMel


@pytest.mark.parametrize("hop_ms", [10, 20])
def test_log_mel_bands_are_those_of_transformers(hop_ms):
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_123).astype(np.float32)
    samples[4_000:8_000] = 0  # down to the floor
    expected = spectrogram(
        samples, window_function(400, "hann"), frame_length=400, hop_length=16 * hop_ms, fft_length=512, power=2.0,
        center=False, mel_filters=mel_filter_bank(257, 40, 20.0, 8_000, 16_000, mel_scale="htk"), mel_floor=1e-10,
        log_mel="log",
    )  # fmt: skip
    assert_close(LogMel(None, hop_ms=hop_ms).frames(Waveform(samples, 16_000)), expected.T, 1e-6)
