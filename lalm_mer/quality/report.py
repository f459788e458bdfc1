"""One self-contained HTML file that lists the suspicious utterances of a corpus, each with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from lalm_mer.core.provenance import atomic_path, package_versions
from lalm_mer.evaluation.report.figures import SETTINGS, data_uri
from lalm_mer.evaluation.report.text import percent
from lalm_mer.quality.check import Quality
from lalm_mer.quality.flags import FLAGS, Thresholds

__all__ = ["render_quality", "write_quality_report"]

_BARS, _LIMIT = "#0072B2", "#A40000"
_BINS = 40


def write_quality_report(quality: Quality, path: Path, command: str | None = None) -> None:
    """Write the report, whole or not at all; it needs no network to be read.

    Args:
        quality: what ``check_corpus`` returned
        path: the HTML file
        command: command line that made it, shown to the reader
    """
    with atomic_path(path) as partial:
        partial.write_text(render_quality(quality, command), encoding="utf-8")


def render_quality(quality: Quality, command: str | None = None) -> str:
    """The report as one HTML document."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("lalm_mer", "quality"),
                jinja2.PackageLoader("lalm_mer.evaluation", "report"),  # the stylesheet of all reports
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary, figure = quality.summary, _figure(quality)
    return environment.get_template("quality.html.jinja").render(
        corpus=quality.corpus,
        summary=summary,
        share=percent(summary["n_flagged"] / summary["n_utterances"]),
        flags=[_flag(quality, flag) for flag in FLAGS],
        unchecked=_unchecked(summary),
        figure=figure,
        figure_alt=_figure_alt(quality),
        thresholds=_thresholds(quality.thresholds),
        versions=package_versions(("lalm-mer", "numpy", "soundfile")),
        command=command,
    )


def _flag(quality: Quality, flag: str) -> dict[str, Any]:
    listed = quality.suspicious[flag]
    return {
        "name": flag,
        "title": flag.replace("_", " "),
        "meaning": FLAGS[flag],
        "n": quality.summary["flags"][flag],
        "rows": [
            {
                "utterance_id": one.row.utterance_id,
                "speaker": one.row.speaker,
                "label": one.row.label,
                "transcript": one.row.transcript,
                "measure": one.finding.measure,
                "threshold": one.finding.threshold,
                "reason": one.finding.reason,
            }
            for one in listed
        ],
    }


def _unchecked(summary: dict[str, Any]) -> list[str]:
    """What could not be looked for, and why; silence about it would read as if all were well."""
    n = summary["n_utterances"]
    doubts = []
    if summary["n_with_hypothesis"] < n:
        doubts.append(
            f"whether transcript and audio belong together, of {n - summary['n_with_hypothesis']:,} utterances: no "
            "words heard by speech recognition are at hand (--asr)"
        )
    if summary["n_without_label_times"]:
        doubts.append(f"durations against the label's times, of {summary['n_without_label_times']:,}: no times given")
    if summary["n_with_word_times"] < n:
        doubts.append(f"word times, of {n - summary['n_with_word_times']:,}: none at hand (--word-times)")
    if summary["n_without_transcript"]:
        doubts.append(f"speaking rates, of {summary['n_without_transcript']:,}: no transcript")
    if summary["typical"]["duration_s"] is None:
        doubts.append("outliers: of fewer than 20 utterances none can be called usual")
    return doubts


def _thresholds(limits: Thresholds) -> list[dict[str, str]]:
    default = Thresholds()
    return [
        {
            "name": known.name,
            "value": f"{getattr(limits, known.name):g}",
            "default": f"{getattr(default, known.name):g}",
            "unit": known.metadata["unit"],
            "reason": known.metadata["reason"],
        }
        for known in dataclasses.fields(Thresholds)
    ]


def _figure(quality: Quality) -> str | None:
    """How the measures are distributed, with the thresholds as dashed lines; None where nothing was measured."""
    told, limits, typical = quality.distributions, quality.thresholds, quality.typical
    if not len(told.duration_s):
        return None
    quiet = limits.quiet_dbfs
    if typical.loudest_dbfs is not None:
        quiet = min(quiet, typical.loudest_dbfs - limits.quiet_below_typical_db)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 5.0), layout="constrained")
        duration, rate, level, silence = figure.subplots(2, 2).flat
        _histogram(duration, told.duration_s, "duration, s", (limits.shortest_s,), is_log=True)
        _histogram(rate, told.characters_per_s, "characters a second", (limits.characters_per_s,), is_log=True)
        _histogram(level, told.loudest_dbfs, "loudest 25 ms, dBFS", (limits.silent_dbfs, quiet))
        _histogram(silence, [100 * s for s in told.silence_share], "silence, percent", (100 * limits.silence_share,))
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
    axes.set_yscale("symlog", linthresh=1)  # so that a single outlier can be seen beside thousands
    axes.yaxis.set_major_formatter(ScalarFormatter())
    for limit in limits:
        axes.axvline(limit, color=_LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)


def _figure_alt(quality: Quality) -> str:
    told = quality.distributions
    parts = []
    for known in dataclasses.fields(told):
        values = np.asarray(getattr(told, known.name), dtype=np.float64)
        if len(values):
            parts.append(f"{known.name}: median {np.median(values):.2f}, {values.min():.2f} to {values.max():.2f}")
    return "Histograms. " + "; ".join(parts)
