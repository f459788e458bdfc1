"""The engine and device that a run expects, checked before anything is loaded."""

import pytest
import torch

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.sections import EngineSettings, ScoringSettings, TrainSettings
from lalm_mer.launch.run.engine import Engine, expected_engine

ONE_GPU = EngineSettings("accelerate_configs/single_gpu.yaml")


@pytest.fixture(autouse=True)
def _plain_start(monkeypatch, request):
    """In the repository, without a launcher."""
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def accelerator(monkeypatch):
    """Sets the accelerator that torch finds; None for a machine without one."""
    return lambda found: monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: found
    )


@pytest.mark.parametrize("sizes", [ScoringSettings(use_cpu=True), TrainSettings(bf16=True, use_cpu=True)])
def test_a_run_for_one_gpu_starts_on_a_machine_without_a_gpu_if_it_uses_the_cpu(accelerator, sizes):
    accelerator(None)
    assert expected_engine(ONE_GPU, sizes) == Engine(ONE_GPU.accelerate_config, "NO", 1, None)


@pytest.mark.parametrize(("sizes", "section"), [(ScoringSettings(), "scoring"), (TrainSettings(bf16=True), "train")])
@pytest.mark.parametrize("name", ["single_gpu", "multi_gpu", "fsdp2", "deepspeed_zero2"])
def test_a_run_for_a_gpu_is_refused_on_a_machine_without_one(accelerator, sizes, section, name):
    accelerator(None)
    with pytest.raises(ConfigError) as refused:
        expected_engine(EngineSettings(f"accelerate_configs/{name}.yaml"), sizes)
    assert str(refused.value) == (
        f"engine.accelerate_config=accelerate_configs/{name}.yaml is for a GPU, but no GPU is found; set "
        f"{section}.use_cpu=true to run on the CPU"
    )


def test_more_processes_than_gpus_are_refused(accelerator, monkeypatch):
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"started as 2 processes on this machine, which has 1 GPU\(s\)"):
        expected_engine(EngineSettings("accelerate_configs/multi_gpu.yaml"), ScoringSettings())


def test_mixed_precision_needs_a_gpu_or_use_cpu(accelerator, monkeypatch):
    accelerator(None)
    with pytest.raises(ConfigError) as refused:
        expected_engine(EngineSettings(), TrainSettings(bf16=True))
    assert str(refused.value) == (
        "key 'train.bf16': true, but no GPU is found; set train.use_cpu=true to train on the CPU, or train.bf16=false"
    )
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert expected_engine(ONE_GPU, TrainSettings(bf16=True)).num_processes == 1


def test_a_plain_start_of_a_run_for_several_processes_is_refused(accelerator, monkeypatch):
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"started as 1 process\(es\), but engine\.accelerate_config=\S+ says 2; launch"
    ):
        expected_engine(EngineSettings("accelerate_configs/multi_gpu.yaml"), ScoringSettings())
