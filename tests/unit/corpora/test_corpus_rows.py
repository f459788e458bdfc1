"""Rows of a prepared corpus: values that no column takes, and audio that is long or missing."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora import parts, write_corpus


@pytest.fixture
def rows(tone):
    first = Utterance(
        utterance_id="u1", corpus="tiny", audio_path="a/u1.wav", audio_bytes=tone(), speaker="s1", label="glad", age=31,
        ratings={"sad": 1, "glad": 2},
    )  # fmt: skip
    second = Utterance(utterance_id="u2", corpus="tiny", audio_path="a/u2.wav", audio_bytes=tone(hertz=300))
    return [first, second, Rejection("a/u3.wav", "empty", "the file has no bytes")]


def write(rows, out_dir, **options):
    return write_corpus(rows, corpus="tiny", out_dir=out_dir, loader_version="1", processes=1, **options)


@pytest.mark.parametrize(
    "changed",
    [{"age": 2**31}, {"turn": -(2**31) - 1}, {"ratings": {"glad": 2**31}}, {"age": 10**30}],
)
def test_a_value_that_no_column_takes_rejects_its_row_alone(rows, tmp_path, changed):
    summary = write([replace(rows[0], **changed), *rows[1:]], tmp_path / "out")
    assert (summary["n_utterances"], summary["rejected"]) == (1, {"bad_value": 1, "empty": 1})
    rejected = json.loads((tmp_path / "out/rejected.jsonl").read_text().splitlines()[0])
    assert (rejected["path"], rejected["detail"][:13]) == ("a/u1.wav", "utterance u1:")


def test_long_audio_is_written_in_smaller_groups(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_BYTES_IN_A_GROUP", 2 * len(rows[0].audio_bytes))
    write([replace(rows[0], utterance_id=f"u{number}") for number in range(5)], tmp_path / "out")
    file = pq.ParquetFile(tmp_path / "out/utterances/part-00000.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 2, 1]


def test_a_file_of_20_gb_is_rejected_and_its_parts_are_read(tmp_path, tone):
    content = bytearray(tone(seconds=0.1, container="RF64"))
    content[20:36] = (20 * 10**9 + 96).to_bytes(8, "little") + (20 * 10**9).to_bytes(8, "little")
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(content)
        file.truncate(20 * 10**9 + 104)  # without blocks on the disk
    whole = Utterance(utterance_id="whole", corpus="tiny", audio_path="long.wav")
    part = replace(whole, utterance_id="part", cut=True, start_s=100_000.0, end_s=100_001.0)
    summary = write([whole, part], tmp_path / "out", root=tmp_path)
    assert (summary["n_utterances"], summary["rejected"], summary["duration_s"]) == (1, {"too_long": 1}, 1.0)


def test_a_link_to_a_file_that_does_not_exist_is_named(tmp_path, rows):
    (tmp_path / "a.wav").symlink_to(".git/annex/objects/x.wav")
    found = Utterance(utterance_id="a", corpus="tiny", audio_path="a.wav")
    write([rows[0], found], tmp_path / "out", root=tmp_path)
    (rejected,) = map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    assert rejected["reason"] == "missing_audio"
    assert "it is a link to .git/annex/objects/x.wav" in rejected["detail"]
