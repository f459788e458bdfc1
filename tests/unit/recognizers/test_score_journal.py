"""Scores on disk while they are computed: what is read again is what was written, or nothing."""

import json

import numpy as np
import pytest
import torch

from lalm_mer.core.errors import OutputError
from lalm_mer.recognizers import score_journal
from lalm_mer.recognizers.score_journal import NO_POSITION, ArrivingScores, ScoreJournal

SCORES = np.array([[-0.1, -2.3], [-1 / 3, -np.inf], [np.nan, -1e-300], [-5.0, -0.25], [-7.0, -8.0]])


def read(file, run="this run", count=6):
    return ScoreJournal(file, run, count)


@pytest.fixture
def file(tmp_path):
    """Three lines with five of six inputs."""
    journal = read(tmp_path / "scores" / "test.jsonl")
    for rows in ([0, 1], [3, 2], [4]):
        journal.add(rows, SCORES[rows])
    return tmp_path / "scores" / "test.jsonl"


def assert_results(journal, positions):
    """These positions alone have results, which are bit-identical to what was written."""
    assert sorted(journal.results) == positions
    for position in positions:
        np.testing.assert_array_equal(journal.results[position], SCORES[position])


def test_what_was_added_is_read_again(file):
    journal = read(file)
    assert_results(journal, [0, 1, 2, 3, 4])
    assert (journal.damaged, journal.of_another_run) == ([], 0)


def test_several_prompts_and_answers_are_read_again(tmp_path):
    scores = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32).astype(np.float64)
    read(tmp_path / "scores.jsonl").add([4, 1], scores)
    found = read(tmp_path / "scores.jsonl").results
    assert found.keys() == {4, 1}
    np.testing.assert_array_equal(np.stack([found[4], found[1]]), scores)
    read(tmp_path / "answers.jsonl").add([0, 5], ["Happy.\n", "ü \u2028 \x00"])
    assert read(tmp_path / "answers.jsonl").results == {0: "Happy.\n", 5: "ü \u2028 \x00"}


def test_a_line_that_was_cut_anywhere_is_written_again(file):
    whole = file.read_bytes()
    second, third = (whole.index(end) + 1 for end in (b"\n", b"\n" + whole.splitlines()[2]))
    for length in range(second, third, 7):
        file.write_bytes(whole[:length])
        journal = read(file)
        assert_results(journal, [0, 1])
        journal.add([2, 3], SCORES[[2, 3]])
        assert_results(read(file), [0, 1, 2, 3])
        assert len(file.read_bytes().splitlines()) == 2


def test_a_damaged_byte_is_never_a_wrong_number(file):
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] = random.choice([byte for byte in b'0123456789-."[]e\n\xff\0' if byte != whole[place]])
        file.write_bytes(damaged)
        journal = read(file)
        lost = {0: [0, 1], 1: [2, 3], 2: [4]}
        line = whole[:place].count(b"\n")
        kept = [
            row for number, rows in lost.items() for row in rows if number not in (line, line + (whole[place] == 10))
        ]
        assert_results(journal, sorted(kept))
        assert journal.damaged or damaged[-1:] != b"\n"


def test_damaged_lines_are_named_and_their_inputs_scored_again(file):
    lines = file.read_bytes().splitlines(keepends=True)
    part = json.loads(lines[1])
    part["results"][0][0] = -0.5
    file.write_bytes(lines[0] + json.dumps(part).encode() + b"\n" + b"[" * 100_000 + b"\n" + lines[2])
    journal = read(file)
    assert journal.damaged == [2, 3]
    assert_results(journal, [0, 1, 4])
    journal.add([2, 3], SCORES[[2, 3]])
    assert_results(read(file), [0, 1, 2, 3, 4])


def test_scores_of_another_run_are_not_used_and_then_removed(file):
    journal = read(file, "another run")
    assert (journal.results, journal.of_another_run) == ({}, 3)
    assert file.read_bytes().count(b"\n") == 3  # reading alone changes nothing
    journal.add([0], SCORES[[3]])
    (line,) = file.read_bytes().splitlines()
    assert json.loads(line)["run"] == "another run"
    assert read(file).results == {}


def test_positions_outside_the_inputs_are_not_used(file):
    journal = read(file, count=4)
    assert sorted(journal.results) == [0, 1, 2, 3]
    assert journal.damaged == [3]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "scores").touch()
    with pytest.raises(OutputError, match=r"scores: cannot be written: "):
        read(tmp_path / "scores" / "test.jsonl").add([0], SCORES[[0]])


def test_batches_are_moved_in_parts_and_each_input_once(tmp_path, monkeypatch):
    file = tmp_path / "scores.jsonl"
    arriving = ArrivingScores(read(file))

    def add(rows, scores):
        arriving.add(torch.tensor(rows), torch.tensor(SCORES[scores]))

    add([0, 1, NO_POSITION], [0, 1, 1])
    assert not file.exists()  # no part is complete
    monkeypatch.setattr(score_journal, "PART_S", 0.0)
    add([3, 2], [3, 2])
    assert_results(read(file), [0, 1, 2, 3])
    add([4, 0, 4], [4, 3, 3])  # a batch that had been scored in part, and a repeated one
    assert_results(read(file), [0, 1, 2, 3, 4])
    assert [len(json.loads(line)["positions"]) for line in file.read_text().splitlines()] == [4, 1]
    assert arriving.positions == [0, 1, 3, 2, 4, 0, 4]
