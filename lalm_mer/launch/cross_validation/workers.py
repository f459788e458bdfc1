"""Workers of a cross-validation: processes that share the runs of one system, each taking the next that is free."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lalm_mer.core.errors import BusyError, ModelError
from lalm_mer.core.output import writing
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.progress import progress
from lalm_mer.core.strict_json import read_object
from lalm_mer.evaluation.report.text import figure_text
from lalm_mer.launch.cross_validation.plan import PlannedRun

__all__ = ["run_all", "work"]

_POLL_S = 0.5
_BUSY_S = 5.0  # between two looks at runs that a process of another command works on
_END_S = 30  # until interrupted workers have ended


def work(runs: Sequence[PlannedRun], recipes: Mapping[str, Callable[[Any], None]]) -> None:
    """Run, in this process, what no other process works on; the recipe leaves a finished run of the same settings.

    Args:
        runs: of one system
        recipes: name -> function of the recipe
    """
    for run in runs:
        print(f"run {run.name}", flush=True)  # noqa: T201 for the log
        try:
            recipes[run.recipe](run.settings)
        except BusyError:
            print(f"run {run.name}: another process works on it", flush=True)  # noqa: T201
        gc.collect()  # the model, before the next one is loaded


def run_all(runs: Sequence[PlannedRun], processes: int, logs: Path) -> None:
    """Run by workers what is not finished, and print the figure of each run when it ends.

    A worker of each system also compares finished runs with their settings. A system that fails is not continued; the
    others are.

    Args:
        runs: of all systems
        processes: number of workers at a time, each by the command of this process with the flag ``--worker``
        logs: folder of what the workers print

    Raises:
        ModelError: naming the first system that failed, and its error, after the other systems have ended
    """
    failed: dict[str, str] = {}
    left = [run for run in runs if not run.is_finished]
    done = len(runs) - len(left)
    with progress(desc="runs", unit="runs", total=len(runs), initial=done, in_logs=False) as bar:
        to_start = list(runs)
        while to_start:
            before, pool = len(left), _Pool(_jobs(to_start, processes, logs), processes, failed)
            with pool.ended():
                while pool.step():
                    left = _report(left, bar)
                    time.sleep(_POLL_S)
            left = _report(left, bar)
            to_start = [run for run in left if run.system not in failed]
            if to_start and len(left) == before:  # a process of another command works on them
                time.sleep(_BUSY_S)
    if failed:
        system, error = next(iter(failed.items()))
        raise ModelError(f"{len(left)} of {len(runs)} runs are not finished; system {system}: {error}")


@dataclass(frozen=True)
class _Job:
    system: str
    command: Sequence[str]
    log: Path
    after: tuple[str, ...] = ()


def _jobs(runs: Sequence[PlannedRun], processes: int, logs: Path) -> Iterator[_Job]:
    """For each system as many workers as it has runs left, or as there may be at a time; at least one."""
    for system in dict.fromkeys(run.system for run in runs):
        own = [run for run in runs if run.system == system]
        unfinished = sum(not run.is_finished for run in own)
        for number in range(max(1, min(processes, unfinished))):
            yield _Job(system, _command(system, own[0].engine), logs / f"{system}_{number}.log", own[0].after)


def _command(system: str, engine: Path) -> Sequence[str]:
    """The command of a worker: that of this process, for one system; later overrides take precedence."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", as_recorded(engine)]
    return [*launch, *sys.argv, f"only=[{system}]", "--worker"]


class _Pool:
    """Workers that run at the same time.

    Args:
        jobs: started in their order
        size: number at a time
        failed: system -> its first error; filled here, and its further jobs are not started
    """

    def __init__(self, jobs: Iterator[_Job], size: int, failed: dict[str, str]) -> None:
        self._jobs = deque(jobs)
        self._failed = failed
        self._running: dict[int, tuple[_Job, subprocess.Popen[bytes]]] = {}
        self._slots = range(size)

    def step(self) -> bool:
        """Start what is free to start and collect what has ended; whether anything runs."""
        for slot, (job, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[slot]
                if process.returncode:
                    self._failed.setdefault(job.system, _error_of(job, process.returncode))
        for slot in self._slots:
            if slot not in self._running and (free := self._next()) is not None:
                self._running[slot] = (free, _start(free, slot))
        return bool(self._running)

    def _next(self) -> _Job | None:
        """The first job that can start; None while those that are left need runs of others."""
        for job in list(self._jobs):
            needed = next((system for system in job.after if system in self._failed), None)
            if needed is not None:
                self._failed.setdefault(job.system, f"system {needed} failed, whose runs it needs")
            if job.system in self._failed:
                self._jobs.remove(job)
        busy = {job.system for job, _ in self._running.values()} | {job.system for job in self._jobs}
        for job in self._jobs:
            if busy.isdisjoint(job.after):
                self._jobs.remove(job)
                return job
        return None

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Interrupt the workers if the block does not end by itself, and wait for their end."""
        try:
            yield
        finally:
            for _, process in self._running.values():
                _signal(process, signal.SIGINT)
            until = time.monotonic() + _END_S
            for _, process in self._running.values():
                try:
                    process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _signal(process, signal.SIGKILL)
                    process.wait()


def _signal(process: subprocess.Popen[bytes], sent: signal.Signals) -> None:
    """Send a signal to a worker and its launcher."""
    if process.poll() is None:
        os.killpg(process.pid, sent)


def _start(job: _Job, slot: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **_environment(slot)}
    with writing(job.log):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        file: IO[bytes] = job.log.open("wb")
    with file:
        return subprocess.Popen(job.command, env=environment, stdout=file, stderr=file, start_new_session=True)


def _environment(slot: int) -> dict[str, str]:
    """A GPU of its own for a worker; without a GPU one thread, unless OMP_NUM_THREADS is set.

    Workers that each use all cores wait for each other, and sums over another number of threads round differently, so
    that figures would depend on the number of processes.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[slot % count]}


def _report(runs: Sequence[PlannedRun], bar: Any) -> list[PlannedRun]:  # noqa: ANN401 of tqdm
    """Print the figures of the runs that have ended; returns the others."""
    left = []
    for run in runs:
        if run.is_finished:
            bar.update()
            bar.write(f"{run.name}: {figure_text(read_object(run.folder / run.metrics_file))}", file=sys.stdout)
        else:
            left.append(run)
    return left


def _error_of(job: _Job, status: int) -> str:
    """The error that a worker printed, or its exit status, and its log."""
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    printed = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"{printed[-1] if printed else f'exit status {status}'} (log: {as_recorded(job.log)})"
