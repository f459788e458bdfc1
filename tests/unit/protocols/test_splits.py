from dataclasses import replace

import pandas as pd
import pytest

from lalm_mer.core.errors import ConfigError, SplitLeakError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.protocols.protocol import COLUMNS, FoldRule, KnownSplit, Protocol
from lalm_mer.protocols.splits import SPLITS, hash_ids, make_folds

LISTED = FoldRule("listed", "speaker", test={1: ["s1", "s2"], 2: ["s3"], 3: ["s4", "s5"]})


def table(speakers=("s1", "s2", "s3", "s4", "s5"), each=2, **columns):
    """Utterances that share only their speaker."""
    names = [f"{speaker}_{number}" for speaker in speakers for number in range(each)]
    frame = pd.DataFrame({"utterance_id": names, "speaker": [name.split("_")[0] for name in names]})
    frame["session"] = frame["script"] = None
    frame["transcript"] = "said by " + frame["utterance_id"]
    frame["audio"] = "hash of " + frame["utterance_id"]
    frame["truth"] = [("happy", "sad")[number % 2] for number in range(len(frame))]
    return frame.assign(**columns)


def protocol(folds=LISTED, disjoint_in=("speaker",), shared_in=()):
    return Protocol("p", 1, "here", folds, list(disjoint_in), list(shared_in))


def speakers(folds, fold, split):
    return sorted({name.split("_")[0] for name in folds.ids(fold, split)})


def test_listed_groups_are_test_then_dev():
    folds = make_folds(table(), protocol())
    dealt = {fold: [speakers(folds, fold, split) for split in SPLITS] for fold in (1, 2, 3)}
    assert dealt == {
        1: [["s4", "s5"], ["s3"], ["s1", "s2"]],
        2: [["s1", "s2"], ["s4", "s5"], ["s3"]],
        3: [["s3"], ["s1", "s2"], ["s4", "s5"]],  # the last fold's dev set is the first fold's test set
    }
    assert folds.ids(1, "test") == ["s1_0", "s1_1", "s2_0", "s2_1"]


def test_the_order_of_rows_does_not_change_a_fold():
    shuffled = table().sample(frac=1, random_state=3)
    for rule in (LISTED, FoldRule("grouped", "speaker", k=4, seed=1)):
        first, second = make_folds(table(), protocol(rule)), make_folds(shuffled, protocol(rule))
        pd.testing.assert_frame_equal(first.frame, second.frame)
        assert first.digest == second.digest


def test_the_digest_follows_the_folds():
    moved = FoldRule("listed", "speaker", test={1: ["s1"], 2: ["s2", "s3"], 3: ["s4", "s5"]})
    digests = {make_folds(table(), protocol(rule)).digest for rule in (LISTED, moved)}
    assert len(digests) == 2
    assert make_folds(table(each=3), protocol()).digest not in digests


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grouped_tests_every_speaker_once_and_shares_none(seed):
    frame = table([f"s{number}" for number in range(11)])
    folds = make_folds(frame, protocol(FoldRule("grouped", "speaker", k=4, seed=seed)))
    tested = [name for fold in range(1, 5) for name in folds.ids(fold, "test")]
    assert sorted(tested) == sorted(frame["utterance_id"])
    for fold in range(1, 5):
        splits = [set(speakers(folds, fold, split)) for split in SPLITS]
        assert len(set.union(*splits)) == sum(len(split) for split in splits) == 11
        assert folds.ids(fold, "dev") == folds.ids(fold % 4 + 1, "test")


def test_another_seed_makes_other_folds():
    frame = table([f"s{number}" for number in range(12)])
    digests = {make_folds(frame, protocol(FoldRule("grouped", "speaker", k=4, seed=seed))).digest for seed in range(3)}
    assert len(digests) == 3


def test_a_column_may_contain_the_split():
    split = ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    folds = make_folds(table(session=split), protocol(FoldRule("column", "session"), ["speaker", "session"]))
    assert [speakers(folds, 1, split) for split in SPLITS] == [["s1", "s2", "s3"], ["s4"], ["s5"]]


@pytest.mark.parametrize("split", [["train"] * 8 + ["dev"] * 2, ["train"] * 6 + ["dev"] * 2 + ["tests"] * 2])
def test_a_column_of_other_values_is_refused(split):
    with pytest.raises(ConfigError, match="column 'session' must have values"):
        make_folds(table(session=split), protocol(FoldRule("column", "session"), ["speaker"]))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (FoldRule("listed", "speaker", test={1: ["s1", "s2"], 2: ["s3"], 3: ["s4"]}), r"1 differ \(s5\)"),
        (FoldRule("listed", "speaker", test={1: ["s1", "s2"], 2: ["s3"], 3: ["s4", "s5", "s6"]}), r"1 differ \(s6\)"),
        (FoldRule("listed", "speaker", test={1: ["s1", "s2"], 2: ["s3", "s1"], 3: ["s4", "s5"]}), "to be listed once"),
        (FoldRule("listed", "speaker", test={1: ["s1", "s2"], 2: ["s3"], 4: ["s4", "s5"]}), "numbered 1, 2, 3"),
        (FoldRule("listed", "speaker", test={1: ["s1", "s2"], 2: ["s3", "s4", "s5"]}), "numbered 1, 2, 3"),
        (FoldRule("grouped", "speaker", k=6), "5 speakers for 6 folds"),
        (FoldRule("grouped", "speaker", k=2), "needs 3 <= k"),
    ],
)
def test_a_rule_that_does_not_fit_the_corpus_is_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        make_folds(table(), protocol(rule))


def test_the_column_of_the_rule_must_be_known_for_all():
    frame = table()
    frame.loc[3, "speaker"] = None
    with pytest.raises(ConfigError, match="1 utterances have no speaker, for example s2_1"):
        make_folds(frame, protocol())


def test_an_unknown_speaker_proves_nothing():
    split = ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    frame = table(session=split)
    frame.loc[9, "speaker"] = None
    with pytest.raises(SplitLeakError, match="disjoint in speaker cannot be proven: s5_1 has none"):
        make_folds(frame, protocol(FoldRule("column", "session"), ["speaker"]))


@pytest.mark.parametrize("column", COLUMNS)
def test_every_leak_is_found_and_named(column):
    session = ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    if column == "session":  # the rule's own column cannot leak, so group by speaker
        frame, rule = table(session=["one session"] * 10), LISTED
    else:
        frame, rule = table(session=session), FoldRule("column", "session")
        frame.loc[[0, 9], column] = "the shared one"
    example = "one session" if column == "session" else "the shared one"
    for disjoint_in in ([column], ["audio" if column == "transcript" else "transcript"]):  # claimed, or not declared
        with pytest.raises(SplitLeakError) as caught:
            make_folds(frame, protocol(rule, disjoint_in))
        assert f"values of {column} are in two splits" in str(caught.value)
        assert example in str(caught.value)
        assert "fold 1" in str(caught.value)
    assert make_folds(frame, protocol(rule, ["audio" if column == "transcript" else "transcript"], [column]))


def test_a_leak_between_train_and_dev_counts_too():
    frame = table(session=["train"] * 6 + ["dev"] * 2 + ["test"] * 2)
    frame.loc[[0, 6], "audio"] = "one recording"
    with pytest.raises(SplitLeakError, match="values of audio"):
        make_folds(frame, protocol(FoldRule("column", "session")))


def test_missing_transcripts_and_scripts_share_nothing():
    assert make_folds(table(transcript=None), protocol(disjoint_in=["speaker", "transcript", "script"]))


def test_three_splits_are_required():
    frame = table(session=["train"] * 6 + ["dev"] * 2 + ["test"] * 2)
    complete = make_folds(frame, protocol(FoldRule("column", "session")))
    assert len(complete.frame) == 10
    with pytest.raises(ConfigError, match="must have values"):
        make_folds(frame[frame["session"] != "dev"], protocol(FoldRule("column", "session")))


def test_a_fold_after_the_last_is_refused():
    folds = make_folds(table(), protocol())
    for fold in (0, 4, -1):
        with pytest.raises(ConfigError, match=rf"argument 'fold': no fold {fold} in protocol p; it has \[1, 2, 3\]"):
            folds.ids(fold, "test")


def test_the_protocol_is_kept_with_its_folds():
    changed = replace(protocol(), version=7)
    assert make_folds(table(), changed).protocol.version == 7


CROSSED = FoldRule("crossed", test={1: ["A", "p1"], 2: ["B", "p2"], 3: ["C", "p3"], 4: ["D", "p2"]})


def sessions_and_scripts():
    """Four sessions, each with improvisations (no script) and the same three plays."""
    rows = [
        {
            "utterance_id": f"{session}_{script or 'impro'}_{number}",
            "speaker": f"s{session}",
            "session": session,
            "script": script,
            "transcript": None,
            "audio": f"{session} {script} {number}",
        }
        for session in "ABCD"
        for script in (None, "p1", "p2", "p3")
        for number in range(2)
    ]
    return pd.DataFrame(rows)


def test_crossed_holds_out_a_session_and_a_script_together():
    folds = make_folds(sessions_and_scripts(), protocol(CROSSED, ["speaker", "session", "script", "audio"]))
    assert folds.ids(1, "test") == ["A_impro_0", "A_impro_1", "A_p1_0", "A_p1_1"]
    assert folds.ids(1, "dev") == ["B_impro_0", "B_impro_1", "B_p2_0", "B_p2_1"]
    assert {name.rpartition("_")[0] for name in folds.ids(1, "train")} == {"C_impro", "C_p3", "D_impro", "D_p3"}
    assert folds.n_tested() == 4 * 4  # of 32: two plays of each session are never tested
    assert "16 utterances tested" in folds.describe()[0]
    plain = FoldRule("listed", "session", test={1: ["A"], 2: ["B"], 3: ["C"], 4: ["D"]})
    with pytest.raises(SplitLeakError, match="3 values of script are in two splits"):
        make_folds(sessions_and_scripts(), protocol(plain, ["speaker", "session", "script"]))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({1: ["A", "p1"], 2: ["B", "p1"], 3: ["C", "p3"]}, "fold 1 and the next share a session or script"),
        ({1: ["A", "p1"], 2: ["B", "p9"], 3: ["C", "p3"]}, "'p9'.* is not a session and a script of the corpus"),
        ({1: ["A", "p1"], 2: ["B", "p2"]}, "numbered 1, 2, 3"),
    ],
)
def test_a_crossed_rule_that_does_not_fit_the_corpus_is_refused(test, message):
    with pytest.raises(ConfigError, match=message):
        make_folds(sessions_and_scripts(), protocol(FoldRule("crossed", test=test)))


def test_dev_groups_may_be_listed_too():
    frame = table(["aF", "aM", "bF", "bM"], session=["a"] * 4 + ["b"] * 4)
    rule = FoldRule(
        "listed",
        "speaker",
        test={1: ["aF"], 2: ["aM"], 3: ["bF"], 4: ["bM"]},
        dev={1: ["aM"], 2: ["aF"], 3: ["bM"], 4: ["bF"]},
    )
    folds = make_folds(frame, protocol(rule, shared_in=["session"]))
    assert [speakers(folds, fold, "dev") for fold in (1, 2, 3, 4)] == [["aM"], ["aF"], ["bM"], ["bF"]]
    assert speakers(folds, 1, "train") == ["bF", "bM"]
    with pytest.raises(ConfigError, match="dev must list, for each fold, speakers that it does not test"):
        make_folds(frame, protocol(replace(rule, dev={**rule.dev, 1: ["aF"]}), shared_in=["session"]))


def test_a_file_may_list_the_split(tmp_path):
    (tmp_path / "lists.csv").write_text(
        "session,split,fold\na,train,1\nb,dev,1\nc,test,1\na,test,2\nb,train,2\nc,dev,2\n"
    )
    frame = table(session=["a", "a", "b", "b", "c", "c", "c", "c", "z", "z"])
    folds = make_folds(frame, protocol(FoldRule("file", "session", file=str(tmp_path / "lists.csv")), ["session"]))
    assert [len(folds.ids(1, split)) for split in SPLITS] == [2, 2, 4]
    assert folds.ids(2, "test") == folds.ids(1, "train")
    assert not any(name.startswith("s5") for name in folds.frame["utterance_id"])  # session z is in no split
    (tmp_path / "lists.csv").write_text("session,split\na,train\na,dev\nc,test\n")
    with pytest.raises(ConfigError, match="lists a twice in fold 1"):
        make_folds(frame, protocol(FoldRule("file", "session", file=str(tmp_path / "lists.csv"))))


def test_a_column_is_mapped_and_other_values_are_in_no_split():
    frame = table(split=["Train"] * 4 + ["Development"] * 2 + ["Test1"] * 2 + ["Test2"] * 2)
    rule = FoldRule("column", "split", map={"Train": "train", "Development": "dev", "Test1": "test"})
    folds = make_folds(frame, protocol(rule))
    assert [len(folds.ids(1, split)) for split in SPLITS] == [4, 2, 2]
    with pytest.raises(ConfigError, match=r"must have values .*'Test9'"):
        make_folds(frame, protocol(replace(rule, map={"Train": "train", "Development": "dev", "Test9": "test"})))


def test_unknown_values_may_be_declared_and_are_counted():
    frame = table(session=["train"] * 6 + ["dev"] * 2 + ["test"] * 2)
    frame.loc[[0, 9], "speaker"] = None
    changed = replace(protocol(FoldRule("column", "session")), unknown_in=["speaker"])
    folds = make_folds(frame, changed)
    assert folds.unknown == {"speaker": 2}
    assert "speaker (2 utterances unknown)" in folds.describe()[1]
    frame.loc[[1, 8], "speaker"] = "s9"
    with pytest.raises(SplitLeakError, match="values of speaker"):
        make_folds(frame, changed)


def test_folds_state_shared_columns_and_speaker_dependence():
    frame = table(session=["train"] * 6 + ["dev"] * 2 + ["test"] * 2)
    frame.loc[[0, 9], "speaker"] = "s1"
    folds = make_folds(frame, protocol(FoldRule("column", "session"), [], ["speaker"]))
    assert folds.shared == {"speaker": 1}
    assert folds.describe()[1:] == [
        "train, dev and test are disjoint in: nothing; they share: speaker (1 values)",
        "speaker-dependent: results are not comparable with speaker-independent ones",
    ]


def test_a_departure_from_the_known_utterances_is_stated():
    complete = make_folds(table(), protocol())
    known = {1: {"test": KnownSplit(4, hash_ids(complete.ids(1, "test"))), "train": KnownSplit(4)}}
    changed = replace(protocol(), known=known, release="release 2")
    assert make_folds(table(), changed).departures() == []
    fewer = make_folds(table().drop(index=1), changed)
    assert fewer.departures() == [Note(NoteCode.FOLD_SIZE, "test", 3, facts={"fold": 1, "expected": 4})]
    assert fewer.describe()[-1] == (
        "not the utterances of release 2, so results are not comparable with published ones: Fold 1, test: "
        "3 utterances here, 4 in the protocol."
    )
    renamed = table().replace({"utterance_id": {"s1_0": "s1_9"}})
    assert make_folds(renamed, changed).departures() == [Note(NoteCode.FOLD_UTTERANCES, "test", 4, facts={"fold": 1})]


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [("speaker", "Bob", "bob"), ("speaker", "spk_1", "spk-1"), ("transcript", "Hello there!", "hello there"),
     ("session", "S-1", "s 1"), ("script", "Zo\u00e9", "Zoe\u0301")],
)  # fmt: skip
def test_values_that_differ_in_case_or_punctuation_only_are_shared(column, first, second):
    frame = table(split=["train"] * 6 + ["dev"] * 2 + ["test"] * 2)
    frame.loc[0, column], frame.loc[9, column] = first, second
    with pytest.raises(SplitLeakError, match=rf"1 values of {column} are in two splits.* of s5_1 of test and s1_0 of"):
        make_folds(frame, protocol(FoldRule("column", "split"), ["speaker"]))


def test_spellings_of_one_speaker_are_in_one_fold():
    frame = table(["Bob", "bob", "s1", "s2", "s3", "s4"])
    folds = make_folds(frame, protocol(FoldRule("grouped", "speaker", k=3)))
    for fold in (1, 2, 3):
        for split in SPLITS:
            assert ("Bob" in speakers(folds, fold, split)) == ("bob" in speakers(folds, fold, split))


def test_grouped_folds_have_every_class_where_groups_allow():
    """Sixteen speakers of two emotions, eight of two others; by size alone, folds lack one in most orders."""
    common = [f"c{number:02d}" for number in range(16)]
    rare = [f"r{number}" for number in range(8)]
    frame = pd.concat([table(common, each=16), table(rare, each=12).assign(truth=["angry", "fearful"] * 48)])
    for seed in range(4):
        folds = make_folds(frame.reset_index(drop=True), protocol(FoldRule("grouped", "speaker", k=5, seed=seed)))
        truths = dict(zip(frame["utterance_id"], frame["truth"], strict=True))
        for fold in range(1, 6):
            for split in SPLITS:
                found = [truths[name] for name in folds.ids(fold, split)]
                assert set(found) == {"happy", "sad", "angry", "fearful"}, (seed, fold, split)


def test_classes_rarer_than_folds_are_refused_if_all_are():
    with pytest.raises(ConfigError, match="every class has fewer utterances than 4 folds; choose fewer folds"):
        make_folds(table(["s1", "s2", "s3", "s4"], each=1), protocol(FoldRule("grouped", "speaker", k=4)))


@pytest.mark.parametrize(
    "rule",
    [FoldRule("test"), FoldRule("column", "split"), FoldRule("column", "split", map={"test": "test"})],
)
def test_a_fold_may_be_test_alone(rule):
    folds = make_folds(table(split="test"), protocol(rule, []))
    assert (folds.has_training, len(folds.ids(1, "test")), folds.ids(1, "train")) == (False, 10, [])
    assert folds.describe()[1] == "test alone, without train and dev: nothing can be trained or chosen on this corpus"


def test_a_file_may_list_test_alone(tmp_path):
    (tmp_path / "lists.csv").write_text("speaker,split\ns1,test\ns2 ,test\n")
    folds = make_folds(table(), protocol(FoldRule("file", "speaker", file=str(tmp_path / "lists.csv")), []))
    assert len(folds.ids(1, "test")) == 4
    (tmp_path / "lists.csv").write_text("speaker,split\ns1,test\ns2,train\n")
    with pytest.raises(ConfigError, match="or test alone"):
        make_folds(table(), protocol(FoldRule("file", "speaker", file=str(tmp_path / "lists.csv")), []))
