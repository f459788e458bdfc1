"""What a run uses: the parameters of its recognizer, and the largest memory of its process."""

from __future__ import annotations

import math
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from lalm_mer.core.run_record import Parameters, PeakMemory

__all__ = ["parameters_of", "peak_bytes", "peak_memory", "restart_peak"]

_SELF = Path("/proc/self")
_RESET = "5"  # of /proc/PID/clear_refs: the peak becomes what is resident now, proc(5)


def parameters_of(recognizer: nn.Module, *, training: bool) -> Parameters:
    """Count the parameters of a recognizer; weights in 4 bits and those that an engine shards count in full.

    Args:
        recognizer: of the run, with its adapter if it has one
        training: whether the run trains the parameters with ``requires_grad``; otherwise the trained ones are those of
            its adapter, from an earlier run
    """
    sizes = [(name, each.requires_grad, _size(each)) for name, each in recognizer.named_parameters()]
    model: Any = getattr(recognizer, "model", None)
    trained = 0
    if training:
        trained = sum(size for _, learns, size in sizes if learns)
    elif hasattr(model, "peft_config"):
        marks = (model.base_model.prefix, ".modules_to_save.")  # as peft tells them from those of the base model
        trained = sum(size for name, _, size in sizes if any(mark in name for mark in marks))
    return Parameters(trained, sum(size for _, _, size in sizes))


def _size(parameter: Any) -> int:  # noqa: ANN401 with attributes of an engine or of bitsandbytes
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return math.prod(state.shape)
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # DeepSpeed empties a sharded one


def restart_peak() -> None:
    """Measure ``peak_memory`` from now on; that of a process can only start anew on Linux."""
    if peak_bytes("cuda"):
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        (_SELF / "clear_refs").write_text(_RESET, "ascii")


def peak_memory() -> PeakMemory:
    """The largest memory since ``restart_peak``: on the GPU if this process has used one, or else resident."""
    if allocated := peak_bytes("cuda"):
        return PeakMemory(allocated, "gpu")
    return PeakMemory(peak_bytes("cpu"), "process")


def peak_bytes(device: str) -> int:
    """Largest memory so far: allocated by torch on the GPU, 0 if nothing has used it, or resident of this process."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if platform.system() == "Linux":  # where getrusage also counts the process that started this one
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", (_SELF / "status").read_text("utf-8"), re.MULTILINE)
        return int(peak) * 1024
    if platform.system() == "Windows":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # of Unix alone

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
