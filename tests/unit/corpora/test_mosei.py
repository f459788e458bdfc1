import builtins
import io

import numpy as np
import pytest
import soundfile
from mosei_release import (
    CALM,
    CSD,
    DEV,
    LISTED,
    MP4,
    PROTOCOLS,
    TEST,
    TEST_DASH,
    TRAIN,
    TRAIN_NUMBER,
    TXT,
    UNLISTED,
    WAV,
    labels,
    one,
    said,
)
from small_release import mp4, prepare, put

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import load, mosei
from lalm_mer.corpora.base import load_tasks
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS

h5py = pytest.importorskip("h5py", reason="the extra `mosei` is not installed")


def test_an_interval_tells_every_column(tmp_path, tone):
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


def test_a_video_is_heard_where_there_is_no_sound_file(tmp_path):
    put(tmp_path / f"{MP4}/{TRAIN}.mp4", b"video")
    (utterance,) = one(tmp_path)
    assert utterance.audio_path == utterance.video_path == f"{MP4}/{TRAIN}.mp4"


def test_where_a_missing_recording_is_looked_for(tmp_path, tone):
    assert one(tmp_path)[0].audio_path == f"{WAV}/{TRAIN}.wav"
    put(tmp_path / f"CMU_MOSEI/{WAV}/{TEST}.wav", tone())
    assert one(tmp_path)[0].audio_path == f"CMU_MOSEI/{WAV}/{TRAIN}.wav"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.0, 2.0), (0.0, 2.0)),
        ((-0.4875, 4.1), (0.0, 4.1)),  # widened over the beginning of the recording
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
def test_an_interval_is_a_stretch_of_its_recording_or_rejected(tmp_path, interval, expected):
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
def test_underscores_in_a_transcript_and_a_video_stay(tmp_path, text, video):
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


def test_an_empty_line_of_speech_is_no_transcript(tmp_path):
    (row,) = one(tmp_path, lines=said(TRAIN, (1.0, 2.0, "")))
    assert (row.transcript, row.transcript_source) == (None, None)


def test_numbers_that_are_not_there_are_none_and_those_off_the_scale_are_rejected(tmp_path):
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


def test_a_label_file_that_points_to_others_is_not_followed(tmp_path):
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


def test_what_leads_out_of_the_folder_is_refused(tmp_path, tone):
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


def test_without_labels_or_with_damaged_ones_it_is_one_line(tmp_path):
    with pytest.raises(CorpusError, match=f"no {CSD}; set corpus.root"):
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
    with pytest.raises(ConfigError, match=r"pip install 'lalm-mer\[mosei\]'"):
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


def small_release(root, tmp_path, tone):
    """Twelve utterances that can be decoded, and every oddity that was met."""
    for number, video in enumerate((TRAIN, TRAIN_NUMBER, DEV, TEST)):
        put(root / f"{WAV}/{video}.wav", tone(10.0, 16000, hertz=200 + 40 * number))
    put(root / f"{MP4}/{TRAIN}.mp4", b"not used, since there is a WAV")
    put(root / f"{MP4}/{TEST_DASH}.mp4", mp4(tmp_path, 4.0))
    put(root / f"{WAV}/unlabelled1.wav", tone())  # a recording without labels
    put(root / f"{MP4}/unlabelled1.mp4", b"")
    put(root / f"{TXT}/unlabelled1.txt", said("unlabelled1", (0.0, 1.0, "Nobody rated this.")))
    put(
        root / f"{TXT}/{TRAIN}.txt",
        said(TRAIN, (-0.4, 2.0, "I hated___it."), (2.0, 4.0, "Truly."), (4.0, 6.0, "So."), end="\r\n") + f"{TRAIN}___3",
    )
    put(root / f"{TXT}/{DEV}.txt", "\ufeff" + said(DEV, (1.0, 3.0, "Good.")))
    put(root / f"{TXT}/{TEST}.txt", said(TEST, (1.0, 3.0, "It\u2019s fine.")).encode("cp1252"))
    labels(
        root,
        {
            TRAIN: [
                (-0.4, 2.0, -3.0, 0, 2, 1, 0, 1, 0),
                (4.0, 6.0, 0.0, *CALM),
                (2.0, 4.0, -1 / 3, 0, 1, 0, 0, 0, 0),
                (9.0, 12.0, 1.0, *CALM),  # ends after the recording
                (6.0, 5.0, 1.0, *CALM),
                (-7.0, 2.0, 1.0, *CALM),
            ],
            TRAIN_NUMBER: [(0.0, 1.0, 3.0, 3, 0, 0, 0, 0, 0), (1.0, 2.0, 2.5, 1, 0, 0, 0, 0, 0)],
            DEV: [(1.0, 3.0, 1.0, 1, 0, 0, 0.5, 0, 0), (4.0, 5.0, 0.5, *CALM), (6.0, 7.0, -2.0, 0, 0, 1, 0, 1, 1)],
            TEST: [(1.0, 3.0, 2 / 3, *CALM), (3.0, 4.0, np.nan, 1, 0, 0, 0, 0, 0)],
            TEST_DASH: [(0.5, 1.5, -1.5, *CALM), (2.0, 3.0, 9.0, *CALM)],
            UNLISTED: [(0.0, 1.0, 1.0, *CALM)],  # of no list, and without a recording
            "lmnopqrstuv": [(0.0, 1.0, 1.0, *CALM)],
        },
    )
    put(root / f"{WAV}/lmnopqrstuv.wav", tone(10.0, 16000, hertz=500))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    folder = tmp_path_factory.mktemp("mosei")

    def tone(seconds=0.2, rate=8000, hertz=200.0):
        file = io.BytesIO()
        time = np.arange(round(seconds * rate)) / rate
        soundfile.write(file, 0.3 * np.sin(2 * np.pi * hertz * time), rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

    small_release(folder / "root", folder, tone)
    summary, _, rejected = prepare(mosei, folder / "root", folder / "out")
    return load(folder / "out"), summary, rejected


def test_every_oddity_is_told_and_counted(prepared):
    _, summary, rejected = prepared
    assert {(row["path"], row["reason"]) for row in rejected} == {
        (f"{TXT}/{TRAIN}.txt", "bad_row"),
        (f"{WAV}/{TRAIN}.wav", "truncated"),
        (f"{TRAIN}_4", "bad_interval"),
        (f"{TRAIN}_5", "bad_interval"),
        (f"{TEST_DASH}_1", "bad_value"),
        (f"{WAV}/{UNLISTED}.wav", "missing_audio"),
        (f"{WAV}/unlabelled1.wav", "orphan"),
        (f"{MP4}/unlabelled1.mp4", "orphan"),
    }
    assert (summary["n_found"], summary["n_utterances"], summary["n_rejected"]) == (20, 12, 8)
    assert any(f"utterance {TRAIN}_3" in row["detail"] for row in rejected)
    assert summary["labels"] == summary["speakers"] == {}
    assert summary["tasks"] == {
        "mosei_sentiment_2": {"negative": 4, "non_negative": 7, "unmapped": 1},
        "mosei_sentiment_2_nonzero": {"negative": 4, "positive": 6, "unmapped": 2},
        "mosei_sentiment_7": {
            "highly_negative": 1,
            "negative": 2,
            "weakly_negative": 0,
            "neutral": 3,
            "weakly_positive": 3,
            "positive": 1,
            "highly_positive": 1,
            "unmapped": 1,
        },
        "mosei_sentiment": {"mapped": 11, "unmapped": 1},
        "mosei_emotions": {
            "happy": 4,
            "sad": 2,
            "anger": 2,
            "surprise": 1,
            "disgust": 2,
            "fear": 1,
            "unmapped": 0,
        },
    }


def test_what_is_cut_out_is_the_interval(prepared):
    corpus, *_ = prepared
    rows = {row["utterance_id"]: row for row in corpus.dataset}
    assert {row["duration_s"] for row in rows.values()} == {1.0, 2.0}
    first = rows[f"{TRAIN}_0"]
    assert (first["start_s"], first["end_s"], first["transcript"]) == (0.0, 2.0, "I hated___it.")
    assert first["video_path"] == f"{MP4}/{TRAIN}.mp4"
    assert rows[f"{TRAIN}_2"]["transcript"] == "Truly."
    assert rows[f"{TEST}_0"]["transcript"] == "It\u2019s fine."
    assert rows[f"{DEV}_0"]["transcript"] == "Good."
    assert rows[f"{TEST_DASH}_0"]["audio"]["path"] == f"{MP4}/{TEST_DASH}.mp4"
    time = np.arange(32000) / 16000
    decoded = decode(first["audio"]["bytes"], "first").samples
    assert decoded == pytest.approx(0.3 * np.sin(2 * np.pi * 200 * time), abs=1e-4)


def test_several_emotions_and_a_number_reach_the_table(prepared):
    corpus, *_ = prepared
    rows = {row["utterance_id"]: row for row in corpus.dataset}
    emotions, sentiment = corpus.tasks["mosei_emotions"], corpus.tasks["mosei_sentiment"]
    assert emotions.targets_of(rows[f"{TRAIN}_0"]["intensities"]) == ("sad", "anger", "disgust")
    assert emotions.targets_of(rows[f"{TRAIN}_1"]["intensities"]) == ()
    assert emotions.targets_of(rows[f"{DEV}_0"]["intensities"]) == ("happy", "surprise")
    cells = {cell["label"]: cell["intensity"] for cell in rows[f"{DEV}_0"]["intensities"]}
    assert cells == {"happy": 1.0, "sad": 0.0, "anger": 0.0, "surprise": 0.5, "disgust": 0.0, "fear": 0.0}
    assert rows[f"{TRAIN}_2"]["sentiment"] == pytest.approx(-1 / 3, abs=1e-6)
    assert sentiment.targets_of(rows[f"{TRAIN}_2"][sentiment.column]) == ()
    assert rows[f"{TEST}_1"]["sentiment"] is None
    assert sentiment.targets_of(rows[f"{TEST}_1"][sentiment.column]) is None


@pytest.mark.parametrize("name", ["mosei_sentiment_2_official", "mosei_sentiment_7_official"])
def test_the_official_lists_deal_videos_to_sides(prepared, name):
    corpus, *_ = prepared
    folded = fold_corpus(corpus, load_protocol(PROTOCOLS / f"{name}.yaml"))
    assert folded.unmapped == 1
    sides = {split: {i.rpartition("_")[0] for i in folded.folds.ids(1, split)} for split in SPLITS}
    assert sides == {"train": {TRAIN, TRAIN_NUMBER}, "dev": {DEV}, "test": {TEST, TEST_DASH}}
    assert [len(folded.folds.ids(1, split)) for split in SPLITS] == [5, 3, 2]  # the unlisted video is on no side
    assert len(folded.folds.departures()) == 3
    assert folded.folds.unknown["session"] == 0


def test_the_official_lists_are_whole():
    assert list(LISTED.columns) == ["session", "split"]
    assert LISTED["split"].value_counts().to_dict() == {"train": 2249, "test": 678, "dev": 300}
    assert LISTED["session"].is_unique
    assert list(LISTED["session"]) == sorted(LISTED["session"])
    assert all(mosei.facts(f"{video}_0") == Facts(session=video) for video in LISTED["session"])
    known = load_protocol(PROTOCOLS / "mosei_sentiment_7_official.yaml").known[1]
    assert {split: side.n for split, side in known.items()} == {"train": 16327, "dev": 1871, "test": 4662}


def test_seven_steps_are_numbers_rounded_with_a_half_to_the_even_one():
    task = load_tasks("mosei")["mosei_sentiment_7"]
    for value in np.arange(-3, 3.01, 1 / 12):
        expected = int(np.round(round(value, 9))) + 3
        assert task.label_of(round(value, 9)) == task.labels.labels[expected], value


def test_an_id_tells_its_video():
    assert mosei.facts("81406_3") == Facts(session="81406")
    for other in ("hh04W3xXa5s", "hh04W3xXa5s_01", "train_dia0_utt0", "MSP-PODCAST_0001_0001", "1001_DFA_ANG_XX"):
        assert mosei.facts(other) is None
