import io

import numpy as np
import pytest
import soundfile
from closeness import assert_close

from lalm_mer.core.audio import Waveform, decode
from lalm_mer.core.errors import AudioError


def reason(content, **times):
    with pytest.raises(AudioError) as caught:
        decode(content, "clip.wav", **times)
    assert str(caught.value).startswith("clip.wav: ")
    return caught.value.reason


def encoded(samples, rate=8000, container="WAV", subtype="FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples), rate, format=container, subtype=subtype)
    return file.getvalue()


def test_channels_are_averaged():
    left, right = np.linspace(0, 0.5, 100), np.linspace(0, -0.1, 100)
    waveform = decode(encoded(np.stack([left, right], axis=1)), "clip")
    assert waveform.samples.dtype == np.float32
    assert_close(waveform.samples, (left + right) / 2, 1e-7)
    assert waveform.sampling_rate == 8000
    assert waveform.duration_s == 100 / 8000


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [(0.001, 0.002, slice(8, 16)), (None, 0.002, slice(16)), (0.001, None, slice(8, None))],
)
def test_a_part_of_a_file(start_s, end_s, expected):
    samples = np.linspace(-0.5, 0.5, 40)
    part = decode(encoded(samples), "clip", start_s, end_s)
    assert_close(part.samples, samples[expected], 1e-7)


@pytest.mark.parametrize(
    "times",
    [
        {"end_s": 0.3},
        {"start_s": 0.25},
        {"start_s": 0.1, "end_s": 0.05},
        {"start_s": -0.1},
        {"start_s": -0.2, "end_s": -0.1},
    ],
)
def test_times_outside_the_file_are_refused(tone, times):
    assert reason(tone(seconds=0.2), **times) == "truncated"


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_truncated_file_is_refused(tone, container):
    content = tone(seconds=2.0, container=container)
    assert reason(content[: len(content) * 2 // 3]) == "truncated"


def test_a_file_without_audio_is_refused(tone):
    assert reason(b"") == "empty"
    assert reason(b"these are not the samples you look for") == "unreadable"
    assert reason(encoded(np.zeros(0))) == "empty"
    assert reason(tone(), start_s=0.1, end_s=0.1) == "empty"
    assert reason(encoded([0.0, np.nan])) == "non_finite"
    assert reason(encoded([0.0, np.inf])) == "non_finite"


def test_a_streamed_wav_without_its_size_is_read():
    content = bytearray(encoded(np.zeros(80), subtype="PCM_16"))
    content[4:8] = b"\xff\xff\xff\xff"
    assert len(decode(bytes(content), "clip").samples) == 80


def test_resampling_preserves_signal_and_duration():
    time = np.arange(48000) / 48000
    original = Waveform(np.sin(2 * np.pi * 440 * time).astype(np.float32), 48000)
    resampled = original.resampled(16000)
    assert resampled.sampling_rate == 16000
    assert resampled.samples.dtype == np.float32
    assert resampled.duration_s == pytest.approx(1.0)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert_close(resampled.samples[500:-500], expected[500:-500], 1e-3)
    assert original.resampled(48000) is original


def test_a_rate_is_never_assumed():
    waveform = Waveform(np.zeros(8, np.float32), 8000)
    waveform.require_rate(8000, "a reader")
    with pytest.raises(AudioError, match="a reader takes audio at 16000 Hz, found 8000 Hz") as caught:
        waveform.require_rate(16000, "a reader")
    assert caught.value.reason == "sampling_rate"
    assert isinstance(caught.value, OSError)
