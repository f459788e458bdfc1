"""The real tables of CREMA-D, and its published folds."""

import csv
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from small_release import prepare

from lalm_mer.core.labels import plurality, vote_distribution
from lalm_mer.core.schema import Facts, Utterance
from lalm_mer.corpora import crema_d
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


def test_the_real_channels_differ(real_rows):
    agrees = {
        channel: sum(plurality(vote_distribution(ratings_of(row), channel)) == row.label[0] for row in real_rows)
        for channel in CHANNELS
    }
    assert agrees["voice"] < agrees["face"] < agrees["both"]  # as Cao et al. 2014 found
    assert agrees["both"] > 0.55 * 7442


@pytest.mark.slow
def test_the_real_clips_are_decoded(real, tmp_path):
    summary, rows, rejected = prepare(crema_d, real, tmp_path / "out", keep_missing_audio=True)
    assert (summary["n_utterances"], summary["n_without_audio"], rejected) == (7442, 7431, [])
    assert {row["sampling_rate"] for row in rows.values() if row["audio"]} == {16000}
    assert summary["tasks"]["crema_d_6"] == dict.fromkeys(("happy", "sad", "angry", "fearful", "disgust"), 1271) | {
        "neutral": 1087,
        "unmapped": 0,
    }


def test_known_defects_are_clips_that_are_kept(real_rows):
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
    assert folds.n_tested() == 7442
    assert folds.shared == {"script": 12, "transcript": 12}
    assert {name[:4] for name in folds.ids(5, "test")} == {str(actor) for actor in range(1073, 1092)}


def test_the_fold_of_emobox_is_marked_speaker_dependent(real_rows):
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
