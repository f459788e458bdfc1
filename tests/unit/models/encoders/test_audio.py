from __future__ import annotations

import pickle

import numpy as np
import pytest
from closeness import assert_close

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, ModelError
from lalm_mer.core.schema import Input
from lalm_mer.models.encoders import open_smile
from lalm_mer.models.encoders.kinds import open_audio_encoder
from lalm_mer.models.encoders.open_smile import PepinoFrames
from lalm_mer.models.encoders.settings import AudioEncoderSettings
from lalm_mer.models.encoders.spectra import LogMel

EXTRACTORS = ["log_mel", pytest.param("opensmile", marks=pytest.mark.skipif(
    open_smile.util.find_spec("opensmile") is None, reason="the acoustic extra is not installed"
))]  # fmt: skip


def acoustic_features(name, trim_db=35.0):
    return open_audio_encoder(AudioEncoderSettings(kind=name, trim_db=trim_db))


def tone(frequency: float, seconds: float = 1.0, loudness: float = 0.3) -> Waveform:
    time = np.arange(round(16_000 * seconds)) / 16_000
    harmonics = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in range(1, 8))
    return Waveform((loudness * harmonics).astype(np.float32), 16_000)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_about_100_frames_per_second(name):
    extractor = acoustic_features(name)
    one, two = extractor.frames(tone(200, 1.0)), extractor.frames(tone(200, 2.0))
    assert one.dtype == np.float32
    assert one.shape[1] == extractor.size
    assert len(two) - len(one) == 100
    assert 94 <= len(one) <= 100


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_clip_shorter_than_a_window_still_has_a_frame(name):
    assert len(acoustic_features(name).frames(tone(200, 0.001))) >= 1


@pytest.mark.parametrize("name", EXTRACTORS)
def test_silence_is_finite(name):
    assert np.isfinite(acoustic_features(name).frames(Waveform(np.zeros(8000, np.float32), 16_000))).all()


@pytest.mark.parametrize("name", EXTRACTORS)
def test_errors_name_rate_and_utterance(name):
    extractor = acoustic_features(name)
    for samples, rate, message in [(4000, 8000, "takes audio at 16000 Hz, found 8000"), (0, 16_000, "no samples")]:
        broken = Input("u03", None, Waveform(np.zeros(samples, np.float32), rate))
        with pytest.raises(AudioError, match=f"utterance u03: .*{message}"):
            extractor.extract(broken)
    with pytest.raises(AudioError, match="utterance u03: no waveform"):
        extractor.extract(Input("u03", None, None))


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_pickled_extractor_computes_the_same(name):
    extractor = acoustic_features(name)
    before = extractor.frames(tone(180))
    copy = pickle.loads(pickle.dumps(extractor))  # noqa: S301 our own
    np.testing.assert_array_equal(copy.frames(tone(180)), before)


def test_opensmile_columns_are_pitch_first_and_deltas_after_the_18():
    pytest.importorskip("opensmile")
    extractor = PepinoFrames()
    low, high = extractor.frames(tone(150)), extractor.frames(tone(300))
    assert np.median(low[:, 0]) == pytest.approx(150, rel=0.03)
    assert np.median(high[:, 0]) == pytest.approx(300, rel=0.03)
    names = extractor.settings()["columns"]
    assert names[18:] == [name.replace("_sma", "_sma_de") for name in names[:18]]


@pytest.mark.parametrize("n_samples", [960, 1_119, 1_120, 2_000, 16_000])
def test_opensmile_frames_are_those_of_its_own_levels(n_samples):
    opensmile = pytest.importorskip("opensmile")
    samples = tone(150).samples[:n_samples]
    compare, levels = opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel
    static = opensmile.Smile(compare, levels.LowLevelDescriptors).process_signal(samples, 16_000)
    delta = opensmile.Smile(compare, levels.LowLevelDescriptors_Deltas).process_signal(samples, 16_000)
    extractor = PepinoFrames(trim_db=None)
    columns = extractor.settings()["columns"]
    expected = np.hstack([static[columns[:18]].to_numpy(), delta[columns[18:]].to_numpy()[: len(static)]])
    np.testing.assert_array_equal(extractor.frames(Waveform(samples, 16_000)), expected)


def test_opensmile_deltas_are_aligned_with_their_frames():
    pytest.importorskip("opensmile")
    extractor = PepinoFrames()
    rising = Waveform(tone(150).samples * np.linspace(0.05, 1, 16_000, dtype=np.float32), 16_000)
    frames = extractor.frames(rising)
    loudness, delta = frames[:, 4].astype(float), frames[:, 18 + 4]
    slope = sum(k * (np.roll(loudness, -k) - np.roll(loudness, k)) for k in (1, 2)) / 10
    assert_close(delta[3:-3], slope[3:-3], 1e-4)


def test_log_mel_band_follows_frequency():
    time = np.arange(16_000) / 16_000
    peaks = [
        LogMel().frames(Waveform(np.sin(2 * np.pi * f * time).astype(np.float32), 16_000)).mean(0).argmax()
        for f in (200, 800, 3200)
    ]
    assert peaks[0] < peaks[1] < peaks[2]


def test_unknown_kind():
    with pytest.raises(
        ConfigError, match=r"argument 'kind': 'mel'; expected one of opensmile, log_mel, .*did you mean log_mel"
    ):
        AudioEncoderSettings(kind="mel")


def test_missing_opensmile_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(open_smile.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install -e '\.\[acoustic\]'.*licence is for research.*log_mel"):
        acoustic_features("opensmile")


@pytest.mark.parametrize("name", EXTRACTORS)
def test_silence_at_both_ends_is_removed_and_a_pause_is_not(name):
    sound, pause, hiss = tone(200, 0.5).samples, np.zeros(8000, np.float32), np.full(16_000, 1e-4, np.float32)
    clip = Waveform(np.concatenate([hiss, sound, pause, sound, hiss]), 16_000)
    trimmed = acoustic_features(name).frames(clip)
    assert len(trimmed) == pytest.approx(len(acoustic_features(name).frames(tone(200, 1.5))), abs=6)
    assert len(acoustic_features(name, None).frames(clip)) == pytest.approx(len(trimmed) + 200, abs=6)


def test_trimming_is_part_of_the_settings():
    assert LogMel(20.0).settings() != LogMel().settings()
    with pytest.raises(ConfigError, match="argument 'trim_db': 0; expected more than 0, or null"):
        LogMel(0)
