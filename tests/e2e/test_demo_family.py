"""The demo of one family: its files exist, and the swapped run scores the adapter of the previous run."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from lalm_mer.core.config import load_config
from lalm_mer.launch.config.settings import FinetuneSettings, TinySettings, ZeroShotSettings

ROOT = Path(__file__).parents[2]
SCHEMAS = {"zero_shot": ZeroShotSettings, "lora": FinetuneSettings, "lora_audio_swapped": ZeroShotSettings}


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("demo_family", ROOT / "recipes/demo_family.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(schema, command):
    config = command.index("--config")
    return load_config(schema, ROOT / command[config + 1], command[config + 2 :])


@pytest.mark.parametrize("family", ["glmasr", "clap", "composed_clap"])
def test_the_runs_of_a_family_use_the_same_data_and_adapter(demo, family, tmp_path):
    prepare, build = demo.preparation(family, "somewhere", tmp_path, tmp_path / "data")
    runs = demo.runs(family, tmp_path)
    for command in (prepare, build, *runs.values()):
        for path in (word.removeprefix("prompt.file=") for word in command):
            if path.endswith((".py", ".yaml")):
                assert (ROOT / path).is_file(), f"{path} in {' '.join(command)}"
    tiny = settings(TinySettings, build)
    zero_shot, lora, swapped = (settings(SCHEMAS[method], command) for method, command in runs.items())
    assert all(run.model.family == tiny.family == family for run in (zero_shot, lora, swapped))
    assert all(run.model.id == tiny.output.dir for run in (zero_shot, lora, swapped))
    assert zero_shot.prompt == lora.prompt == swapped.prompt
    assert zero_shot.data == lora.data == swapped.data == tiny.data
    assert zero_shot.data.dir == str(ROOT / demo.DATA)
    assert swapped.model.adapter == lora.output.dir
    assert [run.scoring.condition for run in (zero_shot, swapped)] == ["none", "audio_swapped"]


def test_existing_data_and_models_are_not_created_again(demo, tmp_path):
    for file in ("data/summary.json", "tiny_glmasr/config.json"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    assert demo.preparation("glmasr", "", tmp_path, tmp_path / "data") == []


@pytest.mark.parametrize(
    ("variables", "script"),
    [
        ([], 'recipes/demo.py --corpus "circumplex" --root ""'),
        (["CORPUS=ravdess", "CORPUS_ROOT=x"], 'recipes/demo.py --corpus "ravdess" --root "x"'),
        (
            ["CORPUS=ravdess", "CORPUS_ROOT=x", "FAMILY=clap"],
            'recipes/demo_family.py --family "clap" --corpus "ravdess" --root "x"',
        ),
    ],
)
def test_make_starts_the_right_demo(variables, script):
    done = subprocess.run(
        ["make", "--dry-run", "demo", *variables], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert script in " ".join(done.stdout.replace("\\\n", " ").split()), done.stderr
