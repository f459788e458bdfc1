import csv
import json
import os
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.labels import plurality, vote_distribution
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import crema_d, write_corpus
from lalm_mer.corpora.base import load_tasks
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, make_folds

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"
CHANNELS = {"voice": "VoiceVote", "face": "FaceVote", "both": "MultiModalVote"}

CLIPS = [
    *(f"1001_IEO_{emotion}_{level}" for emotion in ("ANG", "SAD") for level in ("LO", "MD", "HI")),
    *(f"1002_{sentence}_NEU_XX" for sentence in ("DFA", "TSI", "WSI")),
    *(f"1091_ITH_{emotion}_XX" for emotion in ("DIS", "FEA", "HAP")),
]
VOTES_HEADER = ["", "A", "D", "F", "H", "N", "S", "fileName", "numResponses", "agreement"]


def put(root, path, content):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def table(rows, *, end="\n"):
    return "".join(",".join(f'"{cell}"' for cell in row) + end for row in rows).encode()


def votes_of(number, clip, counts):
    return [number, *counts, clip, sum(counts), max(counts) / sum(counts)]


def votes_table(clips):
    rows = [VOTES_HEADER]
    for first, counts in ((100001, (1, 0, 0, 0, 9, 0)), (200001, (5, 5, 0, 0, 0, 0)), (300001, (8, 0, 0, 0, 0, 1))):
        rows += [votes_of(first + place, clip, counts) for place, clip in enumerate(clips)]
    return rows


@pytest.fixture
def release(tmp_path, tone):
    root = tmp_path / "CREMA-D"
    put(root, "SentenceFilenames.csv", table([["Stimulus_Number", "Filename"], *enumerate(CLIPS, start=1)]))
    put(
        root,
        "VideoDemographics.csv",
        table(
            [
                ["ActorID", "Age", "Sex", "Race", "Ethnicity"],
                [1001, 51, "Male", "Caucasian", "Not Hispanic"],
                [1002, 21, "Female", "Unknown", "Hispanic"],
            ]
        ),
    )
    put(root, "processedResults/tabulatedVotes.csv", table(votes_table(CLIPS)))
    for place, clip in enumerate(CLIPS):
        put(root, f"AudioWAV/{clip}.wav", tone(hertz=200 + place))
    return root


def prepare(root, out_dir, **options):
    options = {"keeps_missing": True} | options
    summary = write_corpus(
        crema_d.read(root),
        corpus="crema_d",
        out_dir=out_dir,
        loader_version=crema_d.LOADER_VERSION,
        root=root,
        processes=1,
        **options,
    )
    rows = [row for path in sorted((out_dir / "utterances").iterdir()) for row in pq.read_table(path).to_pylist()]
    rejected = [json.loads(line) for line in (out_dir / "rejected.jsonl").read_text("utf-8").splitlines()]
    return summary, {row["utterance_id"]: row for row in rows}, rejected


def reasons(rows):
    return [(row.path, row.reason) for row in rows if isinstance(row, Rejection)]


def utterances(root):
    return {row.utterance_id: row for row in crema_d.read(root) if isinstance(row, Utterance)}


def test_name_and_tables_tell_every_column(release):
    put(release, "VideoFlash/1002_DFA_NEU_XX.flv", b"FLV")
    assert utterances(release)["1002_DFA_NEU_XX"] == Utterance(
        utterance_id="1002_DFA_NEU_XX",
        corpus="crema_d",
        audio_path="AudioWAV/1002_DFA_NEU_XX.wav",
        transcript="Don't forget a jacket.",
        transcript_source="human",
        speaker="1002",
        gender="female",
        age=21,
        ethnicity="Unknown, Hispanic",
        language="en",
        script="DFA",
        label="NEU",
        ratings={f"voice:{label}": {"A": 1, "N": 9}.get(label, 0) for label in "ADFHNS"}
        | {f"face:{label}": {"A": 5, "D": 5}.get(label, 0) for label in "ADFHNS"}
        | {f"both:{label}": {"A": 8, "S": 1}.get(label, 0) for label in "ADFHNS"},
        video_path="VideoFlash/1002_DFA_NEU_XX.flv",
    )


def test_a_release_is_prepared_whole(release, tmp_path):
    summary, rows, rejected = prepare(release, tmp_path / "out")
    assert (summary["n_found"], summary["n_utterances"], rejected) == (12, 12, [])
    assert summary["labels"] == {"ANG": 3, "SAD": 3, "NEU": 3, "DIS": 1, "FEA": 1, "HAP": 1}
    assert summary["speakers"] == {"1001": 6, "1002": 3, "1091": 3}
    assert {name: counts["unmapped"] for name, counts in summary["tasks"].items()} == {
        "crema_d_6": 0,
        "crema_d_6_voice": 0,
        "crema_d_6_face": 12,  # five to five: nobody's label
        "crema_d_6_both": 0,
    }
    assert summary["tasks"]["crema_d_6_voice"]["neutral"] == summary["tasks"]["crema_d_6_both"]["angry"] == 12
    lacking = rows["1091_ITH_DIS_XX"]  # of an actor whom the table does not list
    assert (lacking["gender"], lacking["age"], lacking["ethnicity"]) == (None, None, None)


def test_what_the_tables_name_is_an_utterance_without_its_audio_too(release, tmp_path):
    (release / "AudioWAV" / f"{CLIPS[0]}.wav").unlink()
    summary, rows, rejected = prepare(release, tmp_path / "kept")
    assert (summary["n_utterances"], summary["n_without_audio"], rejected) == (12, 1, [])
    assert rows[CLIPS[0]]["audio"] is None
    summary, rows, rejected = prepare(release, tmp_path / "rejected", keeps_missing=False)
    assert (summary["n_utterances"], [(row["path"], row["reason"]) for row in rejected]) == (
        11,
        [(f"AudioWAV/{CLIPS[0]}.wav", "missing_audio")],
    )


def test_audio_alone_is_a_release(release):
    for name in ("SentenceFilenames.csv", "VideoDemographics.csv", "processedResults/tabulatedVotes.csv"):
        (release / name).unlink()
    found = utterances(release)
    assert sorted(found) == sorted(CLIPS)
    assert {(row.ratings, row.gender, row.age, row.ethnicity) for row in found.values()} == {(None, None, None, None)}


def test_clips_are_found_in_any_table_or_on_disk(release, tone):
    put(release, "SentenceFilenames.csv", table([["Stimulus_Number", "Filename"], [1, "1003_DFA_ANG_XX"]]))
    put(release, "AudioWAV/1004_DFA_ANG_XX.wav", tone())
    found = utterances(release)
    assert set(found) == {*CLIPS, "1003_DFA_ANG_XX", "1004_DFA_ANG_XX"}
    assert found["1003_DFA_ANG_XX"].ratings is found["1004_DFA_ANG_XX"].ratings is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("AudioWAV/1001_dfa_ang_xx.wav", "unexpected_name"),
        ("AudioWAV/1000_DFA_ANG_XX.wav", "unexpected_name"),
        ("AudioWAV/1092_DFA_ANG_XX.wav", "unexpected_name"),
        ("AudioWAV/1001_ABC_ANG_XX.wav", "unexpected_name"),
        ("AudioWAV/1001_DFA_CAL_XX.wav", "unexpected_name"),
        ("AudioWAV/1001_DFA_ANG_X.wav", "unexpected_name"),
        ("AudioWAV/1001_DFA_ANG_XX.ogg", "unexpected_name"),
        ("AudioWAV/1001_DFA_ANG_XX (1).wav", "unexpected_name"),
        ("VideoFlash/video.flv", "unexpected_name"),
        ("processedresults/tabulatedVotes.csv", "unexpected_name"),
        ("videodemographics.CSV", "unexpected_name"),
        ("audiowav/1001_DFA_ANG_XX.wav", "folder_mismatch"),
        ("CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav", "folder_mismatch"),
        ("1001_DFA_ANG_XX.wav", "folder_mismatch"),
        ("AudioMP3/1001_DFA_ANG_XX.mp3", "other_encoding"),
    ],
)
def test_what_is_no_clip_of_the_release_is_rejected(release, path, reason):
    put(release, path, b"")
    assert reasons(crema_d.read(release)) == [(path, reason)]
    assert set(utterances(release)) == set(CLIPS)


def test_other_files_are_nobodys_business(release):
    for path in ("README.md", "finishedResponses.csv", "processedResults/summaryTable.csv", "AudioWAV/._1.wav"):
        put(release, path, b"\0")
    assert reasons(crema_d.read(release)) == []


def test_the_file_that_older_copies_misname_is_its_clip(release, tone):
    put(release, "AudioWAV/1040_ITH_SAD_X.wav", tone())
    assert utterances(release)["1040_ITH_SAD_XX"].audio_path == "AudioWAV/1040_ITH_SAD_X.wav"


def test_a_clip_that_lies_there_twice_is_kept_once(release, tmp_path, tone):
    put(release, f"AudioWAV/{CLIPS[0]}.flac", tone(container="FLAC"))
    put(release, f"AudioWAV/{CLIPS[1]}.WAV", tone())
    summary, rows, rejected = prepare(release, tmp_path / "out")
    assert (summary["n_found"], len(rows)) == (14, 12)
    assert Counter(row["reason"] for row in rejected) == {"duplicate_id": 2}


def test_a_link_of_git_lfs_is_no_audio(release, tmp_path):
    put(release, f"AudioWAV/{CLIPS[0]}.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    _, rows, rejected = prepare(release, tmp_path / "out")
    assert len(rows) == 11
    assert [(row["path"], row["reason"]) for row in rejected] == [(f"AudioWAV/{CLIPS[0]}.wav", "unreadable")]


def test_links_out_of_the_release_are_refused(release, tmp_path, tone):
    put(tmp_path, "elsewhere/secret.wav", tone())
    (release / "AudioWAV" / f"{CLIPS[0]}.wav").unlink()
    (release / "AudioWAV" / f"{CLIPS[0]}.wav").symlink_to(tmp_path / "elsewhere" / "secret.wav")
    (release / "more").symlink_to(tmp_path / "elsewhere")
    _, rows, rejected = prepare(release, tmp_path / "out")
    assert len(rows) == 11
    assert {(row["path"], row["reason"]) for row in rejected} == {
        (f"AudioWAV/{CLIPS[0]}.wav", "outside_root"),
        ("more", "outside_root"),
    }


@pytest.mark.parametrize("target", ["elsewhere.csv", "nowhere.csv"])
def test_a_table_that_leads_out_of_the_release_or_nowhere_is_an_error(release, tmp_path, target):
    put(tmp_path, "elsewhere.csv", (release / "VideoDemographics.csv").read_bytes())
    (release / "VideoDemographics.csv").unlink()
    (release / "VideoDemographics.csv").symlink_to(tmp_path / target)
    with pytest.raises(CorpusError, match="leads out of the corpus folder"):
        list(crema_d.read(release))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.replace(b'"', b""),
        lambda content: content.replace(b"\n", b',"more"\n'),
        lambda content: content + b"\n\n",
    ],
)
def test_tables_written_otherwise_say_the_same(release, change):
    expected = list(crema_d.read(release))
    for name in ("SentenceFilenames.csv", "VideoDemographics.csv", "processedResults/tabulatedVotes.csv"):
        put(release, name, change((release / name).read_bytes()))
    assert list(crema_d.read(release)) == expected


def test_windows_characters_are_read(release):
    content = (release / "VideoDemographics.csv").read_bytes()
    put(release, "VideoDemographics.csv", content.replace(b"Caucasian", "Café".encode("cp1252")))
    assert utterances(release)[CLIPS[0]].ethnicity == "Café, Not Hispanic"


def test_a_row_cut_in_half_is_rejected_and_the_rest_stays(release):
    content = (release / "processedResults/tabulatedVotes.csv").read_bytes()
    put(release, "processedResults/tabulatedVotes.csv", content[: content.rindex(b"1091")])
    assert reasons(crema_d.read(release)) == [("processedResults/tabulatedVotes.csv", "bad_row")]
    cut, whole = utterances(release)[CLIPS[-1]], utterances(release)[CLIPS[-2]]
    assert {key.partition(":")[0] for key in cut.ratings} == {"voice", "face"}
    assert len(whole.ratings) == 18


@pytest.mark.parametrize(
    ("name", "row", "detail"),
    [
        ("SentenceFilenames.csv", [13, "1001_ABC_ANG_XX"], "is no clip of CREMA-D"),
        ("SentenceFilenames.csv", [13, CLIPS[0]], "stands there twice"),
        ("VideoDemographics.csv", [1092, 21, "Male", "Asian", "Not Hispanic"], "is no actor of CREMA-D"),
        ("VideoDemographics.csv", [1001, 21, "Male", "Asian", "Not Hispanic"], "stands there twice"),
        ("VideoDemographics.csv", [1091, "old", "Male", "Asian", "Not Hispanic"], "age 'old'"),
        ("VideoDemographics.csv", [1091, 21, "M", "Asian", "Not Hispanic"], "sex 'M'"),
        ("processedResults/tabulatedVotes.csv", votes_of(100099, CLIPS[0], (9, 0, 0, 0, 0, 0)), "already has votes"),
        ("processedResults/tabulatedVotes.csv", votes_of(400001, CLIPS[0], (9, 0, 0, 0, 0, 0)), "number '400001'"),
        ("processedResults/tabulatedVotes.csv", votes_of(100099, "1001", (9, 0, 0, 0, 0, 0)), "clip '1001'"),
        (
            "processedResults/tabulatedVotes.csv",
            [100099, 9, 0, 0, 0, 0, 0, "1003_DFA_ANG_XX", 10, 1],
            "add up to numResponses",
        ),
        (
            "processedResults/tabulatedVotes.csv",
            [100099, 9.5, 0, 0, 0, 0, 0, "1003_DFA_ANG_XX", 9.5, 1],
            "not whole numbers",
        ),
    ],
)
def test_a_row_that_says_nothing_is_rejected_and_changes_nothing(release, name, row, detail):
    before = list(crema_d.read(release))
    put(release, name, (release / name).read_bytes() + table([row]))
    rejection, *rest = crema_d.read(release)
    assert (rejection.path, rejection.reason) == (name, "bad_row")
    assert detail in rejection.detail
    assert "\n" not in rejection.detail
    assert rest == before


def test_an_age_that_is_not_given_is_none(release):
    content = (release / "VideoDemographics.csv").read_bytes()
    put(release, "VideoDemographics.csv", content.replace(b'"51"', b"NA"))
    assert utterances(release)["1001_IEO_ANG_LO"].age is None


@pytest.mark.parametrize("content", [b"", b"Stimulus_Number,File\n1,1001_IEO_NEU_XX\n"])
def test_a_table_without_its_columns_is_an_error(release, content):
    put(release, "SentenceFilenames.csv", content)
    with pytest.raises(CorpusError, match=r"SentenceFilenames\.csv: no column 'Filename'"):
        list(crema_d.read(release))


def test_a_root_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="expected a folder"):
        list(crema_d.read(tmp_path / "nothing"))


def test_the_folder_above_the_release_is_not_taken_for_it(release, tmp_path):
    with pytest.raises(CorpusError, match="folder_mismatch"):
        prepare(release.parent, tmp_path / "out")


@pytest.mark.parametrize("utterance_id", ["1000_IEO_NEU_XX", "1092_IEO_NEU_XX", "1001_IEO_NEU_XX.wav", "03a01Fa", ""])
def test_no_facts_of_what_is_no_id(utterance_id):
    assert crema_d.facts(utterance_id) is None


def test_order_does_not_depend_on_the_file_system(release, monkeypatch):
    expected = list(crema_d.read(release))
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((at, sub[::-1], files[::-1]) for at, sub, files in walk(top)))
    assert list(crema_d.read(release)) == expected


# The tables and eleven clips as released


@pytest.fixture(scope="module")
def real(shared_data_folder):
    root = shared_data_folder / "crema_d"
    if not root.is_dir():
        pytest.skip(f"no CREMA-D in {shared_data_folder}")
    return root


@pytest.fixture(scope="module")
def real_rows(real):
    return list(crema_d.read(real))


@pytest.fixture(scope="module")
def summary_table(real):
    with (real / "processedResults" / "summaryTable.csv").open(encoding="utf-8", newline="") as file:
        return {row["FileName"]: row for row in csv.DictReader(file)}


def ratings_of(row):
    return [{"label": label, "votes": votes} for label, votes in row.ratings.items()]


def test_the_real_tables_name_7442_clips_of_91_actors(real_rows):
    assert all(isinstance(row, Utterance) for row in real_rows)
    assert len({row.utterance_id for row in real_rows}) == len(real_rows) == 7442
    assert {row.speaker for row in real_rows} == {str(actor) for actor in range(1001, 1092)}
    emotions = ("ANG", "DIS", "FEA", "HAP", "SAD")
    assert Counter(row.label for row in real_rows) == dict.fromkeys(emotions, 1271) | {"NEU": 1087}
    actors = {row.speaker: row for row in real_rows}.values()
    assert Counter(row.gender for row in actors) == {"male": 48, "female": 43}
    assert (min(row.age for row in actors), max(row.age for row in actors)) == (20, 74)
    assert Counter(row.ethnicity for row in actors) == {
        "Caucasian, Not Hispanic": 53,
        "African American, Not Hispanic": 21,
        "Caucasian, Hispanic": 8,
        "Asian, Not Hispanic": 7,
        "African American, Hispanic": 1,
        "Unknown, Hispanic": 1,
    }
    assert all(crema_d.facts(row.utterance_id) == Facts(row.speaker, None, row.script) for row in real_rows)


@pytest.mark.parametrize("channel", list(CHANNELS))
def test_the_real_votes_agree_with_the_summary_table(real_rows, summary_table, channel):
    task = load_tasks("crema_d")[f"crema_d_6_{channel}"]
    ties = 0
    for row in real_rows:
        published = summary_table[row.utterance_id][CHANNELS[channel]].split(":")
        distribution = vote_distribution(ratings_of(row), channel)
        assert sum(distribution.values()) == pytest.approx(1)
        most = max(distribution.values())
        assert sorted(label for label, share in distribution.items() if share == most) == published
        assert plurality(distribution) == (published[0] if len(published) == 1 else None)
        ties += task.label_of(ratings_of(row)) is None
    assert ties == sum(":" in row[CHANNELS[channel]] for row in summary_table.values()) > 0


def test_the_real_channels_are_not_one_another(real_rows):
    agrees = {
        channel: sum(plurality(vote_distribution(ratings_of(row), channel)) == row.label[0] for row in real_rows)
        for channel in CHANNELS
    }
    assert agrees["voice"] < agrees["face"] < agrees["both"]  # as Cao et al. 2014 found
    assert agrees["both"] > 0.55 * 7442


def test_the_real_clips_are_heard(real, tmp_path):
    summary, rows, rejected = prepare(real, tmp_path / "out")
    assert (summary["n_utterances"], summary["n_without_audio"], rejected) == (7442, 7431, [])
    assert {row["sampling_rate"] for row in rows.values() if row["audio"]} == {16000}
    assert summary["tasks"]["crema_d_6"] == dict.fromkeys(("happy", "sad", "angry", "fearful", "disgust"), 1271) | {
        "neutral": 1087,
        "unmapped": 0,
    }


def test_known_defects_are_clips_and_none_is_dropped(real_rows):
    ids = {row.utterance_id for row in real_rows}
    assert set(crema_d.KNOWN_DEFECTS) <= ids
    assert {"1076_MTI_SAD_XX", "1076_MTI_NEU_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD"} <= set(crema_d.KNOWN_DEFECTS)
    assert "silent" in crema_d.KNOWN_DEFECTS["1076_MTI_SAD_XX"]
    twins = {name: why.split()[4] for name, why in crema_d.KNOWN_DEFECTS.items() if "same WAV" in why}
    twins = {name: other.rstrip(",") for name, other in twins.items()}
    assert len(twins) == 6
    assert all(twins[other] == name and other[:8] == name[:8] for name, other in twins.items())


def folds_of(rows, name):
    frame = pd.DataFrame(
        [
            {
                "utterance_id": row.utterance_id,
                "speaker": row.speaker,
                "session": None,
                "script": row.script,
                "transcript": row.transcript,
                "audio": None,
                "label": row.label,
            }
            for row in rows
        ]
    )
    return make_folds(frame, load_protocol(PROTOCOLS / f"{name}.yaml"))


def test_speaker_folds_are_those_of_emo_superb(real_rows):
    folds = folds_of(real_rows, "crema_d_speakers_5fold")
    assert folds.departures() == []
    sizes = [[len(folds.ids(fold, split)) for split in SPLITS] for fold in range(1, 6)]
    assert sizes == [  # Train, Development, Test of EMO-SUPERB's labels_consensus_1.csv to _5.csv
        [4509, 1470, 1463],
        [4496, 1476, 1470],
        [4490, 1476, 1476],
        [4409, 1557, 1476],
        [4422, 1463, 1557],
    ]
    assert folds.pooled() == 7442
    assert folds.shared == {"script": 12, "transcript": 12}
    assert {name[:4] for name in folds.ids(5, "test")} == {str(actor) for actor in range(1073, 1092)}


def test_the_fold_of_emobox_is_speaker_dependent_and_says_so(real_rows):
    folds = folds_of(real_rows, "crema_d_emobox")
    assert folds.departures() == []
    train, dev, test = (folds.ids(1, split) for split in SPLITS)
    assert (len(train) + len(dev), len(test)) == (5586, 1856)
    assert {name[:4] for name in train} == {name[:4] for name in test} == {str(actor) for actor in range(1001, 1092)}
    assert folds.shared["speaker"] == 91
    assert any("speaker-dependent" in line for line in folds.describe())
    assert "speaker-dependent" in folds.protocol.source
    assert Counter(name[9:12] for name in test) == dict.fromkeys(("ANG", "DIS", "FEA", "HAP", "SAD"), 317) | {
        "NEU": 271
    }
    assert Counter(name[9:12] for name in dev) == dict.fromkeys(("ANG", "DIS", "FEA", "HAP", "SAD"), 95) | {"NEU": 82}
    assert (
        not set(dev)
        & set(crema_d.KNOWN_DEFECTS)
        & {name for name, why in crema_d.KNOWN_DEFECTS.items() if "same WAV" in why}
    )


def test_a_fold_of_emobox_without_a_clip_departs_from_it(real_rows):
    folds = folds_of(real_rows[1:], "crema_d_emobox")
    assert len(folds.departures()) == 1
    assert any("not the utterances of the CREMA-D release" in line for line in folds.describe())
