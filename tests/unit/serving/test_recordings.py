"""Recordings: what files, folders and lists name, channels, and windows."""

import csv
import os

import numpy as np
import pytest
import soundfile

from lalm_mer.core import audio
from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.serving.recordings import Recording, Window, cut_windows, find_recordings, load_channels


def write_wav(path, seconds=1.0, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.stack([np.full(round(seconds * rate), 0.1 * (number + 1)) for number in range(channels)], axis=1)
    soundfile.write(path, samples, rate)
    return path


def test_a_folder_gives_its_audio_in_the_order_of_paths(tmp_path):
    for name in ("b.wav", "a/c.flac", "a/b.wav"):
        write_wav(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no audio")
    found = [recording.path.relative_to(tmp_path).as_posix() for recording in find_recordings([tmp_path])]
    assert found == ["a/b.wav", "a/c.flac", "b.wav"]


def test_a_list_gives_paths_transcripts_and_parts(tmp_path):
    write_wav(tmp_path / "x.wav", seconds=3)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["path", "utterance_id", "transcript", "start_s", "end_s"],
                ["x.wav", "u1", "hello", "1", "2.5"],
                ["../out.wav", "u2", "", "", ""],
            ]
        )
    first, second = find_recordings([tmp_path / "list.csv"])
    assert (first.transcript, first.start_s, first.end_s) == ("hello", 1.0, 2.5)
    (_, waveform), *others = load_channels(first, None)
    assert (waveform.duration_s, others) == (1.5, [])
    with pytest.raises(AudioError, match=r"\.\./out\.wav is outside of the folder of list\.csv"):
        load_channels(second, None)


@pytest.mark.parametrize(
    ("sources", "transcript", "message"),
    [
        (["missing.wav"], None, r"missing\.wav: no such file or folder"),
        (["empty"], None, "no audio in this folder"),
        (["a.wav", "b.wav"], "hello", "one transcript for 2 recordings; give a manifest"),
    ],
)
def test_invalid_sources_are_refused(tmp_path, monkeypatch, sources, transcript, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        list(find_recordings(sources, transcript))


def test_channels_are_mixed_selected_or_separate(tmp_path):
    recording = Recording(write_wav(tmp_path / "stereo.wav", channels=2))
    (number, mixed), *_ = load_channels(recording, None)
    assert number is None
    assert mixed.samples.mean() == pytest.approx(0.15, abs=1e-4)
    (number, second), *_ = load_channels(recording, 2)
    assert number == 2
    assert second.samples.mean() == pytest.approx(0.2, abs=1e-4)
    assert [number for number, _ in load_channels(recording, "each")] == [1, 2]
    with pytest.raises(AudioError, match="no channel 3; it has 2"):
        load_channels(recording, 3)


def test_a_part_that_is_not_in_the_file_is_named(tmp_path):
    recording = Recording(write_wav(tmp_path / "short.wav"), start_s=0.5, end_s=2.0)
    with pytest.raises(AudioError, match=r"1\.000 s long; the part from 0\.5 to 2\.0 s is not in it"):
        load_channels(recording, None)


@pytest.mark.parametrize(
    ("length", "hop", "starts"), [(6, 3, [0, 3, 6]), (4, 4, [0, 4, 8]), (10, 5, [0]), (20, 1, [0])]
)
def test_windows_cover_the_recording_to_its_end(length, hop, starts):
    waveform = Waveform(np.arange(1000, dtype=np.float32), 100)
    cut = list(cut_windows(waveform, Window(length, hop)))
    assert [start for start, _, _ in cut] == starts
    assert cut[-1][1] == 10.0
    for start, end, part in cut:
        assert part.samples[0] == start * 100
        assert len(part.samples) == round((end - start) * 100)


@pytest.mark.parametrize(("length", "hop"), [(0, 1), (3, 0), (3, 4), (float("nan"), 1)])
def test_windows_that_omit_audio_are_refused(length, hop):
    with pytest.raises(ConfigError, match="expected 0 < hop <= window"):
        Window(length, hop)


def test_only_the_part_of_a_long_recording_is_decoded(tmp_path, monkeypatch):
    path = write_wav(tmp_path / "long.wav", seconds=4.0)
    monkeypatch.setattr(audio, "_MOST_SAMPLES", 16_000)
    with pytest.raises(AudioError, match="name its parts by start_s and end_s"):
        load_channels(Recording(path), None)
    ((_, part),) = load_channels(Recording(path, start_s=3.0, end_s=3.5), None)
    assert part.duration_s == 0.5


def test_a_pipe_or_folder_is_no_recording_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "folder.wav", "none.wav", "x" * 300, "a\0.wav"):
        with pytest.raises(AudioError, match=r"no such file, or not a regular file|cannot be opened") as error:
            load_channels(Recording(tmp_path / name), None)
        assert len(str(error.value).splitlines()) == 1
