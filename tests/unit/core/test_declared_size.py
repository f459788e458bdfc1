"""Files whose header declares more samples than they have, or a length that their writer did not know."""

import io
import struct

import numpy as np
import pytest
import soundfile

from lalm_mer.core import audio, declared_size
from lalm_mer.core.audio import decode, decode_channels
from lalm_mer.core.errors import AudioError

TONE = (0.3 * np.sin(np.arange(8000) * 0.05)).astype(np.float32)
UNKNOWN = (0x7FFFF000, 0x7FFFF024, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def encoded(container, subtype="PCM_16", samples=TONE):
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=container, subtype=subtype)
    return file.getvalue()


def with_field(content, name, size, form):
    """The content with another size of a chunk."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.index(name) + (16 if form == "<Q" else 4), size)
    return bytes(changed)


def flac_of(total):
    """A FLAC that declares a number of samples, the last 36 bits of bytes 18 to 26."""
    content = bytearray(encoded("FLAC"))
    first = int.from_bytes(content[18:26], "big") >> 36
    content[18:26] = (first << 36 | total).to_bytes(8, "big")
    return bytes(content)


def reason(content, **times):
    with pytest.raises(AudioError, match=r"^clip: ") as caught:
        decode(content, "clip", **times)
    assert "\n" not in str(caught.value)
    return caught.value.reason


CONTAINERS = [
    *((name, "PCM_16") for name in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "FLAC")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)),
]


@pytest.mark.parametrize(("container", "subtype"), CONTAINERS)
def test_a_truncated_file_is_refused_in_every_container(container, subtype):
    content = encoded(container, subtype)
    assert len(decode(content, "clip").samples) == len(TONE)
    for tenth in (5, 7, 9):
        assert reason(content[: len(content) * tenth // 10]) == "truncated"


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF"])
def test_both_byte_orders(container, endian, tmp_path):
    try:
        soundfile.write(tmp_path / "clip", TONE, 16000, format=container, subtype="PCM_16", endian=endian)
    except soundfile.LibsndfileError:
        pytest.skip(f"libsndfile writes no {endian} {container}")
    content = (tmp_path / "clip").read_bytes()
    assert len(decode(content, "clip").samples) == len(TONE)
    assert reason(content[:-4000]) == "truncated"


@pytest.mark.parametrize("total", [0, 2**36 - 1])
def test_a_flac_of_unknown_length_is_decoded_to_its_end(total):
    complete, streamed = decode(encoded("FLAC"), "clip"), flac_of(total)
    np.testing.assert_array_equal(decode(streamed, "clip").samples, complete.samples)
    np.testing.assert_array_equal(decode(streamed, "clip", 0.125, 0.25).samples, complete.samples[2000:4000])
    np.testing.assert_array_equal(decode(streamed, "clip", 0.4).samples, complete.samples[6400:])
    assert reason(streamed[: len(streamed) * 2 // 3]) == "truncated"
    assert reason(streamed, start_s=0.4, end_s=0.6) == "truncated"
    assert reason(streamed, start_s=2.0) == "truncated"


def test_a_flac_with_fewer_samples_than_it_declares_is_refused():
    assert reason(flac_of(len(TONE) + 1)) == "truncated"
    assert reason(flac_of(2**35)) == "too_long"


@pytest.mark.parametrize("total", [0, 36, *UNKNOWN])
@pytest.mark.parametrize("data", [0, *UNKNOWN])
def test_a_wav_from_a_pipe_is_read(total, data):
    content = bytearray(with_field(encoded("WAV"), b"data", data, "<I"))
    content[4:8] = struct.pack("<I", total)
    np.testing.assert_array_equal(decode(bytes(content), "clip").samples, decode(encoded("WAV"), "clip").samples)


@pytest.mark.parametrize(
    ("container", "name", "form", "sizes"),
    [
        ("AIFF", b"SSND", ">I", (0, 8, 0x7F000000, 0xFFFFFFFF)),
        ("AU", b".snd", None, (0, 0xFFFFFFFF)),
        ("CAF", b"data", ">Q", (2**64 - 1,)),
        ("W64", b"data", "<Q", (0, 24, 2**63 - 1, 2**64 - 1)),
    ],
)
def test_other_containers_from_a_pipe_are_read(container, name, form, sizes):
    content = encoded(container)
    for size in sizes:
        if container == "AU":
            streamed = content[:8] + struct.pack(">I", size) + content[12:]
        else:
            streamed = with_field(content, name, size, form)
        if container == "AIFF":
            streamed = b"FORM\0\0\0\0" + streamed[8:]
        assert len(decode(streamed, "clip").samples) == len(TONE)


def test_an_rf64_without_sizes_is_read():
    content = bytearray(encoded("RF64"))
    content[20:44] = bytes(24)
    assert len(decode(bytes(content), "clip").samples) == len(TONE)


def test_a_wav_without_samples_is_empty_though_chunks_follow():
    content = encoded("WAV", samples=np.zeros(0))
    assert reason(content) == "empty"
    followed = bytearray(content + b"LIST" + struct.pack("<I", 400) + bytes(400))
    struct.pack_into("<I", followed, 4, len(followed) - 8)
    assert reason(bytes(followed)) == "empty"


def test_a_wav_is_whole_though_a_later_chunk_is_truncated():
    content = bytearray(encoded("WAV") + b"LIST" + struct.pack("<I", 400) + bytes(100))
    struct.pack_into("<I", content, 4, len(content) + 292)
    assert len(decode(bytes(content), "clip").samples) == len(TONE)


def test_a_format_whose_length_cannot_be_checked_is_refused():
    assert reason(encoded("VOC")) == "unreadable"
    assert reason(encoded("IRCAM")) == "unreadable"


@pytest.mark.parametrize(("field", "rate"), [(24, 1), (24, 2**31 - 1)])
def test_an_impossible_rate_is_refused(field, rate):
    content = bytearray(encoded("WAV"))
    struct.pack_into("<I", content, field, rate)
    assert reason(bytes(content)) == "unreadable"


@pytest.mark.parametrize("value", [3e38, -3e38, np.nan, np.inf])
def test_a_sample_or_mean_that_is_not_finite_is_refused(value):
    content = encoded("WAV", "FLOAT", np.full((800, 2), value, np.float32))
    assert reason(content) == "non_finite"
    with pytest.raises(AudioError, match="NaN, infinite") as caught:
        decode_channels(content, "clip")
    assert caught.value.reason == "non_finite"
    assert np.abs(decode(encoded("WAV", "FLOAT", np.full((800, 2), 32767.0)), "clip").samples).max() == 32767


def test_length_is_limited(monkeypatch):
    for content in (encoded("WAV"), encoded("FLAC"), flac_of(0)):
        monkeypatch.setattr(audio, "_MOST_SAMPLES", len(TONE))
        assert len(decode(content, "clip").samples) == len(TONE)
        monkeypatch.setattr(audio, "_MOST_SAMPLES", len(TONE) - 1)
        assert reason(content) == "too_long"
        assert len(decode(content, "clip", 0.1, 0.2).samples) == 1600
        monkeypatch.setattr(audio, "_MOST_SAMPLES", 2**28)
        monkeypatch.setattr(audio, "_LONGEST_S", 0.4)
        assert reason(content) == "too_long"
        monkeypatch.undo()


def test_a_large_file_of_unknown_size_is_not_read_into_memory(tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    path.write_bytes(with_field(encoded("WAV"), b"data", 0xFFFFFFFF, "<I"))
    assert len(decode(path, "clip").samples) == len(TONE)
    monkeypatch.setattr(declared_size, "MOST_BYTES", 1000)
    with pytest.raises(AudioError, match="without a size in its header") as caught:
        decode(path, "clip")
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", r"a pointer of Git LFS.*`git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--00.wav\n", r"a pointer of git-annex.*`git annex get`"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page, not the file itself; download"),
    ],
)  # fmt: skip
def test_a_file_left_in_the_place_of_another_is_named(content, what):
    with pytest.raises(AudioError, match=what) as caught:
        decode(content, "clip")
    assert caught.value.reason == "unreadable"


def test_a_damaged_header_prints_nothing(capfd):
    content, messages = bytearray(encoded("WAV")), []
    for place in range(len(content[:60])):
        for value in (0, 0x7F, 0xFF):
            changed = content.copy()
            changed[place : place + 4] = bytes([value]) * 4
            try:
                decode(bytes(changed), "clip")
            except AudioError as error:
                messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
    assert "Traceback" not in capfd.readouterr().err
