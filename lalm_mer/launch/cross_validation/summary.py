"""The plan of a cross-validation as text, and the summary of its finished runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lalm_mer.core.paths import as_recorded
from lalm_mer.core.run_record import RUN_FILE, read_record
from lalm_mer.evaluation.comparison import compare, write_comparison
from lalm_mer.evaluation.report.html import write_report
from lalm_mer.evaluation.report.text import aligned, comparison_text, values_text
from lalm_mer.evaluation.runs import read_run
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun

__all__ = ["plan_text", "summarize"]


def summarize(runs: Sequence[PlannedRun], out: Path, command: str) -> str:
    """Compare finished runs, write the comparison and its report, and return the summary.

    Args:
        runs: all of them
        out: folder of comparison and report
        command: shown in the report
    """
    comparison = compare([read_run(run.folder) for run in runs])
    write_comparison(comparison, out, with_values=True)
    report = out / "report.html"
    write_report(comparison, report, command=command)
    values = values_text([value for row in comparison.rows for value in row.values()])
    return "\n\n".join([comparison_text(comparison), values, f"report: {as_recorded(report)}"])


def plan_text(runs: Sequence[PlannedRun]) -> str:
    """The runs with their sizes, steps and durations, what is left to do, and a command of each row."""
    seconds = {run.name: read_record(run.folder / RUN_FILE).seconds for run in runs if run.is_finished}
    table, left, unknown = [["run", "train", "dev", "test", "steps", "seconds"]], 0.0, 0
    for run in runs:
        mean = _mean([seconds[other.name] for other in runs if other.row == run.row and other.name in seconds])
        done = run.name in seconds
        if done:
            cost = f"{seconds[run.name]:.0f}, finished"
        else:
            cost = "unknown" if mean is None else f"about {mean:.0f}"
            left, unknown = left + (mean or 0.0), unknown + (mean is None)
        sizes = [str(run.sizes[split]) for split in ("train", "dev", "test")]
        table.append([run.name, *sizes, _steps(run), cost])
    commands = {run.row: run.command for run in reversed(runs)}
    unfinished = len(runs) - len(seconds)
    total = f"{len(runs)} runs, {unfinished} to do: about {left / 60:.0f} minutes in one process"
    if unknown:
        total += f", without {unknown} runs of rows of which none has finished yet"
    first = "\n".join(f"$ {commands[row]}" for row in dict.fromkeys(run.row for run in runs))
    return f"{aligned(table)}\n\n{total}\n\nthe first run of each row, by its own command:\n{first}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _steps(run: PlannedRun) -> str:
    """Optimiser steps of a training; a dash without one, or if batches have a number of tokens."""
    if isinstance(run.settings, ZeroShotSettings) or run.settings.train.tokens_per_batch is not None:
        return "-"
    train = run.settings.train
    if train.max_steps > 0:
        return str(train.max_steps)
    batches = math.ceil(run.sizes["train"] / train.per_device_train_batch_size)
    return str(math.ceil(math.ceil(batches / train.gradient_accumulation_steps) * train.num_train_epochs))
