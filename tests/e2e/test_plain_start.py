"""A recipe started by plain ``python`` on one device, and the loggers of its training."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from a_gpu import a_gpu
from shipped import ROOT, SERVED, load, script

from lalm_mer.core.run_record import read_record

LORA, QLORA, ZERO_SHOT = (f"recipes/ravdess/{method}.yaml" for method in ("lora", "qlora", "zero_shot"))
IN_FLOAT16 = ("model.dtype=float16", "train.bf16=false", "train.fp16=true")
ON_CPU = "engine.accelerate_config=accelerate_configs/cpu.yaml"


@pytest.fixture
def as_shipped(shipped_command):
    """Creates commands that keep engine, device and precision of the YAML: one GPU, in bfloat16."""

    def make(file, *overrides):
        kept = (ON_CPU, "train.use_cpu=true", "scoring.use_cpu=true", "train.bf16=false", "model.dtype=float32")
        return [word for word in shipped_command(file) if word not in kept] + list(overrides)

    return make


@pytest.mark.slow
def test_plain_python_starts_a_run_written_for_a_gpu(as_shipped, workplace, tmp_path):
    """Without a launcher; on a CPU, use_cpu is the only other difference."""
    command = as_shipped(LORA, "train.use_cpu=true")
    assert not any("accelerate" in word for word in command)
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=workplace.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (metrics,) = tmp_path.glob("outputs/runs/ravdess/*/metrics.json")
    record = read_record(metrics.with_name("run.json"))
    assert record.config["engine"]["accelerate_config"] == load(LORA).engine.accelerate_config
    assert record.config["train"]["bf16"]
    assert record.config["model"]["dtype"] == "bfloat16"
    assert set(pd.read_parquet(metrics.with_name("predictions.parquet"))["status"]) == {"scored"}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize(("file", "section"), [(LORA, "train"), (ZERO_SHOT, "scoring")])
def test_without_a_gpu_a_run_written_for_one_is_refused_first(file, section, as_shipped, run_script, tmp_path, capsys):
    command = as_shipped(file)
    capsys.readouterr()  # what making corpus and model printed
    assert run_script(*command) == 1
    printed = capsys.readouterr()
    assert printed.err.strip().splitlines()[-1] == (
        "error: engine.accelerate_config=accelerate_configs/single_gpu.yaml is for a GPU, but no GPU is found; set "
        f"{section}.use_cpu=true to run on the CPU"
    )
    assert printed.out == ""
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("file", "overrides", "says"),
    [
        (QLORA, (), "error: key 'model.dtype': bfloat16, key 'train.bf16': true; Tesla T4 (7.5) has no bfloat16, and"),
        (ZERO_SHOT, (), "error: key 'model.dtype': bfloat16; Tesla T4 (7.5) has no bfloat16, and its emulation is"),
        (QLORA, ("model.dtype=float16", "train.bf16=false"), "error: key 'model.dtype': float16; small gradients"),
        (QLORA, IN_FLOAT16, None),
        (SERVED, (), None),  # the server has its own GPU
    ],
)  # fmt: skip
def test_a_gpu_without_bfloat16_is_named_first(file, overrides, says, run_script, tmp_path, monkeypatch, capsys):
    a_gpu(monkeypatch)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    folders = (f"data.dir={tmp_path}", f"output.dir={tmp_path / 'run'}")
    assert run_script(script(file), "--config", file, *folders, *overrides) == 1
    next_check = f"error: {tmp_path}: not a prepared corpus"
    assert capsys.readouterr().err.splitlines()[-1].startswith(says or next_check)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_scoring_written_for_a_gpu_runs_on_the_cpu_if_the_config_says_so(as_shipped, run_script, tmp_path):
    assert run_script(*as_shipped(ZERO_SHOT, "scoring.use_cpu=true")) == 0
    assert len(list(tmp_path.rglob("metrics.json"))) == 1


def test_training_is_also_logged_to_tensorboard(run_shipped, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; it is in the extra `dev`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run_shipped(LORA, "train.report_to=[tensorboard]", "train.logging_steps=1")
    (events,) = (tmp_path / folder).rglob("events.out.tfevents.*")
    logged = EventAccumulator(str(events)).Reload()
    assert {"train/loss", "eval/loss", "eval/uar"} <= set(logged.Tags()["scalars"])
    history = pd.read_json(tmp_path / folder / "history.jsonl", lines=True)
    (loss,) = logged.Scalars("train/loss")
    assert loss.value == pytest.approx(history.loc[history["split"] == "train", "loss"].item(), rel=1e-6)
    assert not [path for path in (tmp_path / folder / "adapter").iterdir() if "events" in path.name]
