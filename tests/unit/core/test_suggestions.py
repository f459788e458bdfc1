"""What an error says of a name that does not exist."""

import pytest

from lalm_mer.core.suggestions import did_you_mean, no_such_path


@pytest.fixture
def folder(tmp_path):
    for name in ("outputs/tiny_iemocap", "outputs/runs", "prompts/dialogue"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("audio", "transcript", "dialogue/audio_transcript"):
        (tmp_path / f"prompts/{name}.yaml").touch()
    return tmp_path


def test_the_nearest_name_is_named(folder):
    assert no_such_path(folder / "outputs/tiny_iemocp", "folder") == "no such folder; did you mean tiny_iemocap?"
    assert no_such_path(folder / "output/tiny", "folder") == (
        f"no such folder: there is no {folder}/output; did you mean outputs?"
    )


def test_without_a_similar_name_those_that_exist_are_listed(folder):
    assert no_such_path(folder / "outputs/x") == f"no such file; {folder}/outputs has runs, tiny_iemocap"
    assert no_such_path(folder / "outputs/runs/x") == f"no such file; {folder}/outputs/runs has nothing"


@pytest.mark.parametrize("name", ["audoi", "prompts/audoi.yaml", "elsewhere/audoi.yml"])
def test_a_file_of_a_usual_folder_may_be_named_in_any_way(name, folder):
    assert no_such_path(folder / name, among=folder / "prompts") == (
        f"no such file; did you mean {folder}/prompts/audio.yaml? {folder}/prompts has audio, "
        "dialogue/audio_transcript, transcript"
    )


def test_a_name_unlike_all_others_has_no_suggestion():
    assert did_you_mean("zzz", ["audio"]) == ""
