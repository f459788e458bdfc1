"""CMU-MOSEI: intervals, transcripts, damaged files, links."""

import builtins

import numpy as np
import pytest
from mosei_release import (
    CALM,
    CSD,
    DEV,
    MP4,
    TEST,
    TRAIN,
    TXT,
    WAV,
    labels,
    one,
    said,
)
from small_release import prepare, put

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import mosei
from lalm_mer.corpora.base import load_tasks

h5py = pytest.importorskip("h5py", reason="the extra `mosei` is not installed")


def test_an_interval_fills_every_column(tmp_path, tone):
    put(tmp_path / f"{WAV}/{TRAIN}.wav", tone(5.0, 16000))
    put(tmp_path / f"{MP4}/{TRAIN}.mp4", b"video")
    values = (-1.5, 0.0, 2.0, 0.5, 0.0, 1.0, 0.0)
    (utterance,) = one(tmp_path, (1.25, 3.5), values, said(TRAIN, (1.25, 3.5, "It was bad.")))
    assert utterance == Utterance(
        utterance_id=f"{TRAIN}_0",
        corpus="mosei",
        audio_path=f"{WAV}/{TRAIN}.wav",
        cut=True,
        start_s=1.25,
        end_s=3.5,
        transcript="It was bad.",
        transcript_source="human",
        language="en",
        session=TRAIN,
        dialogue=TRAIN,
        sentiment=-1.5,
        intensities={"happy": 0.0, "sad": 2.0, "anger": 0.5, "surprise": 0.0, "disgust": 1.0, "fear": 0.0},
        video_path=f"{MP4}/{TRAIN}.mp4",
    )
    assert type(utterance.sentiment) is float


def test_the_audio_of_a_video_is_used_without_an_audio_file(tmp_path):
    put(tmp_path / f"{MP4}/{TRAIN}.mp4", b"video")
    (utterance,) = one(tmp_path)
    assert utterance.audio_path == utterance.video_path == f"{MP4}/{TRAIN}.mp4"


def test_the_path_of_a_missing_recording(tmp_path, tone):
    assert one(tmp_path)[0].audio_path == f"{WAV}/{TRAIN}.wav"
    put(tmp_path / f"CMU_MOSEI/{WAV}/{TEST}.wav", tone())
    assert one(tmp_path)[0].audio_path == f"CMU_MOSEI/{WAV}/{TRAIN}.wav"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.0, 2.0), (0.0, 2.0)),
        ((-0.4875, 4.1), (0.0, 4.1)),  # extended before the beginning of the recording
        ((-1.0, 0.5), (0.0, 0.5)),
        ((-1.5, 2.0), None),
        ((-0.5, -0.1), None),
        ((-0.5, 0.0), None),
        ((3.0, 2.0), None),
        ((2.0, 2.0), None),
        ((np.nan, 2.0), None),
        ((1.0, np.inf), None),
    ],
)
def test_an_interval_is_within_its_recording_or_rejected(tmp_path, interval, expected):
    (row,) = one(tmp_path, interval)
    if expected is None:
        assert (row.path, row.reason) == (f"{TRAIN}_0", "bad_interval")
    else:
        assert (row.start_s, row.end_s) == expected


def test_a_transcript_is_found_by_its_times_and_not_by_its_number(tmp_path):
    lines = said(TRAIN, (0.0, 8.0, "First."), (7.6, 14.1, "Second."), (13.8, 20.0, "Third."), (30.0, 31.0, "Fourth."))
    labels(
        tmp_path,
        {
            TRAIN: [
                (13.8, 20.0, 0, *CALM),  # the file's order is not that of time
                (7.6, 14.1, 0, *CALM),
                (-0.4, 8.0, 0, *CALM),
                (19.6, 30.5, 0, *CALM),  # only the padding of its neighbours
                (40.0, 41.0, 0, *CALM),
            ]
        },
    )
    put(tmp_path / f"{TXT}/{TRAIN}.txt", lines)
    found = [(row.transcript, row.transcript_source) for row in mosei.read(tmp_path)]
    assert found == [("Third.", "human"), ("Second.", "human"), ("First.", "human"), (None, None), (None, None)]


@pytest.mark.parametrize("text", ["a ___ b", "___", "_x___0___1.0___2.0___y", "x___", "caf\u2019e"])
@pytest.mark.parametrize("video", [TRAIN, "abc___def_g", "abcdefghij_", "___________"])
def test_underscores_in_a_transcript_and_a_video_are_kept(tmp_path, text, video):
    labels(tmp_path, {video: [(1.0, 2.0, 0, *CALM)]})
    put(tmp_path / f"{TXT}/{video}.txt", said(video, (1.0, 2.0, text)))
    (row,) = mosei.read(tmp_path)
    assert (row.utterance_id, row.session, row.transcript) == (f"{video}_0", video, text)
    assert mosei.facts(row.utterance_id) == Facts(session=video)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_encoding_and_line_end_of_a_transcript(tmp_path, encoding, end):
    text = "It\u2019s \u201cfine\u201d\u2026 caf\u00e9"
    content = said(TRAIN, (1.0, 2.0, text), (5.0, 6.0, "Next."), end=end)
    (row,) = one(tmp_path, lines=content.encode(encoding))
    assert row.transcript == text


def test_lines_cut_in_half_are_rejected_and_the_others_read(tmp_path):
    lines = said(TRAIN, (1.0, 2.0, "Whole.")) + "\n".join(
        ["", f"{TRAIN}___1___3.0", f"{TRAIN}___2___x___4.0___No time.", "other_video___0___1.0___2.0___Whose?", ""]
    )
    *rejections, utterance = one(tmp_path, lines=lines)
    assert utterance.transcript == "Whole."
    assert [(item.path, item.reason) for item in rejections] == [(f"{TXT}/{TRAIN}.txt", "bad_row")] * 3
    assert [item.detail.split(":")[0] for item in rejections] == ["line 3", "line 4", "line 5"]


def test_an_empty_line_is_no_transcript(tmp_path):
    (row,) = one(tmp_path, lines=said(TRAIN, (1.0, 2.0, "")))
    assert (row.transcript, row.transcript_source) == (None, None)


def test_missing_numbers_are_none_and_those_outside_the_scale_are_rejected(tmp_path):
    (row,) = one(tmp_path, values=(np.nan, 1.0, *[np.nan] * 5))
    assert (row.sentiment, row.intensities) == (None, {"happy": 1.0})
    (row,) = one(tmp_path, values=[np.nan] * 7)
    assert row.intensities is None
    (row,) = one(tmp_path, values=(5.0, *CALM))
    assert (row.path, row.reason) == (f"{TRAIN}_0", "bad_value")
    assert "5.0" in row.detail


def test_a_video_whose_tables_do_not_fit_is_rejected(tmp_path):
    with h5py.File(tmp_path / CSD, "w") as file:
        data = file.create_group("All Labels/data")
        data.create_dataset("aaaaaaaaaaa/intervals", data=np.zeros((2, 2)))
        data.create_dataset("aaaaaaaaaaa/features", data=np.zeros((3, 7)))
        data.create_dataset("bbbbbbbbbbb/intervals", data=np.zeros((1, 2)))
        data.create_dataset("ccccccccccc/intervals", data=np.array([[b"1", b"2"]]))
        data.create_dataset("ccccccccccc/features", data=np.zeros((1, 7)))
        data.create_dataset("ddddddddddd", data=np.zeros(3))
        data.create_group("a.b c")
    rows = list(mosei.read(tmp_path))
    assert [(row.path, row.reason) for row in rows] == [
        ("a.b c", "unexpected_name"),
        ("aaaaaaaaaaa", "bad_row"),
        ("bbbbbbbbbbb", "bad_row"),
        ("ccccccccccc", "bad_row"),
        ("ddddddddddd", "bad_row"),
    ]
    assert "(3, 7) float64" in rows[1].detail
    assert "features missing" in rows[2].detail


def test_links_in_a_label_file_are_not_followed(tmp_path):
    labels(tmp_path / "elsewhere", {TRAIN: [(1.0, 2.0, 3.0, *CALM)]})
    root = tmp_path / "root"
    labels(root, {TEST: [(1.0, 2.0, 0, *CALM)]})
    with h5py.File(root / CSD, "a") as file:
        data = file["All Labels/data"]
        data[TRAIN] = h5py.ExternalLink(str(tmp_path / "elsewhere" / CSD), f"/All Labels/data/{TRAIN}")
        data.create_group(DEV)["intervals"] = h5py.SoftLink(f"/All Labels/data/{TEST}/intervals")
        raw = data.create_group("eeeeeeeeeee")
        (tmp_path / "secret.bin").write_bytes(np.arange(2.0).tobytes())
        raw.create_dataset("intervals", (1, 2), "f8", external=[(str(tmp_path / "secret.bin"), 0, 16)])
        raw.create_dataset("features", data=np.zeros((1, 7)))
    rows = {row.path if isinstance(row, Rejection) else row.utterance_id: row for row in mosei.read(root)}
    assert {name for name, row in rows.items() if isinstance(row, Utterance)} == {f"{TEST}_0"}
    assert {rows[name].reason for name in (TRAIN, DEV, "eeeeeeeeeee")} == {"bad_row"}


def test_links_out_of_the_folder_are_refused(tmp_path, tone):
    root = tmp_path / "root"
    put(tmp_path / "elsewhere/a.wav", tone(3.0, 16000))
    put(tmp_path / "elsewhere/a.txt", said(TRAIN, (1.0, 2.0, "Secret.")))
    put(root / f"{WAV}/{TEST}.wav", tone(3.0, 16000))
    (root / TXT).mkdir(parents=True)
    (root / f"{WAV}/{TRAIN}.wav").symlink_to(tmp_path / "elsewhere/a.wav")
    (root / f"{TXT}/{TRAIN}.txt").symlink_to(tmp_path / "elsewhere/a.txt")
    labels(root, {video: [(1.0, 2.0, 0, *CALM)] for video in (TRAIN, TEST)})
    summary, _, rejected = prepare(mosei, root, tmp_path / "out")
    assert {(row["path"], row["reason"]) for row in rejected} == {
        (f"{WAV}/{TRAIN}.wav", "outside_root"),
        (f"{TXT}/{TRAIN}.txt", "outside_root"),
    }
    assert summary["n_utterances"] == 1
    (root / CSD).rename(tmp_path / "elsewhere" / CSD)
    (root / CSD).symlink_to(tmp_path / "elsewhere" / CSD)
    with pytest.raises(CorpusError, match="points outside the corpus folder"):
        list(mosei.read(root))


def test_missing_or_damaged_labels_are_an_error_of_one_line(tmp_path):
    with pytest.raises(CorpusError, match=f"no {CSD}; expected the folder with it and Raw, found "):
        list(mosei.read(tmp_path))
    labels(tmp_path, {TRAIN: [(1.0, 2.0, 0, *CALM)] * 500})
    content = (tmp_path / CSD).read_bytes()
    for damaged in (b"", b"no HDF5", content[: len(content) // 2]):
        (tmp_path / CSD).write_bytes(damaged)
        with pytest.raises(CorpusError, match=f"{CSD}: damaged") as error:
            list(mosei.read(tmp_path))
        assert "\n" not in str(error.value)
    with h5py.File(tmp_path / CSD, "w") as file:
        file.create_group("Emotion Labels/data")
    with pytest.raises(CorpusError, match="no group 'All Labels/data', found Emotion Labels"):
        list(mosei.read(tmp_path))


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    labels(tmp_path, {TRAIN: [(1.0, 2.0, 0, *CALM)]})
    original = builtins.__import__

    def without_h5py(name, *arguments, **options):
        if name == "h5py":
            raise ImportError("No module named 'h5py'")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[mosei\]'"):
        list(mosei.read(tmp_path))


def test_other_files_of_the_release_and_second_copies(tmp_path, tone):
    for path in ("Raw/Videos/Segmented/Combined/x_0.mp4", f"{MP4}/._{TRAIN}.mp4", f"{WAV}/list.txt", "Raw/a.wav"):
        put(tmp_path / path, b"")
    put(tmp_path / f"{WAV}/{TRAIN}.wav", tone())
    put(tmp_path / f"{WAV}/{TRAIN}.mp3", b"")
    put(tmp_path / f"copy/{WAV}/{TRAIN}.wav", tone())
    labels(tmp_path / "copy", {TEST: [(1.0, 2.0, 0, *CALM)]})
    *rejections, utterance = one(tmp_path)
    assert utterance.utterance_id == f"{TRAIN}_0"
    assert {(row.path, row.reason) for row in rejections} == {
        (f"{WAV}/{TRAIN}.mp3", "unexpected_name"),
        (f"copy/{WAV}/{TRAIN}.wav", "duplicate_file"),
        (f"copy/{CSD}", "duplicate_table"),
    }


def test_seven_steps_are_numbers_rounded_with_a_half_to_the_even_one():
    task = load_tasks("mosei")["mosei_sentiment_7"]
    for value in np.arange(-3, 3.01, 1 / 12):
        expected = int(np.round(round(value, 9))) + 3
        assert task.label_of(round(value, 9)) == task.labels.labels[expected], value


def test_an_id_gives_its_video():
    assert mosei.facts("81406_3") == Facts(session="81406")
    for other in ("hh04W3xXa5s", "hh04W3xXa5s_01", "train_dia0_utt0", "MSP-PODCAST_0001_0001", "1001_DFA_ANG_XX"):
        assert mosei.facts(other) is None
