import csv
import io
from collections import Counter
from pathlib import Path

import pytest
from small_release import mp4, prepare, put

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import load, meld

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"
HEADER = (
    "Sr No.",
    *("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    *("Season", "Episode", "StartTime", "EndTime"),
)
FOLDERS = {"train": "train/train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def row(number=1, dialogue=0, turn=0, **changed):
    cells = {
        "Sr No.": str(number),
        "Utterance": f"Line {dialogue}.{turn}, you know.",
        "Speaker": "Monica",
        "Emotion": "joy",
        "Sentiment": "positive",
        "Dialogue_ID": str(dialogue),
        "Utterance_ID": str(turn),
        "Season": "8",
        "Episode": "21",
        "StartTime": "00:16:16,059",
        "EndTime": "00:16:21,731",
    }
    return cells | changed


def table(*rows, header=HEADER, end="\n"):
    file = io.StringIO()
    writer = csv.DictWriter(file, header, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def prepare_meld(root, out, **options):
    """The summary, and {path: reason} of the rejected."""
    summary, _, rejected = prepare(meld, root, out, **options)
    return summary, {item["path"]: item["reason"] for item in rejected}


def plain(root):
    """Three splits of one row each, without clips."""
    for split in FOLDERS:
        put(root / f"{split}_sent_emo.csv", table(row()))


def test_a_row_fills_every_column(tmp_path):
    plain(tmp_path)
    put(tmp_path / "train/train_splits/dia0_utt0.mp4", b"video")
    train, _, _ = meld.read(tmp_path)
    assert train == Utterance(
        utterance_id="train_dia0_utt0",
        corpus="meld",
        audio_path="train/train_splits/dia0_utt0.mp4",
        start_s=976.059,
        end_s=981.731,
        transcript="Line 0.0, you know.",
        transcript_source="human",
        speaker="Monica",
        language="en",
        session="S08E21",
        dialogue="train_dia0",
        turn=0,
        split="train",
        label="joy",
        sentiment=1.0,
        video_path="train/train_splits/dia0_utt0.mp4",
    )


def test_dialogue_numbers_repeat_between_splits(tmp_path):
    plain(tmp_path)
    rows = list(meld.read(tmp_path))
    assert [item.utterance_id for item in rows] == ["train_dia0_utt0", "dev_dia0_utt0", "test_dia0_utt0"]
    assert [item.dialogue for item in rows] == ["train_dia0", "dev_dia0", "test_dia0"]


def test_an_audio_file_is_preferred_to_a_video_whose_path_is_kept(tmp_path, tone):
    put(tmp_path / "train_sent_emo.csv", table(row(1, 0, 0), row(2, 0, 1), row(3, 0, 2)))
    for name in ("dia0_utt0.mp4", "dia0_utt1.mp4", "dia0_utt1.flac", "dia0_utt2.mp4", "dia0_utt2.wav"):
        put(tmp_path / f"train_splits/{name}", b"")
    put(tmp_path / "train_splits/dia0_utt2.flac", b"")
    found = [(item.audio_path, item.video_path) for item in meld.read(tmp_path) if isinstance(item, Utterance)]
    assert found == [
        ("train_splits/dia0_utt0.mp4", "train_splits/dia0_utt0.mp4"),
        ("train_splits/dia0_utt1.flac", "train_splits/dia0_utt1.mp4"),
        ("train_splits/dia0_utt2.wav", "train_splits/dia0_utt2.mp4"),
    ]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train_splits", "train"),
        ("train", "train"),
        ("dev", "dev"),
        ("dev_splits_complete", "dev"),
        ("test", "test"),
        ("output_repeated_splits_test", "test"),
        ("MELD.Raw/test/output_repeated_splits_test", "test"),
        ("train/dev_splits_complete", "dev"),  # the deepest folder counts
    ],
)
def test_a_clip_belongs_to_the_split_of_its_folder(tmp_path, folder, split):
    plain(tmp_path)
    put(tmp_path / f"{folder}/dia0_utt0.mp4", b"")
    found = {item.split: item.video_path for item in meld.read(tmp_path)}
    assert found == dict.fromkeys(FOLDERS) | {split: f"{folder}/dia0_utt0.mp4"}


def test_the_path_of_a_missing_clip(tmp_path):
    plain(tmp_path)
    put(tmp_path / "dev_sent_emo.csv", table(row(1, 110, 7)))
    put(tmp_path / "dev_splits_complete/dia9_utt9.mp4", b"")
    put(tmp_path / "sound/dev/dia9_utt9.wav", b"")
    put(tmp_path / "test/dia9_utt9.flac", b"")
    paths = [item.audio_path for item in meld.read(tmp_path) if isinstance(item, Utterance)]
    assert paths == ["train/dia0_utt0.mp4", "dev_splits_complete/dia110_utt7.mp4", "test/dia0_utt0.flac"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("output_repeated_splits_test/final_videos_testdia0_utt0.mp4", "unexpected_name"),
        ("train_splits/dia0_utt00.mp4", "unexpected_name"),
        ("train_splits/dia0_utt0.mp3", "unexpected_name"),
        ("train_splits/take 2.wav", "unexpected_name"),
        ("train_splits/dia0_utt0.avi", "unexpected_name"),
        ("dia0_utt0.mp4", "unexpected_folder"),
        ("clips/dia0_utt0.mp4", "unexpected_folder"),
        ("dev/dia66_utt9.mp4", "orphan"),
    ],
)
def test_other_clips_are_rejected(tmp_path, path, reason):
    plain(tmp_path)
    put(tmp_path / path, b"")
    *utterances, rejection = sorted(meld.read(tmp_path), key=lambda item: isinstance(item, Rejection))
    assert (rejection.path, rejection.reason) == (path, reason)
    assert len(utterances) == 3
    assert all(item.video_path is None for item in utterances)


def test_hidden_files_and_other_tables_are_ignored(tmp_path):
    plain(tmp_path)
    put(tmp_path / "train_splits/._dia0_utt0.mp4", b"\0")
    put(tmp_path / "train_sent_emo_dya.csv", "no such columns")
    put(tmp_path / "README.txt", "")
    assert [type(item) for item in meld.read(tmp_path)] == [Utterance] * 3


def test_second_copies_of_a_table_or_a_clip_are_reported(tmp_path):
    plain(tmp_path)
    put(tmp_path / "train/train_sent_emo.csv", table(row(), row(2, 5, 5)))
    for path in ("train/dia0_utt0.mp4", "train/train_splits/dia0_utt0.mp4"):
        put(tmp_path / path, b"")
    rows = list(meld.read(tmp_path))
    assert Counter(type(item) for item in rows) == {Utterance: 3, Rejection: 2}
    assert {item.path: item.reason for item in rows if isinstance(item, Rejection)} == {
        "train/train_splits/dia0_utt0.mp4": "duplicate_clip",
        "train/train_sent_emo.csv": "duplicate_table",
    }


def test_a_missing_table_is_reported(tmp_path):
    put(tmp_path / "test_sent_emo.csv", table(row()))
    rows = list(meld.read(tmp_path))
    assert [(item.path, item.reason) for item in rows if isinstance(item, Rejection)] == [
        ("train_sent_emo.csv", "missing_table"),
        ("dev_sent_emo.csv", "missing_table"),
    ]
    assert [item.utterance_id for item in rows if isinstance(item, Utterance)] == ["test_dia0_utt0"]
    (tmp_path / "test_sent_emo.csv").unlink()
    with pytest.raises(CorpusError, match="none of train_sent_emo"):
        list(meld.read(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_older_copy_of_a_table_reads_the_same(tmp_path, encoding, end):
    plain(tmp_path)
    said = "I\u2019m \u2013 \u201cfine\u201d\u2026 he said, Chloé"
    content = table(row(Utterance=said, Speaker="Joey and Chandler"), end=end)
    put(tmp_path / "train_sent_emo.csv", content.encode(encoding))
    if encoding == "cp1252":
        assert b"\x92" in content.encode(encoding)
    train, *_ = meld.read(tmp_path)
    assert (train.transcript, train.speaker) == (said, "Joey and Chandler")


def test_columns_may_be_added_and_reordered(tmp_path):
    plain(tmp_path)
    header = ("Note", *reversed(HEADER))
    put(tmp_path / "train_sent_emo.csv", table(row(Note="seen"), header=header))
    train, *_ = meld.read(tmp_path)
    assert (train.utterance_id, train.label, train.start_s) == ("train_dia0_utt0", "joy", 976.059)


def test_a_table_without_a_column_is_an_error(tmp_path):
    plain(tmp_path)
    put(tmp_path / "dev_sent_emo.csv", "Sr No.,Utterance,Speaker\n1,Hi,Joey\n")
    with pytest.raises(CorpusError, match=r"dev_sent_emo\.csv: no column 'Dialogue_ID'"):
        list(meld.read(tmp_path))


def test_rows_that_cannot_be_read_are_rejected_one_by_one(tmp_path):
    plain(tmp_path)
    whole = table(
        row(1, 0, 0),
        row(2, "zero", 1),
        row(3, 0, ""),
        row(4, "../../etc", 1),
        row(5, 0, 5, Sentiment="mixed"),
        row(6, 0, 6, Season="9" * 4301),
        row(7, 0, 2**31),
        row(8, 0, "9" * 4301),
    )
    put(tmp_path / "train_sent_emo.csv", whole + '9,"Cut in ha')
    rows = list(meld.read(tmp_path))
    rejections = [item for item in rows if isinstance(item, Rejection)]
    assert [item.utterance_id for item in rows if isinstance(item, Utterance)][:2] == [
        "train_dia0_utt0",
        "train_dia0_utt6",
    ]
    assert [(item.path, item.reason) for item in rejections] == [("train_sent_emo.csv", "bad_row")] * 7
    assert "'zero'" in rejections[0].detail
    assert "sentiment 'mixed'" in rejections[3].detail
    assert all("\n" not in item.detail for item in rejections)


def test_empty_cells_are_none(tmp_path):
    plain(tmp_path)
    empty = dict.fromkeys(("Utterance", "Speaker", "Emotion", "Sentiment", "Season", "StartTime"), "")
    put(tmp_path / "train_sent_emo.csv", table(row(**empty)))
    train, *_ = meld.read(tmp_path)
    assert train == Utterance(
        utterance_id="train_dia0_utt0",
        corpus="meld",
        audio_path="train/dia0_utt0.mp4",
        language="en",
        dialogue="train_dia0",
        turn=0,
        split="train",
    )


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("0:12:32,632", "0:12:32,632", (752.632, 752.632)),
        ("00:16:16,059", "00:16:21.731", (976.059, 981.731)),
        ("01:00:00,5", "01:00:01,000", (3600.5, 3601.0)),
        ("00:16:16,059", "", (None, None)),
        ("16:16", "00:16:21,731", (None, None)),
        ("00:16:76,059", "00:16:21,731", (None, None)),
        ("nan", "00:16:21,731", (None, None)),
    ],
)
def test_times_are_those_of_the_label_in_its_episode(tmp_path, start, end, expected):
    plain(tmp_path)
    put(tmp_path / "train_sent_emo.csv", table(row(StartTime=start, EndTime=end)))
    train, *_ = meld.read(tmp_path)
    assert (train.start_s, train.end_s) == expected
    assert train.cut is False


def test_links_out_of_the_folder_are_refused(tmp_path, tone):
    root = tmp_path / "root"
    plain(root)
    put(tmp_path / "elsewhere/dia0_utt0.wav", tone())
    put(tmp_path / "elsewhere/dev_sent_emo.csv", table(row(1, 7, 7)))
    put(root / "train/dia1_utt0.wav", tone())
    put(root / "train_sent_emo.csv", table(row(1, 0, 0), row(2, 1, 0)))
    (root / "train/dia0_utt0.wav").symlink_to(tmp_path / "elsewhere/dia0_utt0.wav")
    (root / "dev").symlink_to(tmp_path / "elsewhere")
    summary, rejected = prepare_meld(root, tmp_path / "out")
    assert rejected["dev"] == "outside_root"
    assert rejected["train/dia0_utt0.wav"] == "outside_root"
    assert summary["n_utterances"] == 1
    (root / "dev_sent_emo.csv").unlink()
    (root / "dev_sent_emo.csv").symlink_to(tmp_path / "elsewhere/dev_sent_emo.csv")
    with pytest.raises(CorpusError, match="points outside the corpus folder"):
        list(meld.read(root))


def test_a_small_release_with_every_oddity(tmp_path, tone):
    root = tmp_path / "MELD.Raw"
    train = [
        row(1, 0, 0, Emotion="neutral", Sentiment="neutral"),
        row(2, 0, 1, Emotion="surprise", Sentiment="negative", Speaker="All"),
        row(3, 125, 3, Emotion="anger", Sentiment="negative"),
        row(4, 1, 0, Emotion="fear", Sentiment="negative", StartTime="?"),
        row(5, 1, 0, Emotion="sadness", Sentiment="negative"),  # twice
    ]
    put(root / "train/train_sent_emo.csv", table(*train) + "6,Broken\n")
    put(root / "dev_sent_emo.csv", table(row(1, 0, 0, Emotion="disgust"), row(2, 110, 7), end="\r\n"))
    put(root / "test_sent_emo.csv", "\ufeff" + table(row(1, 0, 0, Emotion="bored"), row(2, 155, 3)))
    video = mp4(tmp_path)
    for path in (
        "train/train_splits/dia0_utt0.mp4",
        "train/train_splits/dia0_utt1.mp4",
        "dev_splits_complete/dia0_utt0.mp4",
        "dev_splits_complete/dia66_utt9.mp4",
        "output_repeated_splits_test/dia0_utt0.mp4",
        "output_repeated_splits_test/final_videos_testdia0_utt0.mp4",
    ):
        put(root / path, video)
    put(root / "train/train_splits/dia125_utt3.mp4", video[: len(video) // 3])
    put(root / "train/train_splits/dia0_utt1.wav", tone(0.4, 16000))
    put(root / "train/train_splits/dia1_utt0.wav", tone(0.3, 16000))
    put(root / "train/train_splits/._dia0_utt0.mp4", b"\0")
    put(root / "output_repeated_splits_test/dia155_utt3.flac", tone(0.2, 16000, container="FLAC"))
    summary, rejected = prepare_meld(root, tmp_path / "out")
    assert rejected == {
        "train/train_splits/dia1_utt0.wav": "duplicate_id",
        "train/train_splits/dia125_utt3.mp4": "unreadable",
        "train/train_sent_emo.csv": "bad_row",
        "dev_splits_complete/dia110_utt7.mp4": "missing_audio",
        "dev_splits_complete/dia66_utt9.mp4": "orphan",
        "output_repeated_splits_test/final_videos_testdia0_utt0.mp4": "unexpected_name",
    }
    assert (summary["n_found"], summary["n_utterances"]) == (12, 6)
    assert summary["labels"] == {"bored": 1, "disgust": 1, "fear": 1, "joy": 1, "neutral": 1, "surprise": 1}
    assert summary["tasks"]["meld_7"]["unmapped"] == 1
    assert summary["tasks"]["meld_sentiment_3"] == {"negative": 2, "neutral": 1, "positive": 3, "unmapped": 0}
    durations = {item["utterance_id"]: item["duration_s"] for item in load(tmp_path / "out").dataset}
    assert durations["train_dia0_utt1"] == 0.4  # the WAV, not the video
    assert durations["train_dia0_utt0"] == pytest.approx(0.5, abs=0.13)
    kept, rejected = prepare_meld(root, tmp_path / "kept", keep_missing_audio=True)
    assert kept["n_utterances"] == 7
    assert kept["n_without_audio"] == 1
    assert "dev_splits_complete/dia110_utt7.mp4" not in rejected


def test_an_id_gives_neither_speaker_nor_session():
    assert meld.facts("train_dia0_utt0") == Facts()
    for other in ("dia0_utt0", "valid_dia0_utt0", "train_dia0_utt0.wav", "train_dia00_utt0", "Ses01F_impro01_F000"):
        assert meld.facts(other) is None
