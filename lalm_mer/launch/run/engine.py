"""Comparison of the expected engine and precision with the actual ones, which a launcher may silently change."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env

from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.extras import install_extra
from lalm_mer.core.names import OPTIMIZERS
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.config.sections import EngineSettings, ScoringSettings, TrainSettings
from lalm_mer.models.devices import gpu_before_ampere

__all__ = ["Engine", "check_accelerator", "expected_engine", "run_device"]


@dataclass(frozen=True)
class Engine:
    """Number and kind of the processes of a run, and the precision in which they compute.

    Args:
        source: the accelerate config file
        distributed_type: name in accelerate: NO, MULTI_CPU, MULTI_GPU, FSDP, DEEPSPEED
        num_processes: number on all machines together
        deepspeed_config_file: for TrainingArguments; None for other engines
        mixed_precision: name in accelerate: no, bf16, fp16; only the run's own settings choose it
    """

    source: str
    distributed_type: str
    num_processes: int
    deepspeed_config_file: str | None
    mixed_precision: str = "no"


def expected_engine(settings: EngineSettings, sizes: ScoringSettings, dtype: str | None = None) -> Engine:
    """Read the expected engine, and compare it with the devices of the machine and the launcher's environment.

    Precision is part of a run, like its learning rate: ``bf16`` and ``fp16`` of its settings choose it, and an
    accelerate config that says another one is refused.

    Args:
        settings: the engine
        sizes: section ``scoring`` or ``train``
        dtype: ``model.dtype``; None for a run that loads no pretrained model on this machine

    Raises:
        ConfigError: if the engine or mixed precision needs a GPU that this machine lacks, the GPU only emulates the
            data type, float16 would be trained without scaling of the loss, the optimiser or the search for a batch
            size is not possible with them, the accelerate config says another precision, or the launcher used another
            config or started another number of processes
    """
    content, source = read_yaml(Path(settings.accelerate_config)), as_recorded(settings.accelerate_config)
    mixed_precision = _mixed_precision(content, source, sizes)
    _require_devices(content, source, sizes)
    _require_data_types(sizes, dtype)
    if isinstance(sizes, TrainSettings):
        _require_supported(content, source, sizes)
    _require_launched_with(content, source)
    engine = Engine(
        source,
        str(content.get("distributed_type", "NO")),
        settings.num_processes or int(content.get("num_processes", 1)),
        (content.get("deepspeed_config") or {}).get("deepspeed_config_file"),
        mixed_precision,
    )
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != engine.num_processes:
        raise ConfigError(
            f"started as {found} process(es), but engine.accelerate_config={engine.source} says {engine.num_processes};"
            f" launch with 'accelerate launch --config_file {engine.source} ...', or set engine.accelerate_config (and "
            "engine.num_processes) to what you launch with"
        )
    return engine


def _section(sizes: ScoringSettings) -> str:
    return "train" if isinstance(sizes, TrainSettings) else "scoring"


def _mixed_precision(content: Mapping[str, Any], source: str, sizes: ScoringSettings) -> str:
    """The precision that the settings of the run choose, which the accelerate config may repeat."""
    section = _section(sizes)
    if sizes.bf16 and sizes.fp16:
        raise ConfigError(f"section '{section}': bf16 and fp16 are both true; set one of them to false")
    chosen = "bf16" if sizes.bf16 else "fp16" if sizes.fp16 else "no"
    stated = _stated_precision(content)
    if stated not in ("no", chosen):
        own = f"{section}.{stated}=true" if stated in ("bf16", "fp16") else "another precision"
        raise ConfigError(
            f"engine.accelerate_config={source} says mixed_precision {stated}, but section '{section}' says {chosen}; "
            f"remove mixed_precision from that file, or set {own}"
        )
    return chosen


def _stated_precision(content: Mapping[str, Any]) -> str:
    return str(content.get("mixed_precision") or "no").lower()


def _require_launched_with(content: Mapping[str, Any], source: str) -> None:
    """Compare the variables by which `accelerate launch` passes its config on with the config that the run names."""
    deepspeed, dynamo, fsdp = (content.get(f"{name}_config") or {} for name in ("deepspeed", "dynamo", "fsdp"))
    expected = {
        "ACCELERATE_MIXED_PRECISION": _stated_precision(content),
        "ACCELERATE_DYNAMO_BACKEND": dynamo.get("dynamo_backend") or "no",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": deepspeed.get("deepspeed_config_file"),
        **{name.upper(): value for name, value in fsdp.items()},
    }
    for name, value in expected.items():
        found = os.environ.get(name)
        if found is not None and found.lower() != str(value).lower():
            raise ConfigError(
                f"launched with {name}={found}, but engine.accelerate_config={source} says {value}; launch with "
                f"'accelerate launch --config_file {source} ...' and without other options, or set "
                "engine.accelerate_config to what you launch with"
            )


def _on_cpu(content: Mapping[str, Any], sizes: ScoringSettings) -> bool:
    found = torch.accelerator.current_accelerator(check_available=True)
    return bool(sizes.use_cpu or found is None or content.get("use_cpu") or parse_flag_from_env("ACCELERATE_USE_CPU"))


def _require_supported(content: Mapping[str, Any], source: str, train: TrainSettings) -> None:
    """Check that optimiser and search for a batch size are possible with this engine and device."""
    kind, name = str(content.get("distributed_type", "NO")), train.optim
    paged, shards = name.startswith("paged"), kind in ("FSDP", "DEEPSPEED")
    if paged or "bnb" in name:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(f"key 'train.optim': {name} needs bitsandbytes; {install_extra('quant')}")
        if shards:
            raise ConfigError(
                f"key 'train.optim': {name}; {source} shards the state of the optimiser by {kind}, which bitsandbytes "
                f"does not support; set {OPTIMIZERS[0]}"
            )
        if paged and _on_cpu(content, train):
            raise ConfigError(
                f"key 'train.optim': {name}; the run uses the CPU, from whose memory nothing is moved; set "
                f"adamw_bnb_8bit, or {OPTIMIZERS[0]}"
            )
    if train.auto_find_batch_size and (shards or train.tokens_per_batch is not None):
        why = f"{source} shards the model by {kind}" if shards else "train.tokens_per_batch makes the batches"
        raise ConfigError(f"key 'train.auto_find_batch_size': true, but {why}; set it to false")


def _require_devices(content: Mapping[str, Any], source: str, sizes: ScoringSettings) -> None:
    """Check that there are the GPUs of the engine, and of mixed precision, unless the run uses the CPU."""
    section, found = _section(sizes), torch.accelerator.current_accelerator(check_available=True)
    if sizes.fp16 and _on_cpu(content, sizes):  # accelerate would compute in full precision
        raise ConfigError(
            f"key '{section}.fp16': true, but the run uses the CPU, which has no fp16; set {section}.fp16=false, or "
            f"{section}.bf16=true instead"
        )
    if sizes.use_cpu:
        return
    if found is None and not (content.get("use_cpu") or content.get("distributed_type") == "MULTI_CPU"):
        raise ConfigError(
            f"engine.accelerate_config={source} is for a GPU, but no GPU is found; set {section}.use_cpu=true to run "
            "on the CPU"
        )
    if found is None and sizes.bf16:  # transformers checks it too late
        raise ConfigError(
            f"key '{section}.bf16': true, but no GPU is found; set {section}.use_cpu=true to run on the CPU, or "
            f"{section}.bf16=false"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if found is not None and here > (devices := torch.accelerator.device_count()) and not content.get("use_cpu"):
        raise ConfigError(
            f"started as {here} processes on this machine, which has {devices} GPU(s); launch with --num_processes "
            f"{devices}, and set engine.num_processes"
        )


def _require_data_types(sizes: ScoringSettings, dtype: str | None) -> None:
    """Check that the GPU has bfloat16 if the settings use it, and that float16 is trained with a scaled loss."""
    section, older = _section(sizes), gpu_before_ampere(run_device(sizes))
    trains = isinstance(sizes, TrainSettings)
    emulated, instead = [], []
    if dtype == "bfloat16":
        emulated, instead = ["key 'model.dtype': bfloat16"], ["model.dtype=float16"]
    if sizes.bf16:
        emulated, instead = [*emulated, f"key '{section}.bf16': true"], [*instead, f"{section}.bf16=false"]
    if older is not None and emulated:
        instead += [f"{section}.fp16=true"] if trains or sizes.bf16 else []
        raise ConfigError(
            f"{', '.join(emulated)}; {older} has no bfloat16, and its emulation is slow; set {' '.join(instead)} (see "
            "docs/free-gpus.md)"
        )
    if dtype == "float16" and trains and not sizes.fp16:
        raise ConfigError(
            "key 'model.dtype': float16; small gradients become zero in it unless the loss is scaled; set "
            "train.fp16=true on a GPU, or model.dtype=float32"
        )


def check_accelerator(engine: Engine, accelerator: Accelerator) -> None:
    """Compare the engine that accelerate set up with the expected one.

    Raises:
        ConfigError: if the processes are not connected, or the engine or its precision is another
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
    if accelerator.mixed_precision != engine.mixed_precision:
        raise ConfigError(
            f"accelerate set up mixed precision {accelerator.mixed_precision}, but the settings of the run say "
            f"{engine.mixed_precision}; check bf16 and fp16 of the run and of {engine.source}"
        )


def run_device(sizes: ScoringSettings) -> torch.device:
    """The device that the trainer will use in this process."""
    on_cpu = sizes.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    accelerator = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))
