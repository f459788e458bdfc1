from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from iemocap_tree import FOUR, SESSIONS, published, write

from lalm_mer.core.errors import SplitLeakError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.iemocap import read
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, make_folds

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"
PLAYS = {1: "script01", 2: "script02", 3: "script03", 4: "script01", 5: "script02"}


@pytest.fixture(scope="module")
def lines():
    return [line for line in published() if line.label in FOUR]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four-class utterances of a synthetic release with the published counts, as its reader yields them."""
    root = tmp_path_factory.mktemp("synthetic_iemocap")
    write(root, published())
    task = load_tasks("iemocap")["iemocap_4"]
    columns = ("utterance_id", "speaker", "session", "script", "transcript")
    rows = [{column: getattr(row, column) for column in columns} for row in read(root) if task.label_of(row.label)]
    return pd.DataFrame(rows).assign(audio=lambda frame: "hash of " + frame["utterance_id"])


def protocol(name):
    return load_protocol(PROTOCOLS / f"{name}.yaml")


def sizes(folds):
    return {fold: [len(folds.ids(fold, split)) for split in SPLITS] for fold in sorted(set(folds.frame["fold"]))}


def values(table, folds, fold, column):
    """Split -> its values of a column."""
    rows = table.set_index("utterance_id")[column]
    return {split: set(rows[folds.ids(fold, split)].dropna()) for split in SPLITS}


@pytest.mark.slow
def test_five_sessions_have_the_published_sizes(table):
    folds = make_folds(table, protocol("iemocap_5sessions"))
    assert sizes(folds) == {
        1: [3423, 1023, 1085],
        2: [3357, 1151, 1023],
        3: [3349, 1031, 1151],
        4: [3259, 1241, 1031],
        5: [3205, 1085, 1241],
    }
    assert folds.departures() == []
    assert folds.n_tested() == sum(SESSIONS.values()) == 5531
    assert values(table, folds, 5, "session") == {
        "train": {"Ses02", "Ses03", "Ses04"},
        "dev": {"Ses01"},
        "test": {"Ses05"},
    }
    assert folds.describe()[0].endswith("5 folds, 5531 utterances tested")
    assert folds.describe()[1].startswith("train, dev and test are disjoint in: speaker, session, audio; they share: ")


def test_sessions_share_their_scripts_and_state_it(table):
    chosen = protocol("iemocap_5sessions")
    assert make_folds(table, chosen).shared["script"] == 3
    with pytest.raises(SplitLeakError, match="fold 1: 3 values of script are in two splits, for example 'script01'"):
        make_folds(table, replace(chosen, disjoint_in=["script"], shared_in=["transcript"]))


def test_a_release_that_lacks_an_utterance_is_not_the_published_one(table):
    folds = make_folds(table.iloc[1:], protocol("iemocap_5sessions"))
    assert Note(NoteCode.FOLD_SIZE, "test", 1084, facts={"fold": 1, "expected": 1085}) in folds.departures()
    assert "not the utterances of IEMOCAP_full_release" in folds.describe()[-1]


def test_ten_speakers_test_each_once_and_train_on_other_sessions(table):
    folds = make_folds(table, protocol("iemocap_10speakers"))
    assert folds.departures() == []
    assert folds.n_tested() == 5531
    tested = []
    for fold in range(1, 11):
        speaker, session = values(table, folds, fold, "speaker"), values(table, folds, fold, "session")
        assert [len(speaker[split]) for split in SPLITS] == [8, 1, 1]
        assert speaker["dev"] | speaker["test"] == {f"{next(iter(session['test']))}{letter}" for letter in "FM"}
        assert session["dev"] == session["test"]
        assert not session["train"] & session["test"]
        tested += sorted(speaker["test"])
    assert tested == [f"Ses0{session}{letter}" for session in SESSIONS for letter in "FM"]
    assert folds.shared["session"] == 1
    assert "speaker-dependent" not in " ".join(folds.describe())


def test_session_and_script_folds_share_neither_and_state_their_size(table, lines):
    folds = make_folds(table, protocol("iemocap_session_script"))
    for fold in range(1, 6):
        for column in ("speaker", "session", "script", "audio"):
            train, dev, test = values(table, folds, fold, column).values()
            assert not train & dev
            assert not train & test
            assert not dev & test
        script = values(table, folds, fold, "script")
        assert (script["test"], script["dev"]) == ({PLAYS[fold]}, {PLAYS[fold % 5 + 1]})
        assert len(script["train"]) == 1
        expected = {line.name for line in lines if line.session == fold and line.script in (None, PLAYS[fold])}
        assert set(folds.ids(fold, "test")) == expected
    assert "script" not in folds.shared
    n = sum(line.script in (None, PLAYS[line.session]) for line in lines)
    assert folds.n_tested() == n < 5531
    assert folds.describe()[0].endswith(f"5 folds, {n} utterances tested")
    assert "disjoint in: speaker, session, script, audio" in folds.describe()[1]


def test_a_recording_of_the_held_out_session_in_train_would_be_found(table):
    moved = table.copy()
    chosen = protocol("iemocap_session_script")
    train = make_folds(table, chosen).ids(1, "train")
    moved.loc[moved["utterance_id"] == train[0], "audio"] = moved.loc[moved["session"] == "Ses01", "audio"].iloc[0]
    with pytest.raises(SplitLeakError, match="fold 1: 1 values of audio"):
        make_folds(moved, chosen)
