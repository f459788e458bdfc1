from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from small_release import prepare, put

from lalm_mer.core.errors import CorpusError, SplitLeakError
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import emodb
from lalm_mer.corpora.base import load_tasks
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, make_folds

PROTOCOL = Path(__file__).resolve().parents[3] / "eval" / "protocols" / "emodb_speakers_5fold.yaml"
SPEAKERS = {  # from the documentation of the corpus
    "03": ("male", 31), "08": ("female", 34), "09": ("female", 21), "10": ("male", 32), "11": ("male", 26),
    "12": ("male", 30), "13": ("female", 32), "14": ("female", 35), "15": ("male", 25), "16": ("female", 31),
}  # fmt: skip
CLIPS = [
    "03a01Fa", "03a01Nc", "03a01Wa", "08a02La", "09a04Ed", "10a05Aa", "11a07Ta", "12b01Wc", "13b02Lb", "14b03Fb",
    "15b09Nb", "16b10Td", "16b10Tf", "16b10Wa",
]  # fmt: skip


@pytest.fixture
def release(tmp_path, tone):
    root = tmp_path / "emodb"
    for place, clip in enumerate(CLIPS):
        put(root / f"wav/{clip}.wav", tone(hertz=200 + place))
    put(root / "lablaut/03a01Fa.lablaut", b"signal 03a01Fa\n")
    put(root / "labsilb/03a01Fa.labsilb", b"signal 03a01Fa\n")
    put(root / "silb/03a01Fa.silb", b"0.0 der\n")
    put(root / "erkennung.txt", "Satz;erkannt;natürlich\r\n03a01Fa.wav;90,00;100,00\r\n".encode("cp1252"))
    put(root / "erklaerung.txt", "für".encode("cp1252"))
    return root


def test_the_name_fills_every_column(tmp_path, tone):
    put(tmp_path / "wav/16b03La.wav", tone())
    assert list(emodb.read(tmp_path)) == [
        Utterance(
            utterance_id="16b03La",
            corpus="emodb",
            audio_path="wav/16b03La.wav",
            transcript="An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
            transcript_source="human",
            speaker="16",
            gender="female",
            age=31,
            language="de",
            script="b03",
            label="boredom",
        )
    ]


def test_a_complete_release_is_prepared(release, tmp_path):
    summary, rows, rejected = prepare(emodb, release, tmp_path / "out", keep_missing_audio=True)
    assert (summary["n_found"], summary["n_utterances"], summary["n_without_audio"], rejected) == (14, 14, 0, [])
    assert summary["labels"] == {
        "anger": 3, "boredom": 2, "disgust": 1, "fear": 1, "happiness": 2, "neutral": 2, "sadness": 3,
    }  # fmt: skip
    assert summary["tasks"]["emodb_7"] == {
        "neutral": 2, "happy": 2, "sad": 3, "angry": 3, "fearful": 1, "disgust": 1, "bored": 2, "unmapped": 0,
    }  # fmt: skip
    assert {row["speaker"]: (row["gender"], row["age"]) for row in rows.values()} == SPEAKERS
    assert len({row["transcript"] for row in rows.values()}) == len({row["script"] for row in rows.values()}) == 10
    assert {row["ratings"] for row in rows.values()} == {None}


def test_each_oddity_is_rejected_with_its_reason(release, tmp_path, tone):
    put(tmp_path / "elsewhere/03a02Wb.wav", tone())
    (release / "wav" / "03a02Wb.wav").symlink_to(tmp_path / "elsewhere" / "03a02Wb.wav")
    (release / "more").symlink_to(tmp_path / "elsewhere")
    put(release / "wav/03a01Fa.flac", tone(container="FLAC"))
    put(release / "copy/16b10Wa.wav", tone())
    put(release / "wav/03a02Wc.wav", b"")
    put(release / "wav/03a02Na.wav", tone()[:60])
    put(release / "wav/03A02FA.wav", tone())
    summary, rows, rejected = prepare(emodb, release, tmp_path / "out", keep_missing_audio=True)
    assert Counter(row["reason"] for row in rejected) == summary["rejected"]
    assert summary["rejected"] == {
        "outside_root": 2, "duplicate_id": 2, "empty": 1, "truncated": 1, "unexpected_name": 1,
    }  # fmt: skip
    assert (summary["n_found"], len(rows)) == (21, 14)


@pytest.mark.parametrize(
    "name",
    [
        "wav/03A01FA.wav", "wav/03a01fa.wav", "wav/04a01Fa.wav", "wav/03a03Fa.wav", "wav/03a01Xa.wav", "wav/03a01F.wav",
        "wav/03a01Fab.wav", "wav/3a01Fa.wav", "wav/03a01Fa.mp3", "wav/03a01Fa (1).wav", "stray.wav",
    ],
)  # fmt: skip
def test_other_names_are_rejected(tmp_path, name):
    put(tmp_path / name, b"")
    (rejection,) = emodb.read(tmp_path)
    assert isinstance(rejection, Rejection)
    assert (rejection.path, rejection.reason) == (name, "unexpected_name")


def test_clips_are_found_in_any_folder_and_other_files_ignored(tmp_path, tone):
    for path in ("download/wav/03a01Fa.WAV", "03a01Nc.wav"):
        put(tmp_path / path, tone())
    for path in ("README", "wav/._03a01Wa.wav", "wav/Thumbs.db"):
        put(tmp_path / path, b"\0")
    assert [row.audio_path for row in emodb.read(tmp_path)] == ["03a01Nc.wav", "download/wav/03a01Fa.WAV"]


def test_a_root_that_is_not_a_folder_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="expected a folder"):
        list(emodb.read(tmp_path / "nothing"))


def test_a_folder_without_audio_is_an_error(tmp_path):
    put(tmp_path / "emodb/erkennung.txt", b"")
    with pytest.raises(CorpusError, match="found no audio files"):
        prepare(emodb, tmp_path / "emodb", tmp_path / "out", keep_missing_audio=True)


def test_facts_are_those_of_the_reader(release):
    for row in emodb.read(release):
        assert emodb.facts(row.utterance_id) == Facts(row.speaker, None, row.script)
    assert emodb.facts("1001_DFA_ANG_XX") is emodb.facts("03a01Fa.wav") is emodb.facts("") is None


# The protocol is tested with every sentence and emotion of every speaker, since the list of clips is not available.


def table(clips):
    return pd.DataFrame(
        [
            {
                "utterance_id": clip,
                "speaker": emodb.facts(clip).speaker,
                "session": None,
                "script": emodb.facts(clip).script,
                "transcript": emodb.facts(clip).script,
                "audio": clip,
            }
            for clip in clips
        ]
    )


def test_folds_hold_out_a_man_and_a_woman():
    sentences = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
    clips = [f"{speaker}{sentence}{letter}a" for speaker in SPEAKERS for sentence in sentences for letter in "WLEAFTN"]
    folds = make_folds(table(clips), load_protocol(PROTOCOL))
    for fold in range(1, 6):
        splits = {split: {name[:2] for name in folds.ids(fold, split)} for split in SPLITS}
        assert [len(splits[split]) for split in SPLITS] == [6, 2, 2]
        for split in ("dev", "test"):
            assert sorted(SPEAKERS[speaker][0] for speaker in splits[split]) == ["female", "male"]
    assert folds.n_tested() == 700
    assert folds.shared == {"script": 10, "transcript": 10}
    assert len(folds.departures()) == 15  # 535 clips were released, not these 700


def test_known_splits_add_up_to_the_release():
    known = load_protocol(PROTOCOL).known
    assert sum(splits["test"].n for splits in known.values()) == 535
    assert all(sum(split.n for split in splits.values()) == 535 for splits in known.values())
    assert all(known[fold]["dev"] == known[fold % 5 + 1]["test"] for fold in known)


def test_one_recording_under_two_speakers_is_a_leak():
    clips = table([f"{speaker}a01Wa" for speaker in SPEAKERS]).assign(audio="the same")
    with pytest.raises(SplitLeakError, match="audio are in two splits"):
        make_folds(clips, load_protocol(PROTOCOL))


def test_the_task_maps_every_label():
    task = load_tasks("emodb")["emodb_7"]
    labels = ("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral")
    assert sorted(task.label_of(label) for label in labels) == sorted(task.labels.labels)
