import librosa
import numpy as np
import pytest
from small_release import put

from lalm_mer.core.audio import decode
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora import ravdess, write_corpus


def test_the_name_fills_every_column(tmp_path, tone):
    put(tmp_path / "Audio_Speech_Actors_01-24/Actor_12/03-01-06-02-02-01-12.wav", tone(0.5, 48000, 2))
    (utterance,) = ravdess.read(tmp_path)
    assert utterance == Utterance(
        utterance_id="03-01-06-02-02-01-12",
        corpus="ravdess",
        audio_path="Audio_Speech_Actors_01-24/Actor_12/03-01-06-02-02-01-12.wav",
        transcript="Dogs are sitting by the door.",
        transcript_source="human",
        speaker="12",
        gender="female",
        language="en",
        script="02",
        label="fearful",
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("Actor_01/03-02-01-01-01-01-01.wav", "not_speech_audio"),
        ("Actor_01/01-01-01-01-01-01-01.mp4", "not_speech_audio"),
        ("Actor_01/02-01-01-01-01-01-01.mp4", "not_speech_audio"),
        ("Actor_02/03-01-01-01-01-01-01.wav", "folder_mismatch"),
        ("03-01-01-01-01-01-01.wav", "folder_mismatch"),
        ("Actor_01/03-01-09-01-01-01-01.wav", "unexpected_name"),
        ("Actor_25/03-01-01-01-01-01-25.wav", "unexpected_name"),
        ("Actor_00/03-01-01-01-01-01-00.wav", "unexpected_name"),
        ("Actor_01/03-01-01-01-01-01-01.mp3", "unexpected_name"),
        ("Actor_01/take2.wav", "unexpected_name"),
    ],
)
def test_files_that_are_not_clips_of_the_release_are_rejected(tmp_path, tone, path, reason):
    put(tmp_path / path, tone())
    (rejection,) = ravdess.read(tmp_path)
    assert isinstance(rejection, Rejection)
    assert (rejection.path, rejection.reason) == (path, reason)


def test_other_files_are_ignored(tmp_path, tone):
    put(tmp_path / "README.md", b"")
    put(tmp_path / "Actor_01/._03-01-01-01-01-01-01.wav", b"\0")
    put(tmp_path / "Actor_01/03-01-01-01-01-01-01.WAV", tone())
    assert [type(row) for row in ravdess.read(tmp_path)] == [Utterance]


def test_a_long_clip_is_kept(tmp_path, tone):
    put(tmp_path / "Actor_01/03-01-01-01-01-01-01.wav", tone(40.0))
    summary = write_corpus(
        ravdess.read(tmp_path), corpus="ravdess", root=tmp_path, out_dir=tmp_path / "out", loader_version="1"
    )
    assert summary["duration_s"] == 40.0


@pytest.mark.slow
def test_the_complete_release_is_read(shared_data, tmp_path):
    summary = write_corpus(
        ravdess.read(shared_data / "ravdess"),
        corpus="ravdess",
        root=shared_data / "ravdess",
        out_dir=tmp_path / "out",
        loader_version="1",
    )
    assert (summary["n_found"], summary["n_utterances"]) == (1440, 1440)
    assert summary["speakers"] == {f"{actor:02d}": 60 for actor in range(1, 25)}
    emotions = ("angry", "calm", "disgust", "fearful", "happy", "sad", "surprised")
    assert summary["labels"] == dict.fromkeys(emotions, 192) | {"neutral": 96}
    assert summary["tasks"]["ravdess_8"]["unmapped"] == 0
    assert summary["duration_s"] / 3600 == pytest.approx(1.48, abs=0.005)


def log_mel_energy(waveform):
    """Log energies (frames, 40 mel bands up to 7.6 kHz) at 16 kHz."""
    filters = librosa.filters.mel(sr=16000, n_fft=400, n_mels=40, fmax=7600)
    frames = np.lib.stride_tricks.sliding_window_view(waveform.resampled(16000).samples, 400)[::160]
    power = np.abs(np.fft.rfft(frames * np.hanning(400))) ** 2
    return np.log(power @ filters.T + 1e-6)


def test_originals_equal_their_16_khz_copies(shared_data):
    rows = list(ravdess.read(shared_data / "ravdess_original"))
    assert len(rows) == 11
    stereo = 0
    for row in rows:
        content = (shared_data / "ravdess_original" / row.audio_path).read_bytes()
        stereo += int.from_bytes(content[22:24], "little") == 2  # channels in the RIFF header
        original = decode(content, row.utterance_id)
        assert original.sampling_rate == 48000
        assert original.samples.ndim == 1
        copy_path = (shared_data / "ravdess" / row.audio_path).with_suffix(".flac")
        copy = decode(copy_path.read_bytes(), row.utterance_id)
        energy, expected = log_mel_energy(original), log_mel_energy(copy)
        n_frames = min(len(energy), len(expected))
        assert abs(len(energy) - len(expected)) <= 1
        difference = np.abs(energy[:n_frames].mean() - expected[:n_frames].mean())
        assert difference < 0.01 * np.abs(expected).mean()
    assert stereo == 5
