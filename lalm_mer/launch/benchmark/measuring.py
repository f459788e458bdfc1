"""What is measured: time, time spent waiting for data, memory, the speed of a matrix product, and the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from lalm_mer.core.processes import usable_cores
from lalm_mer.core.provenance import git_commit, package_versions
from lalm_mer.recognizers.waiting import measured_waiting

__all__ = ["Timing", "machine", "matmul_flops_per_s", "pin", "reset_peak", "timed", "used_bytes"]

_PACKAGES = ("lalm-mer", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy")
_MATMULS = 5
_SIZE = {"cpu": 1024, "cuda": 8192}  # so that one product takes some milliseconds


@dataclass(frozen=True)
class Timing:
    """One measurement, in seconds.

    Args:
        wall_s: elapsed time
        cpu_s: time of all threads of this process
        waited_s: part of the elapsed time in which the next batch was awaited, or made in this process
    """

    wall_s: float
    cpu_s: float
    waited_s: float


def timed(work: Callable[[], Any], device: str) -> tuple[Timing, Any]:
    """Measure a call; returns the timing and its result."""
    _synchronise(device)
    with measured_waiting() as waiting:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        _synchronise(device)
        timing = time.perf_counter() - wall, time.process_time() - cpu
    return Timing(*timing, waiting.waited_s), result


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    """Start a new measurement of ``peak_bytes`` on a GPU; a process on the CPU has one peak only."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def used_bytes(device: str) -> int:
    """Memory in use now, as in ``peak_bytes``."""
    return int(torch.cuda.memory_allocated()) if device == "cuda" else int(psutil.Process().memory_info().rss)


def pin(threads: int) -> None:
    """Use this number of threads, on as many cores, where the system can pin a process."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def matmul_flops_per_s(device: str, dtype: str) -> float:
    """Operations per second of the fastest of several square matrix products."""
    size, best = _SIZE[device], float("inf")
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    for _ in range(_MATMULS + 1):
        best = min(best, timed(lambda: left @ right, device)[0].wall_s)
    return 2 * size**3 / best


def machine(device: str, threads: int) -> dict[str, Any]:
    """Processor, GPU, memory and versions; no names of hosts, users or folders."""
    found: dict[str, Any] = {
        "device": device,
        "processor": _processor(),
        "cores": usable_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": package_versions(_PACKAGES),
        "commit": str(git_commit()),
    }
    if device == "cpu":
        return found | {"threads": threads}
    properties = torch.cuda.get_device_properties(0)
    return found | {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
