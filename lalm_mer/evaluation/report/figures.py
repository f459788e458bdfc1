"""Figures of a report as SVG data URIs, drawn without pyplot and its global state."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lalm_mer.core.names import AUDIO, AUDIO_TRANSCRIPT, TRANSCRIPT
from lalm_mer.core.notes import NoteCode
from lalm_mer.core.plain_text import printable
from lalm_mer.evaluation.comparison import Row
from lalm_mer.evaluation.metrics import Floats
from lalm_mer.evaluation.target_metrics import TargetMetric, default_metric, metric_called

__all__ = [
    "COLOURS", "MARKERS", "SETTINGS", "ForestPoint", "curves", "data_uri", "forest", "interval_bars", "lines_figure",
    "svg", "training_curves",
]  # fmt: skip

# The palette of Okabe and Ito, for colour-blind readers; the markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
_STYLES = dict(zip((AUDIO, TRANSCRIPT, AUDIO_TRANSCRIPT), zip(COLOURS, MARKERS, strict=True), strict=False))
_TRAIN, _DEV, _CHANCE, _GRID = "#767676", "#0072B2", "#555555", "#E8E8E8"
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "lalm-mer",  # the same figures give the same bytes
    "svg.fonttype": "path",  # needs no font
    "text.parse_math": False,  # a label may contain a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}


@dataclass(frozen=True)
class ForestPoint:
    """A figure in a forest plot.

    Args:
        name: at the left
        modalities: one of ``MODALITIES``, which decides colour and marker
        value: a fraction
        low: lower end of its interval; None if there is none
        high: upper end
    """

    name: str
    modalities: str
    value: float
    low: float | None
    high: float | None


def svg(figure: Figure, description: str | None = None) -> bytes:
    """A figure as SVG, the same bytes for the same figure, with a description in its metadata."""
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Description": description})
    return buffer.getvalue()


def data_uri(figure: Figure) -> str:
    """A figure as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure)).decode("ascii")


@contextmanager
def lines_figure(x_label: str, y_label: str) -> Iterator[tuple[Figure, Axes]]:
    """A figure for lines, and its axes, to draw on in the block; its end adds the legend."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        yield figure, axes
        axes.legend(frameon=False, fontsize=9)


def interval_bars(axes: Axes, places: Sequence[float], results: Sequence[Mapping[str, Any]], colour: str) -> None:
    """A vertical bar for each interval from ``low`` to ``high``, in percent; none where there is no interval."""
    for place, result in zip(places, results, strict=True):
        if result["low"] is not None:
            axes.plot([place, place], [100 * result["low"], 100 * result["high"]], color=colour, alpha=0.5)


def _wrapped(name: str) -> str:
    """The name of a row on up to two lines."""
    return "\n".join(textwrap.wrap(printable(name), width=42, max_lines=2, placeholder="…"))


def forest(points: Sequence[ForestPoint], chance: float) -> Figure:
    """UAR with 95% intervals, from top to bottom, and the chance line; ``chance`` is a fraction."""
    chance *= 100
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 0.95 + 0.5 * len(points)), layout="constrained")
        axes = figure.add_subplot()
        ends = [chance]
        for place, point in enumerate(points):
            colour, marker = _STYLES[point.modalities]
            value = 100 * point.value
            ends.append(value)
            if point.low is not None and point.high is not None:
                low, high = 100 * point.low, 100 * point.high
                axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
                for end in (low, high):
                    axes.plot([end, end], [place - 0.13, place + 0.13], color=colour, linewidth=2)
                ends += [low, high]
            axes.plot([value], [place], marker=marker, markersize=8, color=colour, markeredgecolor="white")
        axes.axvline(chance, color=_CHANCE, linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
        axes.text(
            chance, 1.01, f"chance {chance:.1f}", transform=axes.get_xaxis_transform(), ha="center", va="bottom",
            color=_CHANCE, fontsize=9,
        )  # fmt: skip
        margin = max(2.0, 0.06 * (max(ends) - min(ends)))
        axes.set_xlim(max(-1.0, min(ends) - margin), min(101.0, max(ends) + margin))
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.set_yticks(range(len(points)), [_wrapped(point.name) for point in points])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#E2E2E2", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("UAR, percent")
        return figure


def curves(row: Row) -> str:
    """Loss and the default metric on dev, such as UAR, by step: a line per run; of more than three, also their mean."""
    missing = [note.n or 0 for note in row.record.notes if (note.code, note.split) == (NoteCode.MISSING_CLASSES, "dev")]
    chance = 100 / (len(row.record.labels) - sum(missing)) if row.kind == "single" else None
    histories = [run.history for run in row.runs if not run.history.empty]
    return data_uri(training_curves(histories, default_metric(row.kind), chance))


def training_curves(histories: Sequence[pd.DataFrame], metric: str, chance: float | None) -> Figure:
    """Loss and a metric on dev by step: a line per training; of more than three, also their mean.

    Args:
        histories: of trainings, with columns ``step``, ``split``, ``loss`` and the metric
        metric: name of the metric, shown in percent unless it is of numbers
        chance: its value by chance, in percent; None for no line
    """
    main = metric_called(metric)
    factor = 1 if isinstance(main, TargetMetric) and main.kind == "scalar" else 100
    width = 1.6 if len(histories) == 1 else 1.0
    many = len(histories) > 3
    opacity = 0.3 if many else 1.0
    style: dict[str, Any] = {"linewidth": width, "alpha": opacity, "markersize": 3}
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 2.5), layout="constrained")
        loss, recall = figure.subplots(1, 2)
        for number, history in enumerate(histories):
            for split, look in (("train", {"color": _TRAIN}), ("dev", {"color": _DEV, "marker": "o"})):
                part = history[history["split"] == split].sort_values("step")
                if len(part):
                    loss.plot(
                        part["step"], part["loss"].astype(float), label=split if number == 0 else None, **style, **look
                    )
                if split == "dev" and len(part):
                    recall.plot(part["step"], factor * part[main.name].astype(float), **style, **look)
        if many:
            for axes, split, column, scale, colour in (
                (loss, "train", "loss", 1, _TRAIN), (loss, "dev", "loss", 1, _DEV),
                (recall, "dev", main.name, factor, _DEV),
            ):  # fmt: skip
                steps, mean = _mean_curve([history[history["split"] == split] for history in histories], column)
                axes.plot(steps, scale * mean, color=colour, linewidth=2.2)
        if chance is not None:
            recall.axhline(chance, color=_CHANCE, linestyle=(0, (4, 3)), linewidth=1.2)
            recall.text(1.0, chance, "chance ", transform=recall.get_yaxis_transform(), ha="right", va="bottom",
                        color=_CHANCE, fontsize=9)  # fmt: skip
        if loss.get_legend_handles_labels()[0]:
            loss.legend(frameon=False, fontsize=9)
        loss.set_title("loss", loc="left")
        recall.set_title(f"dev {main.short_title}{', percent' if factor > 1 else ''}", loc="left")
        for axes in (loss, recall):
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.grid(color=_GRID, linewidth=0.8)
        return figure


def _mean_curve(parts: Sequence[pd.DataFrame], column: str) -> tuple[Floats, Floats]:
    """Steps that all parts cover, and the mean of their values there, each interpolated between its own steps.

    Example:
        >>> parts = [pd.DataFrame({"step": [1, 3], "loss": [2, 4]}), pd.DataFrame({"step": [2, 4], "loss": [1, 1]})]
        >>> _mean_curve(parts, "loss")
        (array([2., 3.]), array([2. , 2.5]))
    """
    curves = [part.sort_values("step") for part in parts if len(part)]
    if not curves:
        return np.empty(0), np.empty(0)
    first, last = max(part["step"].iloc[0] for part in curves), min(part["step"].iloc[-1] for part in curves)
    steps = np.unique(np.concatenate([part["step"].to_numpy(dtype=np.float64) for part in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    values = [np.interp(steps, part["step"].to_numpy(float), part[column].to_numpy(float)) for part in curves]
    return steps, np.mean(values, axis=0)
