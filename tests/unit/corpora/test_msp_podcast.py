import itertools
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from small_release import prepare, put

from lalm_mer.core.errors import CorpusError, SplitLeakError
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import msp_podcast
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.msp_podcast import facts, read
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, make_folds

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"
HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
ROWS = """MSP-PODCAST_0001_0008,N,2.2,4.0,2.6,30,Male,Train
MSP-PODCAST_0001_0009,H,5.0,6.5,4.0,31,Female,Train
MSP-PODCAST_0002_0001,A,6.0,1.5,6.0,32,Male,Train
MSP-PODCAST_0002_0002,X,4.0,4.0,4.0,Unknown,Unknown,Train
MSP-PODCAST_0003_0001_0002,S,2.0,2.0,3.0,33,Female,Development
MSP-PODCAST_0003_0004,O,4.0,4.0,4.0,33,Female,Development
MSP-PODCAST_0004_0001,U,5.0,5.0,4.0,34,Male,Test1
MSP-PODCAST_0004_0002,N,3.0,3.5,NA,34,Male,Test1
MSP-PODCAST_0005_0001,F,5.0,2.0,2.0,Unknown,Female,Test2
MSP-PODCAST_0005_0002,D,4.0,2.0,4.0,Unknown,Female,Test2
MSP-PODCAST_0005_0003,C,4.0,2.0,5.0,Unknown,Male,Test2"""
NAMES = [row.split(",")[0] for row in ROWS.splitlines()]
DETAILED = """FileName,Worker,EmoClass_Major,EmoClass_Second,EmoAct,EmoDom,EmoVal,Gender
MSP-PODCAST_0001_0008.wav,WORKER1,Neutral,"Neutral,Calm",2,3,4,Male
MSP-PODCAST_0001_0008.wav,WORKER2,Neutral,Neutral,2,3,4,Male
MSP-PODCAST_0001_0008.wav,WORKER3,Other-Curious,"Other-Curious,Happy",3,3,5,Male
MSP-PODCAST_0001_0009.wav,WORKER1,Happy,Excited,5,4,6,Female
MSP-PODCAST_0001_0009.wav,WORKER2,,Excited,5,4,6,Female
"""
CELLS = """FileName,EmoDetail
MSP-PODCAST_0001_0008.wav,"WORKER1; Neutral; Neutral,Calm; A:2.0; V:4.0; D:3.0;"
MSP-PODCAST_0001_0008.wav,"WORKER2; Neutral; A:2.0; V:4.0; D:3.0;"
MSP-PODCAST_0001_0008.wav,"WORKER3; Other-Curious; Other-Curious,Happy; A:3.0; V:5.0; D:3.0;"
MSP-PODCAST_0001_0009.wav,"WORKER1; Happy; Excited; A:5.0; V:6.0; D:4.0;"
"""


def consensus(rows=ROWS):
    """The rows with the suffix of the file names of the release."""
    return "\n".join([HEADER, *(row.replace(",", ".wav,", 1) for row in rows.splitlines())]) + "\n"


@pytest.fixture
def release(tmp_path, tone):
    """A function that makes a miniature release in its layout, of twelve utterances unless given."""

    def make(labels=None, detailed=DETAILED, folder="Audios", root=tmp_path / "release"):
        put(root / "Labels/labels_consensus.csv", consensus() if labels is None else labels)
        if detailed is not None:
            put(root / "Labels/labels_detailed.csv", detailed)
        for number, name in enumerate((*NAMES, "MSP-PODCAST_test3_0001")):
            put(root / f"{folder}/{name}.wav", tone(hertz=200 + 10 * number))
            put(root / f"Transcripts/{name}.txt", f"Synthetic words number {number}.\n")
        return root

    return make


def utterances(root):
    return {row.utterance_id: row for row in read(root) if isinstance(row, Utterance)}


def rejections(root):
    return [row for row in read(root) if isinstance(row, Rejection)]


def test_an_utterance_has_all_values_of_the_release(release):
    found = utterances(release())
    assert found["MSP-PODCAST_0001_0008"] == Utterance(
        utterance_id="MSP-PODCAST_0001_0008",
        corpus="msp_podcast",
        audio_path="Audios/MSP-PODCAST_0001_0008.wav",
        transcript="Synthetic words number 0.",
        transcript_source="human",
        speaker="30",
        gender="male",
        language="en",
        session="0001",
        split="Train",
        label="N",
        ratings={"Neutral": 2, "Other-Curious": 1},
        valence=4.0,
        arousal=2.2,
        dominance=2.6,
    )
    assert list(found) == [*NAMES, "MSP-PODCAST_test3_0001"]
    assert found["MSP-PODCAST_0001_0009"].ratings == {"Happy": 1}  # a rater without a primary class has no vote
    assert found["MSP-PODCAST_0002_0001"].ratings is None
    assert found["MSP-PODCAST_0003_0001_0002"].session == "0003"


def test_unknown_values_stay_missing(release):
    found = utterances(release())
    assert (found["MSP-PODCAST_0002_0002"].speaker, found["MSP-PODCAST_0002_0002"].gender) == (None, None)
    assert found["MSP-PODCAST_0004_0002"].dominance is None
    assert found["MSP-PODCAST_0004_0002"].valence == 3.5


def test_test3_has_audio_and_no_labels(release):
    row = utterances(release())["MSP-PODCAST_test3_0001"]
    assert (row.split, row.label, row.speaker, row.session, row.valence) == ("Test3", None, None, None, None)
    assert row.transcript == "Synthetic words number 11."


@pytest.mark.parametrize("detailed", [DETAILED, CELLS])
def test_both_layouts_of_the_raters_table(release, detailed):
    found = utterances(release(detailed=detailed))
    assert found["MSP-PODCAST_0001_0008"].ratings == {"Neutral": 2, "Other-Curious": 1}
    assert found["MSP-PODCAST_0001_0009"].ratings == {"Happy": 1}


def test_a_raters_table_of_another_layout_is_an_error(release):
    with pytest.raises(CorpusError, match="no column 'EmoClass_Major' or 'EmoDetail', found FileName, Emotion"):
        utterances(release(detailed="FileName,Emotion\nMSP-PODCAST_0001_0008.wav,Neutral\n"))


def test_without_the_raters_table_there_are_no_ratings(release):
    assert {row.ratings for row in utterances(release(detailed=None)).values()} == {None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MSP-PODCAST_0023_0048", Facts(session="0023")),
        ("MSP-PODCAST_6021_0003_0001", Facts(session="6021")),
        ("MSP-PODCAST_test3_0048", Facts()),
        ("MSP-PODCAST_0023", None),
        ("Ses01F_impro01_F000", None),
    ],
)
def test_facts_of_an_id(name, expected):
    assert facts(name) == expected


def test_every_file_of_the_miniature_release_is_kept_or_rejected(release, tmp_path, tone):
    root = release(consensus() + "MSP-PODCAST_0009_0001.wav,N,4,4,4,40,Male,Train\nMSP-PODCAST_0009_0002.wav,N,4,4\n")
    put(root / "Audios/MSP-PODCAST_0010_0001.wav", tone())
    put(root / "Audios/._MSP-PODCAST_0001_0008.wav", b"\0")
    put(root / "Audio/MSP-PODCAST_0001_0008.wav", tone())  # read first, by the name of its folder
    put(root / "Transcripts/MSP-PODCAST_0011_0001.txt", "Nobody.")
    put(root / "Previous_releases_information/files_removed/MSP-PODCAST_0012_0001.wav", tone())
    put(root / "Previous_releases_information/1.10/Labels/labels_consensus.csv", consensus())
    with (root / "Labels/labels_detailed.csv").open("a") as table:
        table.write("MSP-PODCAST_0013_0001.wav,WORKER1,Sad,Sad,2,3,2,Male\nMSP-PODCAST_0001_0008.wav,WORK")
    (root / "Audios/MSP-PODCAST_0002_0001.wav").unlink()
    put(tmp_path / "outside.wav", tone())
    (root / "Audios/MSP-PODCAST_0002_0001.wav").symlink_to(tmp_path / "outside.wav")
    summary, rows, rejected = prepare(msp_podcast, root, tmp_path / "out")
    assert (summary["n_found"], summary["n_utterances"], summary["n_rejected"]) == (19, 12, 7)
    assert sorted((row["path"], row["reason"]) for row in rejected) == [
        ("Audios/MSP-PODCAST_0001_0008.wav", "duplicate_id"),
        ("Audios/MSP-PODCAST_0002_0001.wav", "outside_root"),
        ("Audios/MSP-PODCAST_0009_0001.wav", "missing_audio"),
        ("Labels/labels_consensus.csv", "bad_row"),
        ("Labels/labels_detailed.csv", "bad_row"),
        ("Labels/labels_detailed.csv", "orphan"),
        ("Transcripts/MSP-PODCAST_0011_0001.txt", "orphan"),
    ]
    assert summary["labels"] == {"C": 1, "D": 1, "F": 1, "H": 1, "N": 2, "O": 1, "S": 1, "U": 1, "X": 1}
    assert summary["speakers"] == {"30": 1, "31": 1, "33": 2, "34": 2}
    tasks = summary["tasks"]
    assert tasks["msp_podcast_4"] == {"A": 0, "S": 1, "H": 1, "N": 2, "unmapped": 8}
    assert tasks["msp_podcast_8"] == {"A": 0, "S": 1, "H": 1, "U": 1, "F": 1, "D": 1, "C": 1, "N": 2, "unmapped": 4}
    assert rows["MSP-PODCAST_0010_0001"]["label"] is None  # no row: kept, in no split
    assert rows["MSP-PODCAST_0010_0001"]["split"] is None
    kept, _, _ = prepare(msp_podcast, root, tmp_path / "kept", keep_missing_audio=True)
    assert (kept["n_utterances"], kept["n_without_audio"], kept["tasks"]["msp_podcast_4"]["N"]) == (13, 1, 3)


@pytest.mark.parametrize(
    "row",
    [
        "MSP-PODCAST_0009_0001.wav,N,4,4,4,40,Male,Tr",
        "MSP-PODCAST_0009_0001.wav,N,4,4,4,40,Male,Test",
        "../outside.wav,N,4,4,4,40,Male,Train",
        "MSP-PODCAST_0009_0001.wav,N,4,4,4,40",
        ",N,4,4,4,40,Male,Train",
    ],
)
def test_only_the_bad_row_is_rejected(release, row):
    root = release(consensus() + row)
    (rejection,) = rejections(root)
    assert (rejection.path, rejection.reason) == ("Labels/labels_consensus.csv", "bad_row")
    assert row[:20] in rejection.detail
    assert len(utterances(root)) == 12


def test_a_truncated_vote_is_rejected(release):
    root = release(detailed=CELLS + 'MSP-PODCAST_0001_0009.wav,"WORKER2; Hap')
    (rejection,) = rejections(root)
    assert (rejection.path, rejection.reason) == ("Labels/labels_detailed.csv", "bad_row")
    assert utterances(root)["MSP-PODCAST_0001_0009"].ratings == {"Happy": 1}


def test_a_duplicate_row_is_rejected_once(release, tmp_path):
    root = release(consensus() + "MSP-PODCAST_0001_0008.wav,A,1,1,1,30,Male,Train\n")
    summary, _, _ = prepare(msp_podcast, root, tmp_path / "out")
    assert (summary["n_utterances"], summary["rejected"], summary["labels"]["N"]) == (12, {"duplicate_id": 1}, 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_encodings_line_ends_and_a_further_column(release, encoding):
    labels = [f"{line},{'Note' if number == 0 else 'café'}" for number, line in enumerate(consensus().splitlines())]
    root = release("\r\n".join(labels).encode(encoding))
    put(root / f"Transcripts/{NAMES[0]}.txt", "“Café”…\r\n and more\r\n".encode(encoding))
    put(root / f"Transcripts/{NAMES[1]}.txt", "\r\n".encode(encoding))
    found = utterances(root)
    assert not rejections(root)
    assert [found[name].transcript for name in NAMES[:2]] == ["“Café”… and more", None]
    assert found[NAMES[1]].transcript_source is None
    assert [row.label for row in found.values()] == [*"NHAXSOUNFDC", None]


def test_an_older_release_names_its_folder_audio_and_may_be_nested(release, tmp_path):
    release(
        consensus() + "MSP-PODCAST_0009_0001.wav,N,4,4,4,40,Male,Train\n", folder="Audio", root=tmp_path / "a" / "b"
    )
    found = utterances(tmp_path / "a")
    assert len(found) == 13
    assert {row.audio_path for row in found.values()} == {f"b/Audio/{name}.wav" for name in found}


def test_a_folder_without_labels_or_with_two_releases_is_an_error(release, tmp_path):
    put(tmp_path / "none/Audios/MSP-PODCAST_0001_0008.wav", b"")
    with pytest.raises(CorpusError, match=r"expected one Labels/labels_consensus\.csv .*, found none"):
        list(read(tmp_path / "none"))
    release(root=tmp_path / "two/1.11")
    release(root=tmp_path / "two/1.12")
    with pytest.raises(CorpusError, match=r"found 1\.11/.* and 1\.12/.*; set corpus\.root"):
        list(read(tmp_path / "two"))


@pytest.mark.parametrize(
    "path", ["Labels/labels_consensus.csv", "Labels/labels_detailed.csv", f"Transcripts/{NAMES[0]}.txt"]
)
def test_labels_and_transcripts_linked_outside_the_root_are_refused(release, tmp_path, path):
    root = release()
    (root / path).rename(tmp_path / "outside")
    (root / path).symlink_to(tmp_path / "outside")
    with pytest.raises(CorpusError, match="points outside the corpus folder"):
        list(read(root))


@pytest.fixture
def older_release(release):
    """A miniature of releases 1.6 to 1.8: other names of the tables, the votes in JSON, and the split Validation."""
    root = release(consensus().replace(",Development", ",Validation"), detailed=None, folder="Audio")
    (root / "Labels/labels_consensus.csv").rename(root / "Labels/labels_concensus.csv")
    votes = {
        "MSP-PODCAST_0001_0008.wav": {
            "WORKER1": {"EmoClass_Major": "Neutral", "EmoClass_Second": "Neutral,Calm", "EmoAct": 2.0},
            "WORKER2": {"EmoClass_Major": "Neutral", "EmoClass_Second": "Neutral", "EmoAct": 2.0},
            "WORKER3": {"EmoClass_Major": "Other-Curious", "EmoClass_Second": "Happy", "EmoAct": 3.0},
        },
        "MSP-PODCAST_0001_0009.wav": {"WORKER1": {"EmoClass_Major": "Happy"}, "WORKER2": {"EmoClass_Major": ""}},
    }
    put(root / "Labels/labels_detailed.json", json.dumps(votes))
    return root


def test_releases_1_6_to_1_8(older_release, release, tmp_path):
    found, newer = utterances(older_release), utterances(release(root=tmp_path / "newer"))
    assert not rejections(older_release)
    assert list(found) == list(newer)
    for name, row in found.items():
        split = "Validation" if newer[name].split == "Development" else newer[name].split
        audio_path = str(newer[name].audio_path).replace("Audios/", "Audio/")
        assert row == replace(newer[name], split=split, audio_path=audio_path)


def test_tables_of_earlier_releases_in_a_subfolder_are_not_read(older_release):
    earlier = older_release / "Previous_releases_information" / "1.6" / "Labels" / "labels_concensus.csv"
    put(earlier, consensus(ROWS.replace(",N,", ",A,")))
    assert utterances(older_release)["MSP-PODCAST_0001_0008"].label == "N"


@pytest.mark.parametrize(
    ("votes", "message"),
    [("{", "not valid JSON"), ("[]", "expected an object of file names, found a list"), ("[" * 100_000, "not valid")],
)
def test_votes_in_malformed_json_are_one_line(older_release, votes, message):
    (older_release / "Labels/labels_detailed.json").write_text(votes)
    with pytest.raises(CorpusError, match=rf"labels_detailed\.json: {message}") as caught:
        list(read(older_release))
    assert "\n" not in str(caught.value)


def test_a_vote_in_json_that_cannot_be_read_is_rejected_alone(older_release):
    votes = {"MSP-PODCAST_0001_0008.wav": {"W1": {"EmoClass_Major": "Sad"}, "W2": None, "W3": {}}, "x/y": {"W": {}}}
    votes["MSP-PODCAST_0001_0009.wav"] = []
    (older_release / "Labels/labels_detailed.json").write_text(json.dumps(votes))
    assert [(row.path, row.reason) for row in rejections(older_release)] == [
        ("Labels/labels_detailed.json", "bad_row")
    ] * 4
    assert utterances(older_release)["MSP-PODCAST_0001_0008"].ratings == {"Sad": 1}


ODYSSEY = "FileName,Angry,Sad,Happy,Surprise,Fear,Disgust,Contempt,Neutral,Split_Set"


def odyssey_rows():
    """The rows of the eight classes, as the script of the challenge writes them."""
    for row in ROWS.splitlines():
        cells = row.split(",")
        if cells[1] in "ASHUFDCN":
            yield ",".join([f"{cells[0]}.wav", *(str(float(cells[1] == each)) for each in "ASHUFDCN"), cells[-1]])


@pytest.mark.parametrize("where", ["Labels/processed_labels.csv", "processed_labels.csv"])
def test_the_table_of_the_odyssey_2024_challenge(release, where):
    root = release(detailed=None)
    (root / "Labels/labels_consensus.csv").unlink()
    put(root / where, "\n".join([ODYSSEY, *odyssey_rows(), ""]))
    found = utterances(root)
    assert not rejections(root)
    assert {name: row.label for name, row in found.items() if row.label} == {
        row.split(",")[0]: row.split(",")[1] for row in ROWS.splitlines() if row.split(",")[1] in "ASHUFDCN"
    }
    row = found["MSP-PODCAST_0003_0001_0002"]
    assert (row.label, row.split, row.speaker, row.gender, row.arousal) == ("S", "Development", None, None, None)
    assert found["MSP-PODCAST_test3_0001"].split == "Test3"


@pytest.mark.parametrize("classes", ["1,1,0,0,0,0,0,0", "0,0,0,0,0,0,0,0", "0.5,0.5,0,0,0,0,0,0", "1,,0,0,0,0,0,0"])
def test_an_odyssey_row_without_exactly_one_class_is_rejected_alone(release, classes):
    root = release(detailed=None)
    (root / "Labels/labels_consensus.csv").unlink()
    put(root / "Labels/processed_labels.csv", "\n".join([ODYSSEY, *odyssey_rows(), f"{NAMES[3]}.wav,{classes},Train"]))
    (rejection,) = rejections(root)
    assert (rejection.path, rejection.reason) == ("Labels/processed_labels.csv", "bad_row")
    assert "1 for one class" in rejection.detail


def test_the_consensus_labels_are_read_rather_than_the_table_made_from_them(release):
    root = release()
    put(root / "processed_labels.csv", "\n".join([ODYSSEY, *odyssey_rows()]))
    assert utterances(root)["MSP-PODCAST_0001_0008"].speaker == "30"


def folds_of(root, protocol):
    task = load_tasks("msp_podcast")[protocol.task]
    columns = ("utterance_id", "speaker", "session", "script", "transcript", "split")
    rows = [row for row in read(root) if isinstance(row, Utterance) and task.label_of(row.label)]
    frame = pd.DataFrame([{column: getattr(row, column) for column in columns} for row in rows], dtype=object)
    truths = [task.label_of(row.label) for row in rows]
    return make_folds(frame.assign(audio=frame["utterance_id"], truth=truths), protocol)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("msp_podcast_test1_4", [3, 1, 1]), ("msp_podcast_test1_8", [3, 1, 2]), ("msp_podcast_test2_8", [3, 1, 3])],
)
@pytest.mark.parametrize("is_older", [False, True])
def test_the_official_splits(release, older_release, tmp_path, name, sizes, is_older):
    root = older_release if is_older else release(root=tmp_path / "newer")
    name_of_release = name.replace("podcast_", "podcast_1_8_") if is_older else name
    folds = folds_of(root, load_protocol(PROTOCOLS / f"{name_of_release}.yaml"))
    assert [len(folds.ids(1, split)) for split in SPLITS] == sizes
    unknown = {"msp_podcast_test2_8": " (3 utterances unknown)"}.get(name, "")
    assert folds.describe()[1] == f"train, dev and test are disjoint in: speaker{unknown}; they share: nothing"


def test_folds_of_podcasts_need_no_speakers_and_no_official_test_set(release):
    root = release(detailed=None)
    (root / "Labels/labels_consensus.csv").unlink()
    neutral = [f"MSP-PODCAST_000{podcast}_0099.wav,0,0,0,0,0,0,0,1,Train" for podcast in range(1, 6)]
    put(root / "processed_labels.csv", "\n".join([ODYSSEY, *odyssey_rows(), *neutral]))
    folds = folds_of(root, load_protocol(PROTOCOLS / "msp_podcast_podcasts_5fold_8.yaml"))
    tested = [{name[:16] for name in folds.ids(fold, "test")} for fold in range(1, 6)]
    assert set().union(*tested) == {f"MSP-PODCAST_000{podcast}" for podcast in range(1, 6)}
    assert not any(first & second for first, second in itertools.combinations(tested, 2))


def test_the_development_set_alone_is_scored_zero_shot(release):
    folds = folds_of(release(), load_protocol(PROTOCOLS / "msp_podcast_development_8.yaml"))
    assert folds.ids(1, "test") == ["MSP-PODCAST_0003_0001_0002"]
    assert not folds.has_training


def test_splits_may_share_a_podcast_but_not_a_speaker(release):
    protocol = load_protocol(PROTOCOLS / "msp_podcast_test1_8.yaml")
    shared = "MSP-PODCAST_0001_0010.wav,S,2,2,2,{},Male,Test1\n"
    folds = folds_of(release(consensus() + shared.format(39)), protocol)
    assert folds.shared == {"session": 1}
    with pytest.raises(SplitLeakError, match="1 values of speaker are in two splits, for example '30'"):
        folds_of(release(consensus() + shared.format(30)), protocol)
