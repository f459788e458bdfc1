import builtins

import numpy as np
import pytest
from closeness import assert_close

from lalm_mer.core import audio
from lalm_mer.core.audio import Waveform, decode, decode_video, encode
from lalm_mer.core.errors import AudioError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import write_corpus
from lalm_mer.corpora.base import read_audio
from lalm_mer.serving.recordings import Recording, load_channels

av = pytest.importorskip("av", reason="the extra `video` is not installed")


@pytest.fixture
def video(tmp_path):
    """Writes MP4 files: a moving picture, and AAC audio with one tone per channel."""

    def make(seconds=1.0, rate=44100, hertz=(440.0, 440.0), picture=True, options=None):
        path = tmp_path / "made.mp4"
        with av.open(str(path), "w", options=options or {}) as container:
            pictures = container.add_stream("mpeg4", rate=10) if picture else None
            track = container.add_stream("aac", rate=rate, layout="stereo" if len(hertz) == 2 else "mono")
            if pictures is not None:
                pictures.width = pictures.height = 32
                pictures.pix_fmt = "yuv420p"
                for number in range(round(10 * seconds)):
                    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
                    container.mux(pictures.encode(frame))
                container.mux(pictures.encode(None))
            time = np.arange(round(seconds * rate)) / rate
            samples = np.stack([0.4 * np.sin(2 * np.pi * tone * time) for tone in hertz]).astype(np.float32)
            for start in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=track.layout.name)
                frame.sample_rate, frame.pts = rate, start
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        return path.read_bytes()

    return make


def silent_video(path):
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    return path.read_bytes()


def pitch(waveform):
    spectrum = np.abs(np.fft.rfft(waveform.samples * np.hanning(len(waveform.samples))))
    return np.argmax(spectrum) * waveform.sampling_rate / len(waveform.samples)


@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize(("rate", "hertz"), [(44100, (440.0, 440.0)), (16000, (300.0,)), (48000, (1000.0, 1000.0))])
def test_duration_rate_and_pitch_are_those_of_the_audio(video, picture, rate, hertz):
    waveform = decode_video(video(1.5, rate, hertz, picture), "clip.mp4")
    assert waveform.sampling_rate == rate
    assert waveform.samples.dtype == np.float32
    assert waveform.samples.ndim == 1
    assert waveform.duration_s == pytest.approx(1.5, abs=2 * 1024 / rate)  # AAC comes in blocks of 1024
    assert pitch(waveform) == pytest.approx(hertz[0], abs=2.0)
    assert np.abs(waveform.samples).max() == pytest.approx(0.4, abs=0.05)


def test_both_channels_are_mixed(video):
    samples = decode_video(video(1.0, 44100, (400.0, 900.0)), "clip.mp4").samples
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    hertz = np.fft.rfftfreq(len(samples), 1 / 44100)
    loudest = [spectrum[np.abs(hertz - tone) < 5].max() for tone in (400.0, 900.0)]
    assert loudest[0] == pytest.approx(loudest[1], rel=0.2)
    assert min(loudest) > 50 * np.median(spectrum)
    middle = samples[4410:-4410]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.2, abs=0.02)  # the mean of both, not their sum


def test_a_video_without_an_audio_track_is_empty(tmp_path):
    with pytest.raises(AudioError, match=r"clip\.mp4: a video without an audio track") as error:
        decode_video(silent_video(tmp_path / "silent.mp4"), "clip.mp4")
    assert error.value.reason == "empty"


@pytest.mark.parametrize("content", [b"no video at all" * 100, b"\0" * 100])
def test_a_file_that_is_no_video_is_unreadable(content):
    with pytest.raises(AudioError, match=r"clip\.mp4: not a video") as error:
        decode_video(content, "clip.mp4")
    assert error.value.reason == "unreadable"
    assert "\n" not in str(error.value)


def test_a_video_cut_before_its_header_is_unreadable(video):
    content = video()
    with pytest.raises(AudioError) as error:
        decode_video(content[: content.find(b"moov")], "clip.mp4")
    assert error.value.reason == "unreadable"


def test_a_truncated_video_with_its_header_first_is_refused(video):
    content = video(3.0, options={"movflags": "faststart"})
    assert content.find(b"moov") < content.find(b"mdat")
    reasons = set()
    for tenth in range(1, 10):
        with pytest.raises(AudioError) as error:
            decode_video(content[: len(content) * tenth // 10], "clip.mp4")
        reasons.add(error.value.reason)
    assert "truncated" in reasons


def test_a_video_that_is_damaged_in_the_middle_is_refused(video):
    content = bytearray(video(2.0))
    start = content.find(b"mdat") + 4
    content[start + 1000 : start + 6000] = bytes(5000)
    with pytest.raises(AudioError, match="not a video that FFmpeg reads"):
        decode_video(bytes(content), "clip.mp4")


def test_a_playlist_opens_no_other_file(video, tmp_path, monkeypatch):
    (tmp_path / "secret.mp4").write_bytes(video())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError, match="not a video"):
        decode_video(b"ffconcat version 1.0\nfile secret.mp4\n", "clip.mp4")
    (tmp_path / "secret.mp4").rename(tmp_path / "secret")
    with pytest.raises(AudioError, match="not a video"):
        decode_video(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret\n#EXT-X-ENDLIST\n", "clip.mp4")


def test_a_corpus_stores_the_audio_of_a_video_as_flac(video, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(content := video(1.0, 48000))
    read = read_audio(tmp_path, tmp_path / "clip.mp4")
    assert read.path == "clip.mp4"
    assert read.content[:4] == b"fLaC"
    original = decode_video(content, "clip.mp4")
    decoded = decode(read.content, "clip.mp4")
    assert np.abs(decoded.samples - original.samples).max() < 2**-22
    part = read_audio(tmp_path, tmp_path / "clip.mp4", 0.25, 0.75)
    assert part.duration_s == 0.5
    assert decode(part.content, "").samples == pytest.approx(decoded.samples[12000:36000], abs=2**-22)
    rejection = read_audio(tmp_path, tmp_path / "clip.mp4", 0.5, 9.0)
    assert rejection.reason == "truncated"


@pytest.mark.parametrize(("container", "name"), [("ipod", "clip.m4a"), ("adts", "clip.aac"), ("matroska", "clip.wav")])
def test_audio_that_only_ffmpeg_reads_is_recognised_by_its_bytes(tmp_path, container, name):
    samples = (0.4 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)[None]
    with av.open(str(tmp_path / name), "w", format=container) as file:
        track = file.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            file.mux(track.encode(frame))
        file.mux(track.encode(None))
    read = read_audio(tmp_path, tmp_path / name)
    assert (read.content[:4], read.sampling_rate) == (b"fLaC", 16000)
    assert read.duration_s == pytest.approx(1.0, abs=0.13)
    ((_, waveform),) = load_channels(Recording(tmp_path / name), None)
    assert np.abs(waveform.samples - decode(read.content, name).samples).max() < 2**-22
    assert read_audio(tmp_path, tmp_path / name, 0.25, 0.5).duration_s == 0.25


def test_more_than_eight_channels_are_mixed(tmp_path):
    samples = np.repeat((0.4 * np.sin(np.arange(8000) * 0.1)).astype(np.float32)[None], 16, axis=0)
    with av.open(str(tmp_path / "wide.mkv"), "w") as file:
        track = file.add_stream("pcm_f32le", rate=8000, layout="hexadecagonal")
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout="hexadecagonal")
        frame.sample_rate = 8000
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    assert_close(decode_video(tmp_path / "wide.mkv", "wide").samples, samples[0], 1e-6)


def test_a_long_track_is_refused(video, monkeypatch):
    monkeypatch.setattr(audio, "_MOST_SAMPLES", 10_000)
    with pytest.raises(AudioError, match="cut it into shorter files") as error:
        decode_video(video(), "clip.mp4")
    assert error.value.reason == "too_long"


def test_without_pyav_the_extra_is_named(video, monkeypatch, tmp_path, tone):
    content, original = video(), builtins.__import__

    def without_av(name, *arguments, **options):
        if name == "av":
            raise ImportError("No module named 'av'")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(
        AudioError, match=r"clip\.m4a: decoding a video, or .* M4A, needs PyAV; pip install .*video"
    ) as error:
        decode_video(content, "clip.m4a")
    assert error.value.reason == "missing_extra"
    (tmp_path / "clip.m4a").write_bytes(content)
    (tmp_path / "good.wav").write_bytes(tone())
    rows = [Utterance(utterance_id=name, corpus="m", audio_path=name) for name in ("clip.m4a", "good.wav")]
    summary = write_corpus(rows, corpus="m", out_dir=tmp_path / "out", root=tmp_path, loader_version="1", processes=1)
    assert (summary["n_utterances"], summary["rejected"]) == (1, {"missing_extra": 1})
    assert decode(encode(Waveform(np.zeros(80, np.float32), 8000)), "a.flac").duration_s == 0.01
