"""JSON of a run that is not as it should be: one line that names the file."""

import json
import os

import pytest

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.run_record import ModelRecord
from lalm_mer.core.strict_json import parse, read_object

DEEP = 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"null", "expected a JSON object, found NoneType"),
        (b"[]", "expected a JSON object, found list"),
        (b'"text"', "expected a JSON object, found str"),
        (b"[" * DEEP, "not valid JSON"),
        (b"[" * DEEP + b"]" * DEEP, "not valid JSON"),
        (b'{"a": ' * DEEP + b"1" + b"}" * DEEP, "not valid JSON"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "more than 64 levels"),
        (b"\xff\xfe{\x00", "not valid JSON"),
        ('{"a": "é"}'.encode("latin-1"), "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        (b'{"a": NaN}', "the number NaN"),
        (b'{"a": -Infinity}', "the number -Infinity"),
        (b'{"a": 1e999}', "the number 1e999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ["\\ud800"]}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
    ],
)
def test_malformed_json_is_one_line(tmp_path, content, message):
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(PredictionError, match=message) as caught:
        read_object(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path, "is no file"), (tmp_path / "pipe", "is no file"), (tmp_path / "loop", "cannot be read"),
        (tmp_path / "none", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(PredictionError, match=message):
            read_object(path)


def test_a_very_large_file_is_not_read(tmp_path):
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(PredictionError, match=r"68,157,440 bytes; expected 67,108,864 at most"):
        read_object(tmp_path / "run.json")


def test_as_many_levels_as_a_run_has_are_read(tmp_path):
    content = {"a": {"b": [{"c": [1, 2.5, None, True, "é"]}]}}
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    assert read_object(tmp_path / "run.json") == content


@pytest.mark.parametrize("content", [None, [], "text", 3, [1]])
def test_a_section_that_is_no_object_is_named(content):
    with pytest.raises(PredictionError, match=r"section 'model': expected a JSON object, found"):
        parse(ModelRecord, content, "run.json: section 'model'")
