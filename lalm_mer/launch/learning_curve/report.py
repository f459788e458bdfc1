"""Learning curves from finished runs: the figure on dev by number of training utterances, as text, CSV and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from lalm_mer.core.run_record import RUN_FILE, RunRecord, read_record
from lalm_mer.core.strict_json import read_object
from lalm_mer.evaluation.predictions import DEV_PREDICTIONS_FILE, Predictions
from lalm_mer.evaluation.report.figures import COLOURS, MARKERS, data_uri, interval_bars, lines_figure
from lalm_mer.evaluation.report.text import aligned, interval_text, percent
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.cross_validation.series import PlannedPoint, write_series

__all__ = ["Point", "points_of", "report_curve"]


@dataclass(frozen=True)
class Point:
    """Figures on dev of one row on one number of training utterances.

    Args:
        row: name of the system, with its modalities
        size: number of training utterances
        result: the metric, mean over seeds, with its interval by speakers
        by_seed: the metric of each seed
        n: number of dev utterances
        seconds: duration of all its runs
        record: of its first run
    """

    row: str
    size: int
    result: Mapping[str, Any]
    by_seed: Sequence[float]
    n: int
    seconds: float
    record: RunRecord

    @property
    def value(self) -> float:
        """The metric, a fraction."""
        return float(self.result["value"])

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (ddof 1); None with one."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


def points_of(planned: Sequence[PlannedPoint]) -> list[Point]:
    """The points of finished runs, by the metric with which the protocol selects.

    Raises:
        PredictionError: if a run folder is malformed
    """
    found = []
    for each in planned:
        records = [read_record(run.folder / RUN_FILE) for run in each.runs]
        metric = records[0].primary_metric
        predictions = [Predictions.read(run.folder / DEV_PREDICTIONS_FILE) for run in each.runs]
        by_seed = [float(read_object(run.folder / run.metrics_file)[metric]["value"]) for run in each.runs]
        pooled = score(Predictions.concat(predictions))
        seconds = sum(record.seconds or 0.0 for record in records)
        found.append(
            Point(each.row, each.number, pooled[metric], by_seed, len(predictions[0].frame), seconds, records[0])
        )
    return found


def report_curve(points: Sequence[Point], out: Path, command: str) -> str:
    """Write learning_curve.csv and report.html, and return the table.

    Args:
        points: in the order of the table
        out: folder of the files
        command: command line of the recipe
    """
    record = points[0].record
    metric = record.primary_metric
    rows = [_row(point, earlier) for point, earlier in zip(points, [None, *points], strict=False)]
    answers = _answers(points)
    written = write_series(
        "learning_curve",
        _frame(points, metric),
        out / "learning_curve.csv",
        record,
        title=f"Learning curve on {record.corpus}",
        rows=rows,
        n=points[0].n,
        interval=points[0].result["method"],
        figure=_figure(points, metric),
        answers=answers,
        command=command,
    )
    header = ["system", "utterances", f"dev {metric}", "sd over seeds", "95% interval", "gain", "minutes"]
    table = aligned([header, *(list(row.values()) for row in rows)])
    return "\n\n".join([table, "\n".join(answers), written])


def _row(point: Point, earlier: Point | None) -> dict[str, str]:
    """Cells of a point; its gain is over the next smaller number of the same row."""
    gain = "" if earlier is None or earlier.row != point.row else f"{100 * (point.value - earlier.value):+.1f}"
    return {
        "row": point.row,
        "size": str(point.size),
        "value": percent(point.value),
        "sd": percent(point.sd),
        "interval": interval_text(point.result),
        "gain": gain,
        "minutes": f"{point.seconds / 60:.1f}",
    }


def _answers(points: Sequence[Point]) -> list[str]:
    """What each row gained by its last step, in a sentence."""
    lines = []
    for row in dict.fromkeys(point.row for point in points):
        of_row = [point for point in points if point.row == row]
        last = of_row[-1]
        line = f"{row}: {percent(last.value)}% with {last.size} utterances"
        if len(of_row) > 1:
            before = of_row[-2]
            gain = 100 * (last.value - before.value)
            line += f"; from {before.size} to {last.size} utterances, it changed by {gain:+.1f} points"
            if last.sd is not None:
                line += f" (standard deviation over seeds {percent(last.sd)})"
        lines.append(line)
    return lines


def _frame(points: Sequence[Point], metric: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "system": point.row,
            "train_utterances": point.size,
            "corpus": point.record.corpus,
            "protocol": point.record.protocol,
            "fold": point.record.fold,
            "seeds": len(point.by_seed),
            "n_dev": point.n,
            "metric": metric,
            "value": point.value,
            "low": point.result["low"],
            "high": point.result["high"],
            "sd_over_seeds": point.sd,
            "seconds": point.seconds,
        }
        for point in points
    )


def _figure(points: Sequence[Point], metric: str) -> str:
    """The curves over the logarithm of the number of utterances; bars are intervals, small dots are seeds."""
    sizes = sorted({point.size for point in points})
    rows = list(dict.fromkeys(point.row for point in points))
    with lines_figure("training utterances", f"dev {metric}, percent") as (figure, axes):
        for number, row in enumerate(rows):
            of_row = [point for point in points if point.row == row]
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            shift = 1.02 ** (number - (len(rows) - 1) / 2)  # so that bars of several rows do not overlap
            places = [shift * point.size for point in of_row]
            axes.plot(places, [100 * point.value for point in of_row], color=colour, marker=marker, label=row)
            for place, point in zip(places, of_row, strict=True):
                axes.plot([place] * len(point.by_seed), [100 * value for value in point.by_seed], ".", color=colour,
                          alpha=0.5, markersize=4)  # fmt: skip
            interval_bars(axes, places, [point.result for point in of_row], colour)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    return data_uri(figure)
