"""The plan of a cross-validation as text, and the summary of its finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from lalm_mer.core.paths import as_recorded
from lalm_mer.evaluation.comparison import compare, write_comparison
from lalm_mer.evaluation.report.html import write_report
from lalm_mer.evaluation.report.text import aligned, comparison_text, values_text
from lalm_mer.evaluation.runs import read_run, with_distinct_names
from lalm_mer.launch.cross_validation.costs import predicted_seconds
from lalm_mer.launch.cross_validation.plan import PlannedRun
from lalm_mer.protocols.splits import SPLITS

__all__ = ["plan_text", "summarize"]


def summarize(runs: Sequence[PlannedRun], out: Path, command: str) -> str:
    """Compare finished runs, write the comparison and its report, and return the summary.

    Args:
        runs: all of them
        out: folder of comparison and report
        command: shown in the report
    """
    comparison = compare(with_distinct_names([(planned.system, read_run(planned.folder)) for planned in runs]))
    write_comparison(comparison, out, with_values=True)
    report = out / "report.html"
    write_report(comparison, report, command=command)
    values = values_text([value for row in comparison.rows for value in row.values()])
    durations = [["recognizer", "runs", "minutes"]]
    durations += [[row.label, str(len(row.runs)), f"{row.as_dict()['seconds'] / 60:.1f}"] for row in comparison.rows]
    return "\n\n".join([comparison_text(comparison), values, aligned(durations), f"report: {as_recorded(report)}"])


def plan_text(runs: Sequence[PlannedRun], tflops: float | None = None) -> str:
    """The runs with their numbers of utterances and durations, what is left to do, and a command of each row.

    Args:
        runs: all of them
        tflops: for the durations of rows of which no run has finished, 10^12 operations per second; None for none
    """
    seconds = {run.name: read_run(run.folder).seconds for run in runs if run.is_finished}
    of_row: dict[str, list[float]] = {}
    for run in runs:
        if run.name in seconds:
            of_row.setdefault(run.row, []).append(seconds[run.name])
    measured = {row: fmean(durations) for row, durations in of_row.items()}
    left = [run for run in runs if run.name not in seconds]
    expected = {run.name: measured[run.row] for run in left if run.row in measured}
    why: dict[str, str] = {}
    if tflops is not None:
        predicted, why = predicted_seconds([run for run in left if run.row not in measured], tflops)
        expected |= predicted
    total = f"{len(runs)} runs, {len(left)} to do: about {sum(expected.values()) / 60:.0f} minutes in one process"
    unknown = len(left) - len(expected)
    total += f", and {unknown} runs of rows of which none has finished yet" if unknown else ""
    total += "".join(f"\nno prediction for {row}: {reason}" for row, reason in why.items())
    table = [["run", *SPLITS, "seconds"]]
    for run in runs:
        if run.name in seconds:
            cost = f"{seconds[run.name]:.0f}, finished"
        else:
            cost = f"about {expected[run.name]:.0f}" if run.name in expected else "unknown"
        table.append([run.name, *(str(run.sizes[split]) for split in SPLITS), cost])
    first = {run.row: f"$ {run.command}" for run in reversed(runs)}
    commands = "\n".join(reversed(first.values()))
    return f"{aligned(table)}\n\n{total}\n\nthe first run of each row, by its own command:\n{commands}"
