"""Damaged audio files in every container: none ends the preparation or a prediction, and none is slow."""

import io
import random

import numpy as np
import pytest
import soundfile
from harmful import bounded, damaged, prepared

from lalm_mer.core.audio import encode
from lalm_mer.core.errors import AudioError
from lalm_mer.corpora import manifest
from lalm_mer.serving.recordings import Recording, load_channels

FILES_IN_A_BLOCK = 100
SUBTYPES = {
    "WAV": ("PCM_16", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "MS_ADPCM"),
    "WAVEX": ("PCM_24",),
    "RF64": ("PCM_16",),
    "W64": ("PCM_16", "FLOAT"),
    "AIFF": ("PCM_16", "FLOAT", "IMA_ADPCM"),
    "AU": ("PCM_16", "ULAW"),
    "NIST": ("PCM_16",),
    "CAF": ("PCM_16", "ALAC_16"),
    "FLAC": ("PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": (None,),
    "VOC": ("PCM_16",),
}


def of_a_video(chance):
    """Bytes like those of an M4A file, or of a video: FFmpeg reads them, not libsndfile."""
    return chance.choice((b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3", b"RIFF\xff\0\0\0AVI ")) + chance.randbytes(800)


def outcome(recording, channel):
    """The resampled samples of each channel, or the message of the error."""
    try:
        return [wave.resampled(16000).samples for _, wave in load_channels(recording, channel)]
    except AudioError as error:
        return str(error)


@pytest.fixture(scope="module")
def whole():
    """A short file in every container and encoding, with one and two channels."""
    tone = (0.3 * np.sin(np.arange(3000) * 0.05)).astype(np.float32)
    files = []
    for container, subtypes in SUBTYPES.items():
        for subtype in subtypes:
            for samples in (tone, np.stack([tone, -tone], axis=1)):
                if subtype == "IMA_ADPCM" and container == "AIFF" and samples.ndim == 2:
                    continue  # libsndfile writes it with one channel only
                file = io.BytesIO()
                soundfile.write(file, samples, 16000, format=container, subtype=subtype)
                files.append(file.getvalue())
    return files


@pytest.mark.parametrize("seed", range(int(__import__("os").environ.get("FUZZ_SEEDS", "4"))))
def test_no_damaged_file_ends_the_others(tmp_path, whole, tone, seed):
    chance = random.Random(seed)
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "good.wav").write_bytes(tone(hertz=300))
    lines = ["path,utterance_id,start_s,end_s", "good.wav,good,,"]
    for number in range(FILES_IN_A_BLOCK):
        content = of_a_video(chance) if chance.random() < 0.05 else damaged(chance.choice(whole), chance)
        name = f"{number}{chance.choice(('.wav', '.flac', '.mp3', '.m4a', '.mp4', '.ogg'))}"
        (root / name).write_bytes(content)
        times = chance.choice((",", ",", "0.01,0.1", "0.05,", ",0.1", "1e9,1e300", "0,1e-9"))
        lines.append(f"{name},{number},{times}")
        for channel in (None, "each"):
            with bounded():
                loaded = outcome(Recording(root / name), channel)
            if isinstance(loaded, str):
                assert len(loaded.splitlines()) == 1
                continue
            for samples in loaded:
                assert len(samples)
                assert np.isfinite(samples).all()
    (root / "m.csv").write_text("\n".join(lines) + "\n")
    summary = prepared(lambda: manifest.read(root, "m.csv"), root, tmp_path / "out", tmp_path)
    assert summary["n_found"] == FILES_IN_A_BLOCK + 1
    assert summary["n_utterances"] >= 1
    assert summary["n_rejected"] > FILES_IN_A_BLOCK // 4


def test_a_part_of_a_damaged_recording_can_be_encoded(tmp_path, tone):
    """Values far above full scale, as in files whose integers were written as floats, stay finite in every format."""
    samples = (1e9 * np.sin(np.arange(3000) * 0.05)).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", samples, 16000, subtype="FLOAT")
    ((_, wave),) = load_channels(Recording(tmp_path / "loud.wav", start_s=0.01, end_s=0.1), None)
    read, _ = soundfile.read(io.BytesIO(encode(wave)), dtype="float32")
    np.testing.assert_array_equal(read, samples[160:1600])
