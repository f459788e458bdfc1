"""A benchmark in steps: each comparison in its own process with a time limit, so that the others survive a failure.

Where there is no GPU, all steps run with a very small model on the CPU: this shows that they run and measures nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml

from lalm_mer.core.errors import ModelError
from lalm_mer.core.output import write_text
from lalm_mer.launch.benchmark.report import read_report, record, table
from lalm_mer.launch.config.benchmark import BenchmarkSettings

__all__ = ["Step", "run_step", "run_steps", "steps_of"]

_ROOT = Path(__file__).resolve().parents[3]
_TESTS = "tests"


@dataclass(frozen=True)
class Step:
    """A command with a time limit.

    Args:
        name: key in the file of results
        command: its words
        limit_s: time after which it is stopped, in seconds
    """

    name: str
    command: tuple[str, ...]
    limit_s: int


def steps_of(settings: BenchmarkSettings, config: Path) -> list[Step]:
    """A step for each chosen comparison, and one for the tests.

    Args:
        settings: the benchmark
        config: its YAML as resolved, which every step reads
    """
    program = (sys.executable, "recipes/benchmark.py", "--config", str(config))
    steps = [Step(name, (*program, f"only=[{name}]"), each.limit_s) for name, each in settings.chosen.items()]
    if settings.tests:
        command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *settings.tests)
        steps.append(Step(_TESTS, command, settings.tests_limit_s))
    return steps


def run_steps(settings: BenchmarkSettings) -> None:
    """Run all steps, each to its end or its limit, and print the table.

    Raises:
        ModelError: naming the steps that failed, after all have run
    """
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu and not settings.dry_run:
        print("dry run: torch finds no GPU; a very small model runs on the CPU, and nothing is measured", flush=True)  # noqa: T201
    resolved = asdict(settings)  # its paths are absolute, wherever a step runs
    resolved["only"] = []
    resolved["dry_run"] = settings.dry_run or (settings.device == "cuda" and not has_gpu)
    config = Path(settings.output.work) / "steps.yaml"
    write_text(config, yaml.safe_dump(resolved, sort_keys=False))
    file = Path(settings.output.file)
    failed = []
    for step in steps_of(settings, config):
        started = time.monotonic()
        status = run_step(step)
        print(f"step {step.name}: {time.monotonic() - started:.0f} s, {status}", flush=True)  # noqa: T201
        if step.name == _TESTS:
            record(file, _TESTS, {"dry_run": resolved["dry_run"], "ended": status})
        elif status != "done":
            record(file, step.name, {"dry_run": resolved["dry_run"], "ended": status})
        if status != "done":
            failed.append(f"{step.name} ({status})")
    print("\n".join(table(read_report(file))))  # noqa: T201
    if failed:
        count = "1 step" if len(failed) == 1 else f"{len(failed)} steps"
        raise ModelError(f"{count} failed: {', '.join(failed)}; see above")


def run_step(step: Step) -> str:
    """Run a step with its children; returns ``done``, or how it ended."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(step.command, cwd=_ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(step.limit_s)
    except subprocess.TimeoutExpired:
        return f"stopped after {step.limit_s} s"
    finally:
        if process.poll() is None:  # its limit, or an interruption of this process
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "done" if code == 0 else f"exit status {code}"
