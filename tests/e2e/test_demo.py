"""The demo's commands: all files that they name exist, and every method runs with every modality."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "recipes/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("corpus", ["circumplex", "ravdess"])
def test_commands_name_files_that_exist(demo, corpus, tmp_path):
    for command in [*demo.preparation(corpus, "somewhere", tmp_path), *demo.runs(corpus, tmp_path).values()]:
        for word in command:
            path = word.removeprefix("prompt.file=")
            if path.endswith((".py", ".yaml")):
                assert (ROOT / path).is_file(), f"{path} in {' '.join(command)}"


def test_every_method_runs_with_every_modality(demo, tmp_path):
    expected = {f"{method}_{m}" for method in ("zero_shot", "lora", "baseline") for m in demo.MODALITIES}
    assert set(demo.runs("circumplex", tmp_path)) == expected


def test_a_prepared_corpus_is_not_prepared_again(demo, tmp_path):
    assert len(demo.preparation("circumplex", "", tmp_path)) == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "data/summary.json").touch()
    (tmp_path / "tiny_qwen2_audio").mkdir()
    (tmp_path / "tiny_qwen2_audio/config.json").touch()
    assert demo.preparation("circumplex", "", tmp_path) == []


def test_a_run_that_fails_ends_the_demo_with_its_last_lines(demo, tmp_path):
    with pytest.raises(SystemExit, match="what went wrong"):
        demo.run(["python", "-c", "print('what went wrong'); raise SystemExit(3)"], tmp_path / "log")
