import json
import os
import re
import unicodedata

import pytest

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import Rejection
from lalm_mer.corpora import load, manifest, write_corpus


@pytest.fixture
def folder(tmp_path, tone):
    for name in ("a.wav", "b.flac", "deep/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tone(1.0, container="FLAC" if name.endswith("flac") else "WAV"))
    return tmp_path


def read(folder, content, name="manifest.csv", **options):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(manifest.read(folder, name, **options))


def test_reads_every_column(folder):
    rows = read(
        folder,
        "path,transcript,transcript_source,speaker,gender,age,language,session,dialogue,turn,script,label,valence\n"
        'a.wav,"Well, yes.",human,s1,female,31,en,1,d1,2,p1,glad,3.5\nb.flac,,,,,,,,,,,,\ndeep/c.wav,,,,,,,,,,,,\n',
    )
    assert [row.utterance_id for row in rows] == ["a", "b", "deep/c"]
    first = rows[0]
    assert (first.transcript, first.transcript_source, first.speaker, first.age) == ("Well, yes.", "human", "s1", 31)
    assert (first.session, first.turn, first.label, first.valence) == ("1", 2, "glad", 3.5)
    assert (first.corpus, first.audio_path, first.cut) == ("manifest", "a.wav", False)
    assert (rows[1].label, rows[1].age, rows[1].transcript) == (None, None, None)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_delimiter_newline_and_byte_order_mark_do_not_matter(folder, delimiter, newline, bom):
    lines = [["path", "label"], ["a.wav", "glad"], ["b.flac", "sad"], ["deep/c.wav", "sad"]]
    content = newline.join(delimiter.join(line) for line in lines) + newline
    rows = read(folder, bom + content.encode())
    assert [(row.utterance_id, row.label) for row in rows] == [("a", "glad"), ("b", "sad"), ("deep/c", "sad")]


def test_rows_are_in_the_order_of_the_manifest(folder):
    rows = read(folder, "path\ndeep/c.wav\na.wav\nb.flac\n")
    assert [row.utterance_id for row in rows] == ["deep/c", "a", "b"]


def test_jsonl_is_read(folder):
    lines = [{"path": "a.wav", "label": "glad", "age": 30}, {"path": "b.flac", "valence": 2}, {"path": "deep/c.wav"}]
    rows = read(folder, "\n".join(map(json.dumps, lines)), "rows.jsonl")
    assert [(row.label, row.age, row.valence) for row in rows] == [("glad", 30, None), (None, None, 2.0), (None,) * 3]


def test_columns_of_other_names_are_mapped(folder):
    content = "file,emotion,who\na.wav,glad,s1\nb.flac,sad,s1\ndeep/c.wav,sad,s2\n"
    rows = read(folder, content, columns={"path": "file", "label": "emotion", "speaker": "who"})
    assert [(row.label, row.speaker) for row in rows] == [("glad", "s1"), ("sad", "s1"), ("sad", "s2")]


def test_a_mapped_column_that_is_missing_is_named_with_those_found(folder):
    with pytest.raises(
        CorpusError, match=r"no column 'words' for 'transcript', found path, label; set corpus\.columns"
    ):
        read(folder, "path,label\na.wav,glad\n", columns={"transcript": "words"})
    with pytest.raises(CorpusError, match=r"no column 'path' for 'path', found file"):
        read(folder, "file\na.wav\n")
    with pytest.raises(ConfigError, match=r"argument 'columns\.text': no such column; expected one of path, utter"):
        read(folder, "path\na.wav\n", columns={"text": "words"})


def test_without_a_transcript_column_transcripts_are_missing(folder):
    assert {row.transcript for row in read(folder, "path\na.wav\nb.flac\ndeep/c.wav\n")} == {None}


def test_an_undeclared_label_is_an_error(folder):
    with pytest.raises(CorpusError) as error:
        read(folder, "path,label\na.wav,glad\nb.flac,mad\n", labels=["glad", "sad"])
    assert str(error.value) == (
        "manifest.csv: row 3, file b.flac: label 'mad' is not one of the declared corpus.labels ['glad', 'sad']; "
        "correct the row or declare it"
    )


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("age", "about 30", "not a number"),
        ("age", "30.5", "not an integer"),
        ("valence", '"3,5"', "not a number"),
        ("valence", "nan", "not a number"),
        ("valence", "1_0", "not a number"),
        ("valence", "7", r"outside \[1, 5\]"),
        ("transcript_source", "guess", "not one of human, asr, simulated"),
        ("utterance_id,start_s,end_s", "x,0.5,0.5", "do not enclose any audio"),
        ("utterance_id,start_s,end_s", "x,-1,0.5", "do not enclose any audio"),
    ],
)
def test_a_bad_value_rejects_its_row(folder, columns, cells, message):
    (folder / "b.flac").unlink()
    (folder / "deep/c.wav").unlink()
    (rejection,) = read(folder, f"path,{columns}\na.wav,{cells}\n", ranges={"valence": [1, 5]})
    assert (rejection.path, rejection.reason) == ("a.wav", "bad_value")
    assert rejection.detail.startswith("row 2: ")
    assert re.search(message, rejection.detail)


def test_missing_files_orphans_and_paths_outside_are_rejected(folder, tone):
    (folder.parent / "outside.wav").write_bytes(tone())
    rows = read(folder, "path\na.wav\ngone.wav\n../outside.wav\n\n")
    write_corpus(rows, corpus="m", out_dir=folder / "out", root=folder, loader_version="1", processes=1)
    rejected = [json.loads(line) for line in (folder / "out/rejected.jsonl").read_text().splitlines()]
    assert {row["path"]: row["reason"] for row in rejected} == {
        "gone.wav": "missing_audio",
        "../outside.wav": "outside_root",
        "b.flac": "orphan",
        "deep/c.wav": "orphan",
    }
    assert load(folder / "out").dataset["utterance_id"][:] == ["a"]


def test_an_empty_path_is_a_bad_value(folder):
    assert Rejection("row 2", "bad_value", "path is empty") in read(folder, 'path,label\n"",glad\na.wav,sad\n')


def test_several_utterances_of_one_file_are_cut(folder):
    content = "path,utterance_id,start_s,end_s\na.wav,a1,0.0,0.4\na.wav,a2,0.4,\na.wav,a3,0.9,1.5\n"
    rows = read(folder, content)
    summary = write_corpus(rows, corpus="m", out_dir=folder / "out", root=folder, loader_version="1", processes=1)
    parts = [
        (row["utterance_id"], row["start_s"], row["end_s"], round(row["duration_s"], 3))
        for row in load(folder / "out").dataset
    ]
    assert parts == [("a1", 0.0, 0.4, 0.4), ("a2", 0.4, None, 0.6)]
    assert summary["rejected"] == {"orphan": 2, "truncated": 1}
    labelled = read(folder, content, cut=False)
    assert [(row.cut, row.start_s) for row in labelled[:2]] == [(False, 0.0), (False, 0.4)]
    with pytest.raises(CorpusError, match="add a column utterance_id"):
        read(folder, "path,start_s\na.wav,0.1\n")


def test_the_second_row_of_an_id_is_rejected(folder, tmp_path):
    rows = read(folder, "path,utterance_id\na.wav,x\nb.flac,x\ndeep/c.wav,y\n")
    summary = write_corpus(rows, corpus="manifest", out_dir=tmp_path / "out", root=folder, loader_version="1")
    assert (summary["n_found"], summary["n_utterances"], summary["rejected"]) == (3, 2, {"duplicate_id": 1})


def test_windows_characters_need_their_encoding(folder):
    content = "path,transcript\na.wav,it\u2019s fine\n".encode("cp1252")
    with pytest.raises(CorpusError, match=r"manifest\.csv: row 2, byte 24 \(0x92\) is not utf-8-sig; set corpus\.enc"):
        read(folder, content)
    assert read(folder, content, encoding="cp1252")[0].transcript == "it\u2019s fine"
    with pytest.raises(ConfigError, match=r"argument 'encoding'.*klingon"):
        read(folder, content, encoding="klingon")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("path,path\na.wav,b\n", "m.csv", "duplicate column 'path'"),
        ("", "m.csv", "no column 'path' for 'path', found none"),
        ("{oops}\n{oops}\n", "m.jsonl", "no row can be read, the first one is line 1: not valid JSON"),
        ('["a.wav"]\n', "m.jsonl", "line 1: expected an object"),
        ("[" * 100_000, "m.jsonl", "line 1: not valid JSON"),
        ("version https://git-lfs.github.com/spec/v1\nsize 9\n", "m.csv", "a pointer of Git LFS, not the file itself"),
    ],
)
def test_a_malformed_manifest_is_one_line(folder, content, name, message):
    with pytest.raises(CorpusError, match=message):
        read(folder, content, name)


def test_a_missing_manifest_or_folder_is_named(folder):
    with pytest.raises(CorpusError, match=r"gone\.csv: cannot be read .*set corpus\.manifest"):
        list(manifest.read(folder, "gone.csv"))
    with pytest.raises(CorpusError, match=r"corpus root .*gone: no such folder; .* has a\.wav, b\.flac, deep"):
        list(manifest.read(folder / "gone", "m.csv"))


@pytest.mark.parametrize(
    "row",
    [
        {"path": "a.wav", "transcript": "\ud800 hi"},
        {"path": "a\u0000.wav"},
        {"path": "x" * 5000},
        {"path": ["a.wav"]},
        {"path": "a.wav", "utterance_id": {"x": 1}},
        {"path": "a.wav", "utterance_id": "two\nlines"},
        {"path": "a.wav", "age": 99999999999},
        {"path": "a.wav", "valence": 10**400},
        {"path": "a.wav", "utterance_id": "x", "end_s": "1e999"},
    ],
)
def test_a_value_that_fits_no_table_rejects_its_row(folder, row):
    rows = read(folder, json.dumps(row) + '\n{"path": "b.flac", "utterance_id": "b"}\n', "rows.jsonl")
    assert (rows[0].reason, rows[1].utterance_id) == ("bad_value", "b")
    assert "\n" not in rows[0].path
    write_corpus(rows, corpus="m", out_dir=folder / "out", root=folder, loader_version="1", processes=1)


@pytest.mark.parametrize("label", ["age", "turn", "valence", "start_s"])
@pytest.mark.parametrize("number", ["1" * 4301, "2147483648", "-2147483649", "1e400"])
def test_one_large_number_rejects_its_row_alone(folder, label, number):
    for name, content in (
        ("m.csv", f"path,utterance_id,{label}\na.wav,a,{number}\nb.flac,b,\ndeep/c.wav,c,\n"),
        (
            "m.jsonl",
            f'{{"path": "a.wav", "utterance_id": "a", "{label}": {number}}}\n{{"path": "b.flac"}}\n{{"path": '
            '"deep/c.wav"}\n',
        ),
    ):
        rows = read(folder, content, name)
        summary = write_corpus(rows, corpus="m", out_dir=folder / "out", root=folder, loader_version="1", processes=1)
        if label == "valence" and len(number) < 20 and "e" not in number:
            assert summary["n_rejected"] == 0
        else:
            assert (summary["n_utterances"], summary["n_rejected"]) == (2, 1)


@pytest.mark.parametrize(
    ("content", "faulty"),
    [
        ('path,text,label\na.wav,"open,glad\nb.flac,words,sad\ndeep/c.wav,words,sad\n', ["a.wav"]),
        ('path,text,label\na.wav,"open,glad\nb.flac,closed",sad\ndeep/c.wav,words,sad\n', ["a.wav", "b.flac"]),
        ('path,label,text\na.wav,glad,"open\nb.flac,sad,words\ndeep/c.wav,sad,closed"\n', ["a.wav", "deep/c.wav"]),
        ('path,text,label\na.wav,"a "mark" in it",glad\nb.flac,words,sad\ndeep/c.wav,words,sad\n', ["a.wav"]),
        ("path,text,label\na.wav,a comma, unquoted,glad\nb.flac,words,sad\ndeep/c.wav,words,sad\n", ["a.wav"]),
        ("path,text,label\na.wav\nb.flac,words,sad\ndeep/c.wav,words,sad\n", ["a.wav"]),
        (f"path,text,label\na.wav,{'x' * 200_000},glad\nb.flac,words,sad\ndeep/c.wav,words,sad\n", ["a.wav"]),
    ],
)
def test_a_malformed_row_is_rejected_and_the_others_are_read(folder, content, faulty):
    rows = read(folder, content)
    rejected = [row.path for row in rows if isinstance(row, Rejection)]
    assert rejected == faulty
    assert {row.reason for row in rows if isinstance(row, Rejection)} == {"bad_row"}
    assert all("\n" not in row.detail for row in rows if isinstance(row, Rejection))
    kept = [row.audio_path for row in rows if not isinstance(row, Rejection)]
    assert kept == [name for name in ("a.wav", "b.flac", "deep/c.wav") if name not in faulty]


def test_a_quoted_transcript_may_have_several_lines(folder):
    rows = read(folder, 'path,text,transcript\na.wav,x,"one, two,\nthree, b.wav, four\r\nfive"\nb.flac,,\n')
    assert rows[0].transcript == "one, two,\nthree, b.wav, four\r\nfive"
    assert [row.reason for row in rows if isinstance(row, Rejection)] == ["orphan"]


def test_a_malformed_json_line_is_rejected_and_the_others_are_read(folder):
    rows = read(folder, '{"path": "a.wav"\n[1]\n' + "[" * 100_000 + '\n{"path": "b.flac"}\n', "m.jsonl")
    assert [row.reason for row in rows[:3]] == ["bad_row"] * 3
    assert rows[3].utterance_id == "b"


@pytest.mark.parametrize("path", [".", "./", "./.", "/", "deep/.."])
def test_a_path_that_names_no_file_rejects_its_row(folder, path):
    rows = read(folder, f"path,label\n{path},glad\nb.flac,sad\n")
    summary = write_corpus(rows, corpus="m", out_dir=folder / "out", root=folder, loader_version="1", processes=1)
    assert (summary["n_utterances"], summary["n_rejected"]) == (1, 3)  # two files of no row


def test_a_folder_whose_name_is_not_utf_8_is_one_rejection(folder):
    (folder / "deep").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    summary = write_corpus(
        read(folder, "path\na.wav\nb.flac\n"), corpus="m", out_dir=folder / "out", root=folder, loader_version="1",
        processes=1,
    )  # fmt: skip
    assert (summary["n_utterances"], summary["rejected"]) == (2, {"unreadable_name": 1})
    assert '"caf\\\\xe9"' in (folder / "out" / "rejected.jsonl").read_text()


def test_a_manifest_outside_or_not_a_file_is_refused(folder):
    (folder.parent / "m.csv").write_text("path\na.wav\n")
    (folder / "link.csv").symlink_to(folder.parent / "m.csv")
    for name in ("../m.csv", "link.csv"):
        with pytest.raises(CorpusError, match="points outside the corpus folder"):
            list(manifest.read(folder, name))
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(CorpusError, match="not a regular file"):
        list(manifest.read(folder, "pipe.csv"))


def test_circular_links_reject_only_themselves(folder):
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    rows = read(folder, "path\na.wav\nloop.wav\n")
    summary = write_corpus(rows, corpus="m", out_dir=folder / "out", root=folder, loader_version="1", processes=1)
    assert (summary["n_utterances"], summary["rejected"]) == (1, {"orphan": 2, "unreadable": 1})


@pytest.fixture
def named(tmp_path, tone):
    """A folder whose file names a table may write in other forms."""
    root = tmp_path / "of_alice"
    names = ["a.wav", "deep/b.wav", "deep/c.wav", unicodedata.normalize("NFC", "caf\u00e9.wav"),
             unicodedata.normalize("NFD", "nai\u0308ve.wav"), "G.WAV"]  # fmt: skip
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(tone(hertz=100 + number))
    return root


def test_rows_are_matched_with_files_and_not_with_their_spelling(named, tmp_path):
    (tmp_path / "link").symlink_to(named)
    naive = unicodedata.normalize("NFC", "nai\u0308ve.wav")
    cafe = unicodedata.normalize("NFD", "caf\u00e9.wav")
    paths = [
        f"{named}/a.wav",
        "./deep/b.wav",
        "deep\\c.wav",
        cafe,
        f"{tmp_path}/link/./deep/../{naive}",
        " g.wav\u200b",
    ]
    rows = read(named, "path\n" + "".join(f"{path}\n" for path in paths))
    summary = write_corpus(rows, corpus="m", out_dir=tmp_path / "out", root=named, loader_version="1", processes=1)
    assert (summary["n_found"], summary["n_utterances"], summary["rejected"]) == (6, 6, {})
    ids = load(tmp_path / "out").dataset["utterance_id"][:]
    assert ids == ["a", "deep/b", "deep/c", "caf\u00e9", "na\u00efve", "G"]  # no folder above the root


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("{above}/x.wav,", "outside_root"),
        ("C:\\alice\\x.wav,", "outside_root"),
        ("a.wav,{above}/x", "bad_value"),
        ("a.wav,C:\\alice\\x", "bad_value"),
        (".,", "bad_value"),
        (" ,", "bad_value"),
    ],
)
def test_a_path_or_id_outside_the_folder_is_rejected(named, cells, reason):
    rows = read(named, "path,utterance_id\n" + cells.format(above=named.parent) + "\n")
    assert isinstance(rows[0], Rejection)
    assert rows[0].reason == reason
    assert {row.reason for row in rows[1:]} == {"orphan"}


def test_absolute_ids_and_videos_below_the_folder_become_relative(named):
    rows = read(named, f"path,utterance_id,video_path\na.wav,{named}/a,{named}/deep/b.wav\n./deep/b.wav,b,gone.mp4\n")
    assert [(row.utterance_id, row.video_path) for row in rows[:2]] == [("a", "deep/b.wav"), ("b", "gone.mp4")]
    (rejection, *_) = read(named, "path,video_path\na.wav,/videos/of/bob.mp4\n")
    assert (rejection.reason, "video_path '/videos/of/bob.mp4'" in rejection.detail) == ("bad_value", True)


def test_a_file_of_exactly_the_name_comes_before_others(named, tone):
    (named / "A.wav").write_bytes(tone(hertz=300))
    (named / "deep\\b.wav").write_bytes(tone(hertz=310))
    assert [row.audio_path for row in read(named, "path\na.wav\nA.wav\ndeep\\b.wav\n")[:3]] == [
        "a.wav", "A.wav", "deep\\b.wav",
    ]  # fmt: skip
    (row, *_) = read(named, "path\nA.WAV\n")  # fits both: neither is guessed
    assert row.audio_path == "A.WAV"


def test_labels_columns_and_numbers_are_read_in_any_spelling(folder):
    content = "path,e\u0301motion\u200b,age, turn\na.wav,gla\u0308d ,31\u200b,\nb.flac,\u200b,, 2\n"
    rows = read(folder, content, columns={"label": "\u00e9motion"}, labels=["gl\u00e4d"])
    assert [(row.age, row.turn) for row in rows[:2]] == [(31, None), (None, 2)]
    with pytest.raises(CorpusError, match="two spellings of one column"):
        read(folder, '{"path": "a.wav", "label": "x", "label ": "y"}\n', "rows.jsonl")
