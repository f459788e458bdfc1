from collections import Counter

import pytest
from iemocap_tree import FOUR, LABELS, SESSIONS, Line, published, write
from small_release import prepare, put

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora import iemocap
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.iemocap import facts, read

EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 3.0000, 2.0000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral; Anger;\t(curious)
C-E4:\tAnger; Anger;\t(he said (again) "no")
C-F1:\tSadness;\t()
A-E3:\tval 3; act 2; dom  2;\t()
A-F1:\tval 3; act 2; dom  1;\t()

[11.0000 - 14.0000]\tSes01F_impro01_F001\txxx\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
C-E3:\tFrustration;\t()

[7.5712 - 10.4750]\tSes01F_impro01_M000\tfru\t[1.0000, 5.0000, 4.3333]
C-M1:\tFrustration;\t()
"""
TRANSCRIPTION = """Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
Ses01F_impro01_M000 [007.5712-010.4750]: Do you have your forms?
M: Yeah.
Ses01F_impro01_MXX0 [009.0000-009.5000]: [BREATHING]
Ses01F_impro01_F001 [011.0000-014.0000]: Yeah.
"""


def put_dialogue(root, evaluation=EVALUATION, transcription=TRANSCRIPTION, dialogue="Ses01F_impro01", encoding="utf-8"):
    session = root / f"Session{dialogue[4]}"
    put(session / f"dialog/EmoEvaluation/{dialogue}.txt", evaluation.encode(encoding))
    put(session / f"dialog/transcriptions/{dialogue}.txt", transcription.encode(encoding))


def by_name(root):
    rows = list(read(root))
    assert not [row for row in rows if isinstance(row, Rejection)]
    return {row.utterance_id: row for row in rows}


def test_an_utterance_has_all_values_of_the_release(tmp_path):
    put_dialogue(tmp_path)
    by_id = by_name(tmp_path)
    assert by_id["Ses01F_impro01_M000"] == Utterance(
        utterance_id="Ses01F_impro01_M000",
        corpus="iemocap",
        audio_path="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav",
        start_s=7.5712,
        end_s=10.475,
        transcript="Do you have your forms?",
        transcript_source="human",
        speaker="Ses01M",
        gender="male",
        language="en",
        session="Ses01",
        dialogue="Ses01F_impro01",
        turn=2,
        label="fru",
        valence=1.0,
        arousal=5.0,
        dominance=4.3333,
    )
    assert [(name, row.turn, row.label) for name, row in by_id.items()] == [
        ("Ses01F_impro01_F000", 1, "neu"),
        ("Ses01F_impro01_F001", 3, "xxx"),
        ("Ses01F_impro01_M000", 2, "fru"),
    ]
    assert by_id["Ses01F_impro01_F000"].speaker == "Ses01F"


def test_ratings_are_votes_of_external_raters_and_may_name_several_labels(tmp_path):
    put_dialogue(tmp_path)
    by_id = by_name(tmp_path)
    assert by_id["Ses01F_impro01_F000"].ratings == {"Anger": 2, "Neutral": 2}
    assert by_id["Ses01F_impro01_F001"].ratings == {"Frustration": 1, "Neutral": 1}
    assert by_id["Ses01F_impro01_M000"].ratings is None  # rated by the speaker only


@pytest.mark.parametrize(
    ("dialogue", "script"),
    [("Ses05M_script01_1b", "script01"), ("Ses02F_script03_2", "script03"), ("Ses03M_impro08b", None)],
)
def test_the_script_is_the_play_and_not_its_part(tmp_path, dialogue, script):
    evaluation = EVALUATION.replace("Ses01F_impro01", dialogue)
    put_dialogue(tmp_path, evaluation, TRANSCRIPTION.replace("Ses01F_impro01", dialogue), dialogue)
    for name, row in by_name(tmp_path).items():
        assert (row.script, row.dialogue, row.session) == (script, dialogue, dialogue[:5])
        assert facts(name) == Facts(row.speaker, row.session, row.script)
        assert row.transcript is not None


@pytest.mark.parametrize(
    "name", ["Ses06F_impro01_F000", "Ses01F_impro01", "Ses01F_impro01_X000", "03-01-01-01-01-01-01"]
)
def test_other_ids_have_no_facts(name):
    assert facts(name) is None


@pytest.mark.parametrize(
    ("lines", "transcript"),
    [
        (["[001.0000-002.0000]: Elsewhere.", "[006.2000-008.2000]: Here."], "Here."),
        (["[006.2000-008.2000]: Here.", "[001.0000-002.0000]: Elsewhere."], "Here."),
        ([": No time.", "[006.2000-008.2000]: Here."], "Here."),
        ([": First.", ": Second."], "First."),
        (["[006.2000-008.2000]: First.", "[006.2000-008.2000]: Second."], "First."),
        (["[006.2000-008.2000]:", ": Said."], "Said."),
        (["[006.2000-008.2000]:"], None),
        (["[006.2000-008.2000] : A: colon."], "A: colon."),
        ([], None),
    ],
)
def test_the_transcript_is_the_line_nearest_in_time(tmp_path, lines, transcript):
    put_dialogue(tmp_path, transcription="".join(f"Ses01F_impro01_F000 {line}\n" for line in lines))
    row = by_name(tmp_path)["Ses01F_impro01_F000"]
    assert row.transcript == transcript
    assert row.transcript_source == (None if transcript is None else "human")


def test_a_line_of_another_turn_is_not_used(tmp_path):
    put_dialogue(tmp_path, transcription="M: Mine.\nSes01F_impro01_FXX0 [006.2901-008.2357]: [LAUGHTER]\nhello\n")
    assert {row.transcript for row in by_name(tmp_path).values()} == {None}


def test_a_dialogue_without_transcription_has_no_transcripts(tmp_path):
    put_dialogue(tmp_path)
    (tmp_path / "Session1/dialog/transcriptions/Ses01F_impro01.txt").unlink()
    assert {row.transcript for row in by_name(tmp_path).values()} == {None}


@pytest.mark.parametrize(
    "cut", ["[11.0000 - 14.0000]\tSes01F_impro01_F0", "[11.0000 - 14.0000]\tSes01F_impro01_F001\txxx\t[2.5000, 2.5"]
)
def test_a_truncated_label_line_is_rejected_with_its_votes(tmp_path, cut):
    line = "[11.0000 - 14.0000]\tSes01F_impro01_F001\txxx\t[2.5000, 2.5000, 2.5000]"
    put_dialogue(tmp_path, EVALUATION.replace(line, cut).replace("\n\n[11", "\n[11"))  # not even a blank line before
    rows = list(read(tmp_path))
    (rejection,) = (row for row in rows if isinstance(row, Rejection))
    assert (rejection.path, rejection.reason) == ("Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "bad_row")
    assert rejection.detail.startswith("line 10: '[11.0000 - 14.0000] Ses01F_impro01_F0")
    by_id = {row.utterance_id: row for row in rows if isinstance(row, Utterance)}
    assert list(by_id) == ["Ses01F_impro01_F000", "Ses01F_impro01_M000"]
    assert by_id["Ses01F_impro01_F000"].ratings == {"Anger": 2, "Neutral": 2}


@pytest.mark.parametrize("cut", ["C-E3:\tNeutral; Ang", "C-E", "E3:\tNeutral; Anger;\t(curious)"])
def test_a_truncated_vote_is_rejected_and_the_utterance_kept(tmp_path, cut):
    put_dialogue(tmp_path, EVALUATION.replace("C-E3:\tNeutral; Anger;\t(curious)", cut))
    (rejection, first, *_) = read(tmp_path)
    assert (rejection.reason, rejection.detail[:8]) == ("bad_row", "line 5: ")
    assert "vote on Ses01F_impro01_F000" in rejection.detail
    assert first.ratings == {"Anger": 1, "Neutral": 1}


def test_a_truncated_transcript_line_is_rejected(tmp_path):
    put_dialogue(tmp_path, transcription=TRANSCRIPTION.replace("[011.0000-014.0000]: Yeah.", "[011.0000-0"))
    rejection, *rows = read(tmp_path)
    assert (rejection.path, rejection.reason) == ("Session1/dialog/transcriptions/Ses01F_impro01.txt", "bad_row")
    assert [row.transcript for row in rows] == ["Excuse me.", None, "Do you have your forms?"]


def test_a_row_with_an_invalid_name_is_rejected(tmp_path):
    put_dialogue(tmp_path, EVALUATION.replace("Ses01F_impro01_M000", "../../../etc_M000"))
    assert [row.reason for row in read(tmp_path) if isinstance(row, Rejection)] == ["bad_row"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_encodings_line_ends_and_a_further_column(tmp_path, encoding):
    evaluation = EVALUATION.replace("2.0000]\n", "2.0000]\tanother\n").replace("\n", "\r\n")
    transcription = TRANSCRIPTION.replace("Excuse me.", "A “café”…").replace("\n", "\r\n")
    put_dialogue(tmp_path, evaluation, transcription, encoding=encoding)
    by_id = by_name(tmp_path)
    assert [row.transcript for row in by_id.values()] == ["A “café”…", "Yeah.", "Do you have your forms?"]
    assert [row.label for row in by_id.values()] == ["neu", "xxx", "fru"]


def test_every_file_of_the_miniature_release_is_kept_or_rejected(tmp_path, tone):
    release = tmp_path / "copy" / "IEMOCAP_full_release"
    lines = [
        Line(session, "F", part, letter, number, label, f"{session} {part} {letter} {number}")
        for session in range(1, 6)
        for part in ("impro01", "script01_1")
        for letter, number, label in (("F", 0, "neu"), ("M", 0, "exc"), ("F", 1, "xxx"))
    ]
    write(release, lines, tone())
    folder = release / "Session1/sentences/wav/Ses01F_impro01"
    (folder / "Ses01F_impro01_F000.wav").unlink()
    put(folder / "Ses01F_impro01_FXX0.wav", tone())
    put(folder / "._Ses01F_impro01_M000.wav", b"\0")
    put(release / "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt", b"\0\5")
    put(release / "Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Anger;")
    put(release / "Session1/dialog/wav/Ses01F_impro01.wav", tone())  # the dialogue, not an utterance
    put(tmp_path / "outside.wav", tone())
    linked = release / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav"
    linked.unlink()
    linked.symlink_to(tmp_path / "outside.wav")
    summary, by_id, rejected = prepare(iemocap, tmp_path / "copy", tmp_path / "out")
    assert (summary["n_found"], summary["n_utterances"], summary["n_rejected"]) == (31, 28, 3)
    assert {row["path"].rpartition("/")[2]: row["reason"] for row in rejected} == {
        "Ses01F_impro01_F000.wav": "missing_audio",
        "Ses02F_impro01_F000.wav": "outside_root",
        "Ses01F_impro01_FXX0.wav": "orphan",
    }
    assert summary["labels"] == {"exc": 10, "neu": 8, "xxx": 10}
    assert summary["tasks"]["iemocap_4"] == {"ang": 0, "hap": 10, "neu": 8, "sad": 0, "unmapped": 10}
    assert summary["ranges"] == {"valence": [1, 5], "arousal": [1, 5], "dominance": [1, 5]}
    first = by_id["Ses01F_impro01_M000"]
    assert (first["duration_s"], first["start_s"], first["end_s"]) == (0.2, 4.0, 6.5)  # cut by the release already
    kept, _, _ = prepare(iemocap, tmp_path / "copy", tmp_path / "kept", keep_missing_audio=True)
    assert (kept["n_utterances"], kept["n_without_audio"]) == (29, 1)


def test_an_evaluation_linked_outside_the_root_is_refused(tmp_path):
    put_dialogue(tmp_path / "elsewhere")
    put_dialogue(tmp_path / "here")
    evaluation = tmp_path / "here/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    evaluation.unlink()
    evaluation.symlink_to(tmp_path / "elsewhere/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt")
    with pytest.raises(CorpusError, match="points outside the corpus folder"):
        list(read(tmp_path / "here"))


def test_a_second_evaluation_of_an_utterance_is_rejected(tmp_path, tone):
    put_dialogue(tmp_path / "r", EVALUATION + "\n[20.0 - 21.0]\tSes01F_impro01_F000\tang\t[1.0, 1.0, 1.0]\n")
    for name in ("F000", "F001", "M000"):
        put(tmp_path / f"r/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_{name}.wav", tone())
    summary, by_id, _ = prepare(iemocap, tmp_path / "r", tmp_path / "out")
    assert (summary["n_found"], summary["rejected"]) == (4, {"duplicate_id": 1})
    assert by_id["Ses01F_impro01_F000"]["label"] == "neu"


@pytest.fixture(scope="module")
def published_release(tmp_path_factory):
    """A synthetic release with the published counts, without audio."""
    root = tmp_path_factory.mktemp("synthetic_iemocap")
    lines = published()
    write(root, lines)
    return root, lines


@pytest.mark.slow
def test_the_published_counts(published_release, tmp_path):
    root, lines = published_release
    summary, by_id, rejected = prepare(iemocap, root, tmp_path / "out", keep_missing_audio=True)
    assert not rejected
    assert (summary["n_found"], summary["n_utterances"]) == (10_039, 10_039)
    assert summary["labels"] == LABELS
    assert summary["tasks"]["iemocap_4"] == {"ang": 1103, "hap": 1636, "neu": 1708, "sad": 1084, "unmapped": 4508}
    assert summary["tasks"]["iemocap_6"]["unmapped"] == 10_039 - 7380
    assert summary["tasks"]["iemocap_all"]["unmapped"] == LABELS["xxx"]
    task = load_tasks("iemocap")["iemocap_4"]
    mapped = [row for row in by_id.values() if task.label_of(row["label"])]
    assert len(mapped) == 5531
    assert Counter(row["session"] for row in mapped) == {f"Ses0{session}": n for session, n in SESSIONS.items()}
    assert sorted(summary["speakers"]) == [f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"]
    assert {name: row["transcript"] for name, row in by_id.items()} == {line.name: line.transcript for line in lines}
    assert {line.name: FOUR.get(line.label) for line in lines} == {
        name: task.label_of(row["label"]) for name, row in by_id.items()
    }


def test_order_does_not_depend_on_the_file_system(published_release):
    root, lines = published_release
    first = [row.audio_path for row in read(root)]
    dialogues = [path.split("/")[3] for path in first]
    assert dialogues == sorted(dialogues)
    assert len(set(first)) == len(lines)


def test_an_empty_folder_is_not_a_release(tmp_path):
    (tmp_path / "r").mkdir()
    with pytest.raises(
        CorpusError, match=r"found no audio files of the corpus in .*, which has nothing; recipes/corpora"
    ):
        prepare(iemocap, tmp_path / "r", tmp_path / "out")
