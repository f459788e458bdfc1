"""A self-contained HTML report of the suspicious utterances of a corpus, with reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from lalm_mer.core.output import write_text
from lalm_mer.core.provenance import package_versions
from lalm_mer.evaluation.report.figures import SETTINGS, data_uri
from lalm_mer.evaluation.report.html import html_template
from lalm_mer.evaluation.report.text import percent
from lalm_mer.quality.check import Quality
from lalm_mer.quality.flags import FLAGS, Thresholds, quiet_limit

__all__ = ["render_quality", "write_quality_report"]

_BARS, _LIMIT = "#0072B2", "#A40000"
_BINS = 40


def write_quality_report(quality: Quality, path: Path, command: str | None = None) -> None:
    """Write the report as an HTML file, atomically; ``command`` is the command line of the check, to be shown."""
    write_text(path, render_quality(quality, command))


def render_quality(quality: Quality, command: str | None = None) -> str:
    """Render the report as one HTML document."""
    summary = quality.summary
    return html_template("lalm_mer", "quality", "quality.html.jinja").render(
        title=f"Quality of {summary['corpus']}",
        summary=summary,
        share=percent(summary["n_flagged"] / summary["n_utterances"]),
        flags=[_flag(quality, flag) for flag in FLAGS],
        unchecked=_unchecked(summary),
        figure=_figure(quality),
        figure_alt=_figure_alt(quality),
        thresholds=dataclasses.fields(Thresholds),
        limits=quality.thresholds,
        versions=package_versions(("lalm-mer", "numpy", "soundfile")),
        command=command,
    )


def _flag(quality: Quality, flag: str) -> dict[str, Any]:
    return {
        "name": flag,
        "title": flag.replace("_", " "),
        "meaning": FLAGS[flag],
        "n": quality.summary["flags"][flag],
        "rows": [vars(one.row) | vars(one.finding) for one in quality.flagged[flag]],
    }


def _unchecked(summary: dict[str, Any]) -> list[str]:
    """The checks that were not possible, with their reasons."""
    n = summary["n_utterances"]
    checks = (
        (
            "agreement of transcript and audio",
            n - summary["n_with_hypothesis"],
            "no output of speech recognition (--asr)",
        ),
        ("durations against the times of labels", summary["n_without_label_times"], "no times"),
        ("word times", n - summary["n_with_word_times"], "none given (--word-times)"),
        ("speaking rates", summary["n_without_transcript"], "no transcript"),
    )
    lines = [f"{check}, for {lacking:,} utterances: {reason}" for check, lacking, reason in checks if lacking]
    if summary["typical"]["duration_s"] is None:
        lines.append("outliers: fewer than 20 utterances are too few to find them")
    return lines


def _figure(quality: Quality) -> str | None:
    """Histograms of the measures, with the thresholds as dashed lines; None if there is no audio."""
    measures, limits = quality.distributions, quality.thresholds
    if not len(measures.duration_s):
        return None
    quiet = quiet_limit(quality.typical, limits)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 5.0), layout="constrained")
        duration, rate, level, silence = figure.subplots(2, 2).flat
        _histogram(duration, measures.duration_s, "duration, s", (limits.shortest_s,), is_log=True)
        _histogram(rate, measures.characters_per_s, "characters per second", (limits.characters_per_s,), is_log=True)
        _histogram(level, measures.loudest_dbfs, "loudest 25 ms, dBFS", (limits.silent_dbfs, quiet))
        shares = [100 * share for share in measures.silence_share]
        _histogram(silence, shares, "silence, percent", (100 * limits.silence_share,))
        figure.supylabel("utterances", fontsize=10)
        return data_uri(figure)


def _histogram(
    axes: Axes, values: Sequence[float], name: str, limits: Sequence[float], *, is_log: bool = False
) -> None:
    axes.set_title(name, loc="left")
    if not len(values):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#555555")
        axes.set_axis_off()
        return
    low, high = min(*values, *limits), max(*values, *limits)
    if is_log:
        edges = np.geomspace(low, high, _BINS + 1) if low < high else np.array([low * 0.9, high * 1.1])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        edges = np.linspace(low, high, _BINS + 1) if low < high else np.array([low - 0.5, high + 0.5])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.hist(np.asarray(values), bins=edges.tolist(), color=_BARS)
    axes.set_yscale("symlog", linthresh=1)  # so that a single outlier is visible next to thousands
    axes.yaxis.set_major_formatter(ScalarFormatter())
    for limit in limits:
        axes.axvline(limit, color=_LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)


def _figure_alt(quality: Quality) -> str:
    distributions = quality.distributions
    parts = []
    for known in dataclasses.fields(distributions):
        values = np.asarray(getattr(distributions, known.name), dtype=np.float64)
        if len(values):
            parts.append(f"{known.name}: median {np.median(values):.2f}, {values.min():.2f} to {values.max():.2f}")
    return "Histograms. " + "; ".join(parts)
