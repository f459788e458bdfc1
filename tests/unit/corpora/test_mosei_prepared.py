import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from mosei_release import (
    CALM,
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
    said,
)
from small_release import mp4, prepare, put

from lalm_mer.core.audio import decode
from lalm_mer.core.schema import Facts
from lalm_mer.corpora import load, mosei
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS

pytest.importorskip("h5py", reason="the extra `mosei` is not installed")


def small_release(root, tmp_path, tone):
    """Twelve utterances that can be decoded, and every irregularity that was found in the release."""
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


def test_every_irregularity_is_reported_and_counted(prepared):
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


def test_the_audio_is_that_of_the_interval(prepared):
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
def test_the_official_lists_assign_videos_to_splits(prepared, name):
    corpus, *_ = prepared
    protocol = load_protocol(PROTOCOLS / f"{name}.yaml")
    may_lack = {split: list(protocol.resolve_task(corpus.tasks).labels.labels) for split in SPLITS}  # it has 12 rows
    folded = fold_corpus(corpus, replace(protocol, may_lack=may_lack))
    assert folded.unmapped == 1
    splits = {split: {i.rpartition("_")[0] for i in folded.folds.ids(1, split)} for split in SPLITS}
    assert splits == {"train": {TRAIN, TRAIN_NUMBER}, "dev": {DEV}, "test": {TEST, TEST_DASH}}
    assert [len(folded.folds.ids(1, split)) for split in SPLITS] == [5, 3, 2]  # the unlisted video is in no split
    assert len(folded.folds.departures()) == 3
    assert folded.folds.unknown["session"] == 0


def test_the_official_lists_are_complete():
    assert list(LISTED.columns) == ["session", "split"]
    assert LISTED["split"].value_counts().to_dict() == {"train": 2249, "test": 678, "dev": 300}
    assert LISTED["session"].is_unique
    assert list(LISTED["session"]) == sorted(LISTED["session"])
    assert all(mosei.facts(f"{video}_0") == Facts(session=video) for video in LISTED["session"])
    known = load_protocol(PROTOCOLS / "mosei_sentiment_7_official.yaml").known[1]
    assert {split: known_split.n for split, known_split in known.items()} == {"train": 16327, "dev": 1871, "test": 4662}
