"""The environment in which workers are started, by a cross-validation of workers that end at once."""

import json
import subprocess
from types import SimpleNamespace

import pytest
import torch

from lalm_mer.core.run_record import METRICS_FILE, RUN_FILE
from lalm_mer.launch.cross_validation.plan import PlannedRun
from lalm_mer.launch.cross_validation.workers import run_all

METRICS = {"uar": {"value": 0.5, "low": 0.4, "high": 0.6}, "n": 8, "n_unparsed": 0, "n_unscored": 0}


@pytest.fixture
def environments(tmp_path, monkeypatch):
    """A function that starts workers for as many runs of one system, and returns the environment of each."""
    started = []

    def finished(command, *, env, **_):
        started.append(env)
        for name, content in ((METRICS_FILE, METRICS), (RUN_FILE, {})):
            for folder in tmp_path.glob("run*"):
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    def start(count):
        folders = [tmp_path / f"run{number}" for number in range(count)]
        for folder in folders:
            folder.mkdir()
        settings = [SimpleNamespace(output=SimpleNamespace(dir=str(folder)), split=None) for folder in folders]
        run_all([PlannedRun("a", "a", "finetune", each, (), {}) for each in settings], count, tmp_path / "logs")
        return started

    monkeypatch.setattr(subprocess, "Popen", finished)
    return start


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("2", "2")])
def test_a_worker_has_one_thread_without_a_gpu_unless_the_user_says_otherwise(
    given, expected, environments, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert [each["OMP_NUM_THREADS"] for each in environments(2)] == [expected] * 2


def test_a_worker_has_a_gpu_of_its_own(environments, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3)] == ["4", "6", "4"]
