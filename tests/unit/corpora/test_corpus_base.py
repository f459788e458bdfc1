import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Rejection
from lalm_mer.corpora.base import AudioFile, list_files, load_tasks, number_of, read_audio, read_table


def nan_wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(800, np.nan, np.float32), 8000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_rate_and_duration_are_those_of_the_released_file(tmp_path, tone):
    (tmp_path / "a.wav").write_bytes(content := tone(0.5, 44100, channels=2))
    samples = decode(content, "a.wav").sha256
    assert read_audio(tmp_path, tmp_path / "a.wav") == AudioFile("a.wav", content, 44100, 0.5, samples)


def test_a_part_of_a_file_has_the_duration_of_the_part(tmp_path, tone):
    (tmp_path / "a.wav").write_bytes(tone(1.0))
    audio = read_audio(tmp_path, tmp_path / "a.wav", 0.25, 0.75)
    assert isinstance(audio, AudioFile)
    assert audio.duration_s == 0.5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero.wav", "empty"),
        ("cut.wav", "truncated"),
        ("cut.flac", "truncated"),
        ("nan.wav", "non_finite"),
        ("letter.wav", "unreadable"),
        ("absent.wav", "missing_audio"),
        ("nosamples.wav", "empty"),
    ],
)
def test_a_bad_file_is_rejected_with_its_reason(tmp_path, tone, name, reason):
    content = {
        "zero.wav": b"",
        "cut.wav": tone(1.0)[:4000],
        "cut.flac": tone(5.0, container="FLAC")[:9000],
        "nan.wav": nan_wav(),
        "letter.wav": b"Dear reader, this is a letter.",
        "nosamples.wav": tone(0.0),
    }
    if name in content:
        (tmp_path / name).write_bytes(content[name])
    rejection = read_audio(tmp_path, tmp_path / name)
    assert isinstance(rejection, Rejection)
    assert (rejection.path, rejection.reason) == (name, reason)
    assert "\n" not in rejection.detail


@pytest.mark.parametrize("way", ["../outside.wav", "link.wav"])
def test_a_file_outside_the_root_is_not_read(tmp_path, tone, way):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.wav").write_bytes(tone())
    (root / "link.wav").symlink_to(tmp_path / "outside.wav")
    rejection = read_audio(root, root / way)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "outside_root"


def test_a_link_within_the_root_is_read(tmp_path, tone):
    (tmp_path / "a.wav").write_bytes(tone())
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    assert isinstance(read_audio(tmp_path, tmp_path / "b.wav"), AudioFile)


def test_files_are_listed_sorted_without_hidden_ones_and_linked_folders_named(tmp_path):
    root = tmp_path / "root"
    for name in ("b/2.wav", "a/1.wav", ".git/x.wav", "a/._1.wav", "c.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (root / "aa").symlink_to(tmp_path / "elsewhere")
    listed = list(list_files(root))
    names = [item.relative_to(root).as_posix() if isinstance(item, Path) else item.reason for item in listed]
    assert names == ["a/1.wav", "outside_root", "b/2.wav", "c.wav"]


def test_a_missing_root_is_named_in_one_line(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere: expected a folder, found nothing: no such folder; "):
        list(list_files(tmp_path / "nowhere"))


def test_ravdess_task_has_the_eight_classes_in_the_releases_order():
    task = load_tasks("ravdess")["ravdess_8"]
    assert task.label_set.labels == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert all(task.label_set.forms_of(label)[0] == label for label in task.label_set.labels)
    assert dict(task.label_map) == {label: label for label in task.label_set.labels}


@pytest.mark.parametrize("corpus", ["of_the_users_own", "../tasks/ravdess", ""])
def test_an_unknown_corpus_has_no_tasks(corpus):
    assert load_tasks(corpus) == {}


TABLE = "Name,Words,Emotion\nu1, It\u2019s fine ,joy\nu2,cut in ha\nu3,Yes,anger,and more\n\nu4,,joy\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_release_table_in_any_encoding_loses_no_row(tmp_path, encoding, newline):
    (tmp_path / "t.csv").write_bytes(TABLE.replace("\n", newline).encode(encoding))
    rows = list(read_table(tmp_path, tmp_path / "t.csv", ["Emotion", "Name"]))
    assert rows[0] == {"Name": "u1", "Words": "It\u2019s fine", "Emotion": "joy"}
    assert rows[1] == Rejection("t.csv", "bad_row", "row 3: 2 cells of 3: 'u2,cut in ha'")
    assert (rows[2]["Emotion"], rows[3]["Words"], len(rows)) == ("anger", "", 4)


def test_a_table_without_its_column_or_outside_the_root_is_named(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    with pytest.raises(CorpusError, match=r"t\.csv: no column 'Speaker', found Name, Words, Emotion"):
        list(read_table(tmp_path, tmp_path / "t.csv", ["Speaker"]))
    with pytest.raises(CorpusError, match=r"gone\.csv: cannot be read"):
        list(read_table(tmp_path, tmp_path / "gone.csv", []))
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.csv").symlink_to(tmp_path / "t.csv")
    with pytest.raises(CorpusError, match=r"link\.csv: points outside the corpus folder"):
        list(read_table(tmp_path / "root", tmp_path / "root/link.csv", []))


def test_a_table_of_100_000_rows_is_read_quickly(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\n" + "".join(f"u{number},joy\n" for number in range(100_000)))
    began = time.monotonic()
    assert sum(isinstance(row, dict) for row in read_table(tmp_path, tmp_path / "t.csv", ["id"])) == 100_000
    assert time.monotonic() - began < 5


def test_other_text_than_a_number_is_missing():
    assert [number_of(cell) for cell in ("1.5", " -2 ", "", "NA", "nan", "inf", "1,5")] == [1.5, -2.0, *[None] * 5]


def test_a_folder_that_cannot_be_opened_and_a_name_that_cannot_be_written_are_listed(tmp_path, monkeypatch):
    for name in ("a/1.wav", "b/2.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = list(list_files(tmp_path))
    assert [item.name for item in found if isinstance(item, Path)] == ["1.wav"]
    assert {item.path: item.reason for item in found if isinstance(item, Rejection)} == {
        "b": "unreadable",
        "caf\\xe9.wav": "unreadable_name",
    }


def test_an_unclosed_quotation_mark_rejects_its_row(tmp_path):
    (tmp_path / "t.csv").write_text('id,words,label\n1,"' + "x" * 200_000 + "\n2,b,c\n")
    rows = list(read_table(tmp_path, tmp_path / "t.csv", ["id"]))
    assert [row.reason if isinstance(row, Rejection) else row["id"] for row in rows] == ["bad_row", "2"]
    (tmp_path / "t.csv").write_text('id,words,b,c,d\n1,"open,,,\n2,closed",,,\n3,"two\nlines, of one",,,\n')
    rows = list(read_table(tmp_path, tmp_path / "t.csv", ["id"]))
    assert [row.reason if isinstance(row, Rejection) else row["id"] for row in rows] == ["bad_row", "bad_row", "3"]
    (tmp_path / "t.csv").write_text('id,"' + "x" * 200_000)
    with pytest.raises(CorpusError, match=r"t\.csv: not a valid CSV"):
        list(read_table(tmp_path, tmp_path / "t.csv", ["id"]))
