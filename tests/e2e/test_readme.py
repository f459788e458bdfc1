"""README's commands and Python code, run in order as they are written, on a miniature of their requirements.

The miniature is a folder with the repository's recipes, tones of some speakers instead of recordings, and a tiny model
with random weights in a folder with the name of the published model, where transformers finds it first. Differences
from README are in ``CHANGED``, ``make`` and ``pip``, each with its reason.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch

from lalm_mer.cli import main
from lalm_mer.models.families.qwen2_audio import Qwen2Audio

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
CHANGED = {"accelerate_configs/multi_gpu.yaml": "accelerate_configs/cpu.yaml"}  # one process: there are no two GPUs
if not torch.cuda.is_available():  # what README says for such a machine
    CHANGED["recipes/finetune.py"] = "recipes/finetune.py train.use_cpu=true"
    CHANGED["recipes/zero_shot.py"] = "recipes/zero_shot.py scoring.use_cpu=true"


@pytest.fixture(scope="module")
def miniature(workplace, tmp_path_factory):
    """The folder in which README's commands are run."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("recipes", "prompts", "eval", "accelerate_configs"):
        (folder / name).symlink_to(ROOT / name)
    model = folder / Qwen2Audio.published[0]
    model.parent.mkdir()
    model.symlink_to(workplace.folder / "model")
    shutil.copytree(workplace.folder / "clips", folder / "my_recordings")
    manifest = folder / "my_recordings/manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").replace(",content,", ",neutral,"), "utf-8")
    (folder / "new_recordings").mkdir()
    for name in ("s1_0.wav", "s2_1.wav"):
        shutil.copy(folder / "my_recordings" / name, folder / "new_recordings")
    return folder


def run(line, environment, monkeypatch, capsys):
    """Run one command; those without a launcher run in this process, which has imported torch already."""
    for written, instead in CHANGED.items():
        line = line.replace(written, instead)
    program, *words = shlex.split(line, comments=True)
    if program == "make":  # the demo and the tests take minutes and have their own tests
        subprocess.run([program, "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":  # packages must not change; the names of the extras are compared
        extras = {extra for word in words for group in re.findall(r"\[(.*)\]", word) for extra in group.split(",")}
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert extras <= set(known)
    elif program == "lalm-mer" and words[0] == "launch":
        launcher = [sys.executable, "-m", "lalm_mer.cli", *words]
        done = subprocess.run(launcher, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    elif program == "lalm-mer":
        assert main(words) == 0, capsys.readouterr().err
    else:
        assert program == "python", line
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(words[0], run_name="__main__")
        assert not end.value.code, capsys.readouterr().err


def test_every_block_is_run():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(BLOCKS) >= 5


@pytest.mark.slow
def test_readme_runs_from_top_to_bottom(miniature, workplace, monkeypatch, capsys):
    monkeypatch.chdir(miniature)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # recipes may change it
    for language, block in BLOCKS:
        capsys.readouterr()
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            printed = capsys.readouterr().out.splitlines()
            assert [line.split()[0] for line in printed] == ["new_recordings/s1_0.wav", "new_recordings/s2_1.wav"]
            continue
        for line in filter(None, block.splitlines()):
            run(line, workplace.environment() | {"PYTHONPATH": str(ROOT)}, monkeypatch, capsys)
    predictions = pd.read_csv("predictions.csv")
    assert list(predictions["status"]) == ["scored", "scored"]
    labels = [f"prob_{label}" for label in ("angry", "happy", "neutral", "sad")]
    assert predictions[labels].sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert Path("outputs/report/report.html").is_file()
    (launched,) = Path("outputs/runs/mine").iterdir()  # by the launcher, with the name from the recipe
    for run_folder in (Path("outputs/runs/mine_lora"), launched):
        assert (run_folder / "adapter/adapter_model.safetensors").is_file()
        assert (run_folder / "metrics.json").is_file()
