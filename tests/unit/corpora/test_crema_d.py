import os
from collections import Counter
from pathlib import Path

import pytest
from small_release import prepare, put

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora import crema_d

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"
CHANNELS = {"voice": "VoiceVote", "face": "FaceVote", "both": "MultiModalVote"}

CLIPS = [
    *(f"1001_IEO_{emotion}_{level}" for emotion in ("ANG", "SAD") for level in ("LO", "MD", "HI")),
    *(f"1002_{sentence}_NEU_XX" for sentence in ("DFA", "TSI", "WSI")),
    *(f"1091_ITH_{emotion}_XX" for emotion in ("DIS", "FEA", "HAP")),
]
VOTES_HEADER = ["", "A", "D", "F", "H", "N", "S", "fileName", "numResponses", "agreement"]


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
    put(root / "SentenceFilenames.csv", table([["Stimulus_Number", "Filename"], *enumerate(CLIPS, start=1)]))
    put(
        root / "VideoDemographics.csv",
        table(
            [
                ["ActorID", "Age", "Sex", "Race", "Ethnicity"],
                [1001, 51, "Male", "Caucasian", "Not Hispanic"],
                [1002, 21, "Female", "Unknown", "Hispanic"],
            ]
        ),
    )
    put(root / "processedResults/tabulatedVotes.csv", table(votes_table(CLIPS)))
    for place, clip in enumerate(CLIPS):
        put(root / f"AudioWAV/{clip}.wav", tone(hertz=200 + place))
    return root


def reasons(rows):
    return [(row.path, row.reason) for row in rows if isinstance(row, Rejection)]


def utterances(root):
    return {row.utterance_id: row for row in crema_d.read(root) if isinstance(row, Utterance)}


def test_name_and_tables_fill_every_column(release):
    put(release / "VideoFlash/1002_DFA_NEU_XX.flv", b"FLV")
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


def test_a_complete_release_is_prepared(release, tmp_path):
    summary, rows, rejected = prepare(crema_d, release, tmp_path / "out", keep_missing_audio=True)
    assert (summary["n_found"], summary["n_utterances"], rejected) == (12, 12, [])
    assert summary["labels"] == {"ANG": 3, "SAD": 3, "NEU": 3, "DIS": 1, "FEA": 1, "HAP": 1}
    assert summary["speakers"] == {"1001": 6, "1002": 3, "1091": 3}
    assert {name: counts["unmapped"] for name, counts in summary["tasks"].items()} == {
        "crema_d_6": 0,
        "crema_d_6_voice": 0,
        "crema_d_6_face": 12,  # five to five: no label
        "crema_d_6_both": 0,
    }
    assert summary["tasks"]["crema_d_6_voice"]["neutral"] == summary["tasks"]["crema_d_6_both"]["angry"] == 12
    lacking = rows["1091_ITH_DIS_XX"]  # of an actor whom the table does not list
    assert (lacking["gender"], lacking["age"], lacking["ethnicity"]) == (None, None, None)


def test_clips_in_the_tables_are_utterances_even_without_audio(release, tmp_path):
    (release / "AudioWAV" / f"{CLIPS[0]}.wav").unlink()
    summary, rows, rejected = prepare(crema_d, release, tmp_path / "kept", keep_missing_audio=True)
    assert (summary["n_utterances"], summary["n_without_audio"], rejected) == (12, 1, [])
    assert rows[CLIPS[0]]["audio"] is None
    summary, rows, rejected = prepare(crema_d, release, tmp_path / "rejected")
    assert (summary["n_utterances"], [(row["path"], row["reason"]) for row in rejected]) == (
        11,
        [(f"AudioWAV/{CLIPS[0]}.wav", "missing_audio")],
    )


def test_audio_without_tables_is_a_release(release):
    for name in ("SentenceFilenames.csv", "VideoDemographics.csv", "processedResults/tabulatedVotes.csv"):
        (release / name).unlink()
    found = utterances(release)
    assert sorted(found) == sorted(CLIPS)
    assert {(row.ratings, row.gender, row.age, row.ethnicity) for row in found.values()} == {(None, None, None, None)}


def test_clips_are_found_in_any_table_or_on_disk(release, tone):
    put(release / "SentenceFilenames.csv", table([["Stimulus_Number", "Filename"], [1, "1003_DFA_ANG_XX"]]))
    put(release / "AudioWAV/1004_DFA_ANG_XX.wav", tone())
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
def test_files_that_are_not_clips_of_the_release_are_rejected(release, path, reason):
    put(release / path, b"")
    assert reasons(crema_d.read(release)) == [(path, reason)]
    assert set(utterances(release)) == set(CLIPS)


def test_other_files_are_ignored(release):
    for path in ("README.md", "finishedResponses.csv", "processedResults/summaryTable.csv", "AudioWAV/._1.wav"):
        put(release / path, b"\0")
    assert reasons(crema_d.read(release)) == []


def test_the_file_that_older_copies_misname_is_its_clip(release, tone):
    put(release / "AudioWAV/1040_ITH_SAD_X.wav", tone())
    assert utterances(release)["1040_ITH_SAD_XX"].audio_path == "AudioWAV/1040_ITH_SAD_X.wav"


def test_a_duplicate_clip_is_kept_once(release, tmp_path, tone):
    put(release / f"AudioWAV/{CLIPS[0]}.flac", tone(container="FLAC"))
    put(release / f"AudioWAV/{CLIPS[1]}.WAV", tone())
    summary, rows, rejected = prepare(crema_d, release, tmp_path / "out", keep_missing_audio=True)
    assert (summary["n_found"], len(rows)) == (14, 12)
    assert Counter(row["reason"] for row in rejected) == {"duplicate_id": 2}


def test_a_pointer_of_git_lfs_is_not_audio(release, tmp_path):
    put(release / f"AudioWAV/{CLIPS[0]}.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    _, rows, rejected = prepare(crema_d, release, tmp_path / "out", keep_missing_audio=True)
    assert len(rows) == 11
    assert [(row["path"], row["reason"]) for row in rejected] == [(f"AudioWAV/{CLIPS[0]}.wav", "unreadable")]


def test_links_out_of_the_release_are_refused(release, tmp_path, tone):
    put(tmp_path / "elsewhere/secret.wav", tone())
    (release / "AudioWAV" / f"{CLIPS[0]}.wav").unlink()
    (release / "AudioWAV" / f"{CLIPS[0]}.wav").symlink_to(tmp_path / "elsewhere" / "secret.wav")
    (release / "more").symlink_to(tmp_path / "elsewhere")
    _, rows, rejected = prepare(crema_d, release, tmp_path / "out", keep_missing_audio=True)
    assert len(rows) == 11
    assert {(row["path"], row["reason"]) for row in rejected} == {
        (f"AudioWAV/{CLIPS[0]}.wav", "outside_root"),
        ("more", "outside_root"),
    }


@pytest.mark.parametrize("target", ["elsewhere.csv", "nowhere.csv"])
def test_a_table_linked_outside_the_release_or_to_nothing_is_an_error(release, tmp_path, target):
    put(tmp_path / "elsewhere.csv", (release / "VideoDemographics.csv").read_bytes())
    (release / "VideoDemographics.csv").unlink()
    (release / "VideoDemographics.csv").symlink_to(tmp_path / target)
    with pytest.raises(CorpusError, match="points outside the corpus folder"):
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
def test_tables_in_other_encodings_are_read_the_same(release, change):
    expected = list(crema_d.read(release))
    for name in ("SentenceFilenames.csv", "VideoDemographics.csv", "processedResults/tabulatedVotes.csv"):
        put(release / name, change((release / name).read_bytes()))
    assert list(crema_d.read(release)) == expected


def test_windows_characters_are_read(release):
    content = (release / "VideoDemographics.csv").read_bytes()
    put(release / "VideoDemographics.csv", content.replace(b"Caucasian", "Café".encode("cp1252")))
    assert utterances(release)[CLIPS[0]].ethnicity == "Café, Not Hispanic"


def test_a_truncated_row_is_rejected_and_the_others_are_kept(release):
    content = (release / "processedResults/tabulatedVotes.csv").read_bytes()
    put(release / "processedResults/tabulatedVotes.csv", content[: content.rindex(b"1091")])
    assert reasons(crema_d.read(release)) == [("processedResults/tabulatedVotes.csv", "bad_row")]
    cut, complete = utterances(release)[CLIPS[-1]], utterances(release)[CLIPS[-2]]
    assert {key.partition(":")[0] for key in cut.ratings} == {"voice", "face"}
    assert len(complete.ratings) == 18


@pytest.mark.parametrize(
    ("name", "row", "detail"),
    [
        ("SentenceFilenames.csv", [13, "1001_ABC_ANG_XX"], "is not a clip of CREMA-D"),
        ("SentenceFilenames.csv", [13, CLIPS[0]], "duplicate row of"),
        ("VideoDemographics.csv", [1092, 21, "Male", "Asian", "Not Hispanic"], "is not an actor of CREMA-D"),
        ("VideoDemographics.csv", [1001, 21, "Male", "Asian", "Not Hispanic"], "duplicate row of actor 1001"),
        ("VideoDemographics.csv", [1091, "old", "Male", "Asian", "Not Hispanic"], "age 'old'"),
        ("VideoDemographics.csv", [1091, 21, "M", "Asian", "Not Hispanic"], "sex 'M'"),
        ("processedResults/tabulatedVotes.csv", votes_of(100099, CLIPS[0], (9, 0, 0, 0, 0, 0)), "already has votes"),
        ("processedResults/tabulatedVotes.csv", votes_of(400001, CLIPS[0], (9, 0, 0, 0, 0, 0)), "number '400001'"),
        ("processedResults/tabulatedVotes.csv", votes_of(100099, "1001", (9, 0, 0, 0, 0, 0)), "clip '1001'"),
        (
            "processedResults/tabulatedVotes.csv",
            [100099, 9, 0, 0, 0, 0, 0, "1003_DFA_ANG_XX", 10, 1],
            "with the sum numResponses",
        ),
        (
            "processedResults/tabulatedVotes.csv",
            [100099, 9.5, 0, 0, 0, 0, 0, "1003_DFA_ANG_XX", 9.5, 1],
            "votes are not integers",
        ),
    ],
)
def test_an_invalid_row_is_rejected_without_effect(release, name, row, detail):
    before = list(crema_d.read(release))
    put(release / name, (release / name).read_bytes() + table([row]))
    rejection, *rest = crema_d.read(release)
    assert (rejection.path, rejection.reason) == (name, "bad_row")
    assert detail in rejection.detail
    assert "\n" not in rejection.detail
    assert rest == before


def test_an_age_that_is_not_given_is_none(release):
    content = (release / "VideoDemographics.csv").read_bytes()
    put(release / "VideoDemographics.csv", content.replace(b'"51"', b"NA"))
    assert utterances(release)["1001_IEO_ANG_LO"].age is None


@pytest.mark.parametrize("content", [b"", b"Stimulus_Number,File\n1,1001_IEO_NEU_XX\n"])
def test_a_table_without_its_columns_is_an_error(release, content):
    put(release / "SentenceFilenames.csv", content)
    with pytest.raises(CorpusError, match=r"SentenceFilenames\.csv: no column 'Filename'"):
        list(crema_d.read(release))


def test_a_root_that_is_not_a_folder_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="expected a folder"):
        list(crema_d.read(tmp_path / "nothing"))


def test_the_folder_above_the_release_is_refused(release, tmp_path):
    with pytest.raises(CorpusError, match="folder_mismatch"):
        prepare(crema_d, release.parent, tmp_path / "out", keep_missing_audio=True)


@pytest.mark.parametrize("utterance_id", ["1000_IEO_NEU_XX", "1092_IEO_NEU_XX", "1001_IEO_NEU_XX.wav", "03a01Fa", ""])
def test_other_text_than_an_id_has_no_facts(utterance_id):
    assert crema_d.facts(utterance_id) is None


def test_order_does_not_depend_on_the_file_system(release, monkeypatch):
    expected = list(crema_d.read(release))
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top, **_: ((at, sub[::-1], files[::-1]) for at, sub, files in walk(top)))
    assert list(crema_d.read(release)) == expected


# The tables and eleven clips as released


@pytest.mark.parametrize("number", ["2147483648", "1" * 4301, "\u0661", "-1", "1.5"])
def test_a_number_that_is_none_of_the_release_rejects_its_row_alone(release, tmp_path, number):
    votes = votes_table(CLIPS)
    votes[1][1] = votes[1][8] = number
    put(release / "processedResults/tabulatedVotes.csv", table(votes))
    put(
        release / "VideoDemographics.csv",
        table([["ActorID", "Age", "Sex", "Race", "Ethnicity"], [1001, number, "Male", "", ""]]),
    )
    summary, rows, rejected = prepare(crema_d, release, tmp_path / "out")
    assert [(row["path"], row["reason"]) for row in rejected] == [
        ("VideoDemographics.csv", "bad_row"),
        ("processedResults/tabulatedVotes.csv", "bad_row"),
    ]
    assert summary["n_utterances"] == len(rows) == len(CLIPS)
