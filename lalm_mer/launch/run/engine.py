"""Comparison of the expected engine with the actual one, because a launcher may silently start a single process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.config.sections import EngineSettings, ScoringSettings, TrainSettings

__all__ = ["Engine", "check_accelerator", "expected_engine"]


@dataclass(frozen=True)
class Engine:
    """Number and kind of the processes of a run.

    Args:
        source: the accelerate config file
        distributed_type: name in accelerate: NO, MULTI_CPU, MULTI_GPU, FSDP, DEEPSPEED
        num_processes: number on all machines together
        deepspeed_config_file: for TrainingArguments; None for other engines
    """

    source: str
    distributed_type: str
    num_processes: int
    deepspeed_config_file: str | None


def expected_engine(settings: EngineSettings, sizes: ScoringSettings) -> Engine:
    """Read the expected engine, and compare it with the devices of the machine and the launcher's environment.

    Args:
        settings: the engine
        sizes: section ``scoring`` or ``train``

    Raises:
        ConfigError: if the engine or mixed precision needs a GPU that this machine lacks, or the launcher started
            another number of processes
    """
    content = read_yaml(Path(settings.accelerate_config))
    _require_devices(content, as_recorded(settings.accelerate_config), sizes)
    engine = Engine(
        as_recorded(settings.accelerate_config),
        str(content.get("distributed_type", "NO")),
        settings.num_processes or int(content.get("num_processes", 1)),
        (content.get("deepspeed_config") or {}).get("deepspeed_config_file"),
    )
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != engine.num_processes:
        raise ConfigError(
            f"started as {found} process(es), but engine.accelerate_config={engine.source} says {engine.num_processes};"
            f" launch with 'accelerate launch --config_file {engine.source} ...', or set engine.accelerate_config (and "
            "engine.num_processes) to what you launch with"
        )
    return engine


def _require_devices(content: Mapping[str, Any], source: str, sizes: ScoringSettings) -> None:
    """Check that there are the GPUs of the engine, and of mixed precision, unless the run uses the CPU."""
    if sizes.use_cpu:
        return
    section = "train" if isinstance(sizes, TrainSettings) else "scoring"
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None and not (content.get("use_cpu") or content.get("distributed_type") == "MULTI_CPU"):
        raise ConfigError(
            f"engine.accelerate_config={source} is for a GPU, but no GPU is found; set {section}.use_cpu=true to run "
            "on the CPU"
        )
    if found is None and getattr(sizes, "bf16", False):  # transformers checks it too late
        raise ConfigError(
            "key 'train.bf16': true, but no GPU is found; set train.use_cpu=true to train on the CPU, or "
            "train.bf16=false"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if found is not None and here > (devices := torch.accelerator.device_count()) and not content.get("use_cpu"):
        raise ConfigError(
            f"started as {here} processes on this machine, which has {devices} GPU(s); launch with --num_processes "
            f"{devices}, and set engine.num_processes"
        )


def check_accelerator(engine: Engine, accelerator: Accelerator) -> None:
    """Compare the engine that accelerate set up with the expected one.

    Raises:
        ConfigError: if the processes are not connected, or the engine is another
    """
    found = accelerator.distributed_type.value
    expected = engine.distributed_type
    same = found == expected or (expected == "NO" and accelerator.num_processes == 1 and found in ("NO", "MULTI_CPU"))
    if accelerator.num_processes != engine.num_processes or not same:
        raise ConfigError(
            f"accelerate set up {accelerator.num_processes} process(es) by {found}, but "
            f"engine.accelerate_config={engine.source} says {engine.num_processes} by {expected}; launch with "
            f"'accelerate launch --config_file {engine.source} ...'"
        )
