"""Paths that a user writes."""

from pathlib import Path

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import absolute, as_recorded, is_path, path_or_id


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "outputs" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/jane")


def test_a_path_becomes_absolute_and_is_recorded_relative_to_the_working_directory(tmp_path):
    assert absolute("~/runs/a") == "/home/jane/runs/a" == as_recorded("/home/jane/runs/a")
    assert absolute("outputs/a") == absolute("./outputs/a") == f"{tmp_path}/outputs/a"
    assert as_recorded(f"{tmp_path}/outputs/a") == "outputs/a"
    assert as_recorded("user/name") == "user/name"
    assert absolute("") == ""


@pytest.mark.parametrize(("path", "says"), [("~nobody_here/a", "no such user"), ("a\0b", "null character")])
def test_a_path_that_cannot_be_is_an_error(path, says):
    with pytest.raises(ConfigError, match=says):
        absolute(path)


@pytest.mark.parametrize(
    "text", ["~/m", "./m", "../m", "/m", "a/b/c", "m/", "a\\b", "outputs", "outputs/tiy", "outputs/tiny"]
)
def test_what_looks_like_a_path_is_one(text):
    assert is_path(text)
    assert Path(path_or_id(text)).is_absolute()


@pytest.mark.parametrize("text", ["gpt2", "Qwen/Qwen2-Audio-7B-Instruct", "scratch", ""])
def test_a_hub_id_is_none(text):
    assert path_or_id(text) == text
