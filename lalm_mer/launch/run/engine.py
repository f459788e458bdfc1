"""The engine asked for against the engine found: a run that silently became one process is an error."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.settings import EngineSettings, ScoringSettings

__all__ = ["Engine", "check_accelerator", "expected_engine"]


@dataclass(frozen=True)
class Engine:
    """How many processes work together, and through what.

    Args:
        source: the accelerate config file
        distributed_type: as accelerate names it: NO, MULTI_CPU, MULTI_GPU, FSDP, DEEPSPEED
        num_processes: of all machines together
        deepspeed_config_file: for TrainingArguments; None for other engines
    """

    source: str
    distributed_type: str
    num_processes: int
    deepspeed_config_file: str | None


def expected_engine(settings: EngineSettings, sizes: ScoringSettings) -> Engine:
    """Read what the run expects, and compare it with the launcher's environment and the device.

    A run that is started for one GPU on a machine without any works on the CPU, but for mixed precision.

    Args:
        settings: which engine
        sizes: section ``scoring`` or ``train``

    Raises:
        ConfigError: if the launcher started another number of processes, or there is no GPU for mixed precision
    """
    _require_precision(sizes)
    content = read_yaml(Path(settings.accelerate_config))
    deepspeed: dict[str, Any] = content.get("deepspeed_config") or {}
    engine = Engine(
        settings.accelerate_config,
        str(content.get("distributed_type", "NO")),
        settings.num_processes or int(content.get("num_processes", 1)),
        deepspeed.get("deepspeed_config_file"),
    )
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != engine.num_processes:
        raise ConfigError(
            f"started as {found} process(es), but {_source(engine)} says {engine.num_processes}; launch with "
            f"'accelerate launch --config_file {engine.source} ...', or set engine.accelerate_config (and "
            "engine.num_processes) to what you launch with"
        )
    return engine


def _require_precision(sizes: ScoringSettings) -> None:
    """Refuse before the model is loaded what transformers refuses after."""
    mixed = getattr(sizes, "bf16", False)
    if mixed and not sizes.use_cpu and torch.accelerator.current_accelerator(check_available=True) is None:
        raise ConfigError(
            "key 'train.bf16': true, but no GPU is found; set train.use_cpu=true to train on the CPU, or "
            "train.bf16=false"
        )


def check_accelerator(engine: Engine, accelerator: Accelerator) -> None:
    """Compare the engine that accelerate really set up with the one expected.

    Raises:
        ConfigError: if processes do not know of each other, or another engine drives them
    """
    found = accelerator.distributed_type.value
    wanted = engine.distributed_type
    same = found == wanted or (wanted == "NO" and accelerator.num_processes == 1 and found in ("NO", "MULTI_CPU"))
    if accelerator.num_processes != engine.num_processes or not same:
        raise ConfigError(
            f"accelerate set up {accelerator.num_processes} process(es) by {found}, but {_source(engine)} says "
            f"{engine.num_processes} by {wanted}; launch with 'accelerate launch --config_file {engine.source} ...'"
        )


def _source(engine: Engine) -> str:
    return f"engine.accelerate_config={engine.source}"
