"""The journal of a run on a server: every answered utterance once, whatever the last process left."""

import json

import pytest

from lalm_mer.core.errors import PredictionError
from lalm_mer.recognizers.remote.journal import Answer, Journal
from lalm_mer.recognizers.remote.replies import Usage


def answer(name, **changes):
    return Answer(**({"utterance_id": name, "model": "m", "log_probs": ((-1.0, -0.5),), "text": None,
                      "usage": Usage(2, 30, 4)} | changes))  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """A journal with two answers."""
    journal = read(tmp_path / "answers.jsonl")
    journal.add(answer("u1"))
    journal.add(answer("ü2\r", log_probs=None, text="line\nbreak \u2028"))
    return tmp_path / "answers.jsonl"


def read(file):
    return Journal(file, prompts=1, labels=2)


def test_what_was_added_is_read_again(file):
    journal = read(file)
    assert journal.answers == {"u1": answer("u1"), "ü2\r": answer("ü2\r", log_probs=None, text="line\nbreak \u2028")}
    assert journal.usage() == Usage(4, 60, 8)
    assert journal.model == "m"
    assert len(file.read_bytes().splitlines()) == 2


def test_a_line_that_was_cut_anywhere_is_removed(file):
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole), 9):
        file.write_bytes(whole[:length])
        journal = read(file)
        assert list(journal.answers) == ["u1"]
        journal.add(answer("u3"))
        assert [json.loads(line)["utterance_id"] for line in file.read_text().splitlines()] == ["u1", "u3"]


def test_reading_alone_changes_nothing(file):
    file.write_bytes(file.read_bytes() + b'{"utt')
    read(file)
    assert file.read_bytes().endswith(b'{"utt')
    read(file.with_name("none.jsonl"))
    assert not file.with_name("none.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"x", "line 3: not valid JSON"),
        (b"{}", "line 3: key 'utterance_id' is missing"),
        (b'{"utterance_id":"u1","model":"m","log_probs":null,"text":"x","usage":{"requests":1}}', "utterance u1 again"),
        (
            b'{"utterance_id":"u3","model":"n","log_probs":null,"text":"x","usage":{"requests":1}}',
            "model 'n', before 'm'",
        ),
        (b'{"utterance_id":"u3","model":"m","log_probs":[[1.0]],"text":null,"usage":{}}', "not 1 x 2"),
        (b'{"utterance_id":"u3","model":"m","log_probs":null,"text":"x","usage":{},"more":1}', "unknown key"),
    ],
)
def test_a_malformed_line_names_file_and_number(file, line, says):
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(PredictionError, match=says) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))
