"""Scores and comparisons as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lalm_mer.core.names import ADAPTERS, BASELINE, FULL, LATE_FUSION, LINEAR, ZERO_SHOT
from lalm_mer.evaluation.comparison import Comparison, Pair, Row
from lalm_mer.evaluation.intervals import Interval
from lalm_mer.evaluation.metrics import METRICS, UAR, Metric
from lalm_mer.evaluation.target_metrics import TARGET_METRICS, TargetMetric, default_metric, metric_called, metric_names

__all__ = [
    "METHOD_NAMES", "aligned", "comparison_text", "difference_text", "figure_text", "interval_text", "metrics_text",
    "p_text", "pair_text", "percent", "value_text", "values_text", "with_interval",
]  # fmt: skip

METHOD_NAMES = {
    ZERO_SHOT: "zero-shot", **ADAPTERS, FULL: "full fine-tuning", BASELINE: "baseline", LINEAR: "linear",
    LATE_FUSION: "late fusion",
}  # fmt: skip
"""Method -> its name in text"""


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal, without the sign; a dash for None.

    Example:
        >>> percent(0.7534), percent(None)
        ('75.3', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def with_interval(result: Mapping[str, Any]) -> str:
    """A metric in percent with its interval, if there is one, from its entry in metrics.json.

    Example:
        >>> with_interval({"value": 0.5, "low": 0.4, "high": 0.6})
        '50.0 [40.0, 60.0]'
    """
    value = percent(result["value"])
    return value if result["low"] is None else f"{value} [{percent(result['low'])}, {percent(result['high'])}]"


def interval_text(result: Mapping[str, Any]) -> str:
    """The interval of a metric in percent, from its entry in metrics.json.

    Example:
        >>> interval_text({"low": 0.4, "high": 0.6, "n_clusters": 6})
        '40.0 to 60.0'
        >>> [interval_text({"low": None, "high": None, "n_clusters": number}) for number in (2, None)]
        ['uninformative', 'none']
    """
    if result["low"] is None:
        return "none" if result["n_clusters"] is None else "uninformative"
    return f"{percent(result['low'])} to {percent(result['high'])}"


def difference_text(interval: Interval) -> str:
    """The interval of a difference in percentage points.

    Example:
        >>> difference_text(Interval(-0.05, 0.1, "", 6)), difference_text(Interval(None, None, "", 2))
        ('-5.0 to +10.0', 'uninformative')
    """
    if interval.ends is None:
        return "none" if interval.n_clusters is None else "uninformative"
    low, high = interval.ends
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def p_text(p_value: float | None) -> str:
    """A p-value as papers write it.

    Example:
        >>> p_text(0.03125), p_text(0.00002)
        ('p = 0.031', 'p < 0.001')
    """
    if p_value is None:
        return "no p-value"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align rows in columns, the first ``left`` ones at the left and the others at the right.

    Example:
        >>> print(aligned([["name", "UAR"], ["a", "7.5"]]))
        name  UAR
        a     7.5
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def figure_text(metrics: Mapping[str, Any]) -> str:
    """The UAR with its 95% interval, or why there is none, and the number of utterances, from metrics.json.

    Of tasks with several labels or numbers all metrics, each with the values of the targets.
    """
    if "kind" in metrics:
        return _target_figures(metrics)
    uar = metrics[UAR]
    has_ends = uar["low"] is not None
    interval = f"95% interval {percent(uar['low'])} to {percent(uar['high'])}" if has_ends else uar["method"]
    left_out = [f"{count} {name}" for name in ("unparsed", "unscored") if (count := metrics[f"n_{name}"])]
    errors = f" ({', '.join(left_out)})" if left_out else ""
    votes = metrics.get("votes") or {"n": 0}
    agreement = f"; KL of the votes {votes['kl']:.3f} (n = {votes['n']})" if votes["n"] else ""
    return f"UAR {percent(uar['value'])} ({interval}), n = {metrics['n']}{errors}{agreement}"


def value_text(metric: Metric | TargetMetric, value: float | None) -> str:
    """A value of a metric: in percent if it is a share, else with three decimals.

    Example:
        >>> from lalm_mer.evaluation.target_metrics import metric_called
        >>> value_text(metric_called("uar"), 0.5), value_text(metric_called("ccc"), 0.5)
        ('50.0', '0.500')
    """
    is_share = not isinstance(metric, TargetMetric) or metric.is_share
    return percent(value) if is_share or value is None else f"{value:.3f}"


def _target_figures(metrics: Mapping[str, Any]) -> str:
    parts = []
    for name in metric_names(metrics["kind"]):
        metric, found = metric_called(name), metrics[name]
        single = (
            f" ({', '.join(f'{target} {value_text(metric, value)}' for target, value in found['by_target'].items())})"
        )
        shown = single if name == default_metric(metrics["kind"]) and len(metrics["targets"]) > 1 else ""
        parts.append(f"{metric.short_title} {value_text(metric, found['value'])}{shown}")
    unscored = f" ({metrics['n_unscored']} unscored)" if metrics["n_unscored"] else ""
    return f"{', '.join(parts)}, n = {metrics['n']}{unscored}"


def metrics_text(scores: dict[str, Any]) -> str:
    """The content of metrics.json as tables: metrics in percent, recalls, confusion."""
    counts = f"{scores['n']} rows: {scores['n_scored']} scored, {scores['n_unparsed']} unparsed, "
    counts += f"{scores['n_unscored']} unscored"
    if scores["n_seeds"] > 1:
        counts += f"; {scores['n_seeds']} seeds, metrics are means over them"
    rows = [["metric", "percent", "95% interval"]]
    for metric in METRICS.values():
        rows.append([metric.long_title, percent(scores[metric.name]["value"]), interval_text(scores[metric.name])])
    if scores["n_unparsed"]:
        rows[0].append("without unparsed")
        for line, metric in zip(rows[1:], METRICS.values(), strict=True):
            line.append(percent(scores["without_unparsed"][metric.name]))
    parts = [counts, aligned(rows), f"interval: {scores[UAR]['method']}"]
    if scores["absent_labels"]:
        absent = ", ".join(
            f"{label} ({count} of {scores['n_seeds']} seeds)" for label, count in scores["absent_labels"].items()
        )
        parts.append(f"left out of the means, since they have no utterance: {absent}")
    recalls = [[label, percent(value)] for label, value in scores["recalls"].items()]
    parts.append(aligned([["recall", "percent"], *recalls]))
    confusion = scores["confusion"]
    header = ["truth \\ prediction", *(name.strip("<>") for name in confusion["columns"])]
    body = [[label, *map(str, line)] for label, line in zip(scores["labels"], confusion["counts"], strict=True)]
    return "\n\n".join([*parts, aligned([header, *body])])


def values_text(values: Sequence[Mapping[str, Any]]) -> str:
    """Means and standard deviations over seeds and over folds, from ``values_by_part``."""
    known: list[Metric | TargetMetric] = [*METRICS.values(), *TARGET_METRICS.values()]
    metrics = [metric for metric in known if metric.column in values[0]]
    rows = [["recognizer", "unparsed", "mean ± sd", *(metric.short_title for metric in metrics)]]
    for mean, deviation in pairwise(values):
        if not mean["part"].startswith("mean_over_"):
            continue
        cells = [
            value_text(metric, mean[metric.column])
            + ("" if deviation[metric.column] is None else f" ± {value_text(metric, deviation[metric.column])}")
            for metric in metrics
        ]
        name = " ".join(str(mean[key]) for key in ("recognizer", "method", "modalities", "condition") if key in mean)
        over = mean["part"].removeprefix("mean_").replace("_", " ")
        rows.append([name, mean["unparsed"].replace("_", " "), over, *cells])
    return aligned(rows, left=3) if rows[1][0] else aligned([row[1:] for row in rows], left=2)


def comparison_text(comparison: Comparison) -> str:
    """Table and paired tests of a comparison, with one block for each corpus and protocol."""
    parts = []
    for (corpus, protocol), rows in comparison.blocks().items():
        if rows[0].kind != "single":
            parts.append(_target_table(corpus, protocol, rows))
            continue
        synthetic = "SYNTHETIC DATA, " if rows[0].record.synthetic else ""
        unparsed = any(row.utterances("unparsed") for row in rows)
        cells = [_cells(row, unparsed=unparsed) for row in rows]
        table = aligned([list(cells[0]), *(list(line.values()) for line in cells)], left=3)
        described = f"{synthetic}{rows[0].described_classes}, chance UAR {percent(rows[0].chance)}; percent"
        parts.append(f"{corpus}, {protocol} ({described})\n{table}")
    if comparison.pairs:
        parts.append("Paired tests, sign flips by speaker\n" + "\n".join(pair_text(pair) for pair in comparison.pairs))
    return "\n\n".join(parts)


def _target_table(corpus: str, protocol: str, rows: Sequence[Row]) -> str:
    """The table of a task with several labels or numbers: its metrics, and the primary one by target."""
    kind, targets = rows[0].kind, rows[0].record.labels
    synthetic = "SYNTHETIC DATA, " if rows[0].record.synthetic else ""
    main = metric_called(default_metric(kind))
    header = ["recognizer", "modalities", "method", "n", "unscored"]
    header += [metric_called(name).short_title for name in metric_names(kind)]
    header += [f"{main.short_title} {target}" for target in targets if len(targets) > 1] + ["folds", "seeds"]
    lines = [header]
    for row in rows:
        by_target = row.scores[main.name]["by_target"]
        lines.append(
            [
                row.record.recognizer,
                row.modalities,
                row.record.method,
                str(row.utterances()),
                str(row.utterances("unscored")),
                *(value_text(metric_called(name), row.scores[name]["value"]) for name in metric_names(kind)),
                *(value_text(main, by_target[target]) for target in targets if len(targets) > 1),
                str(len(row.folds)),
                str(len(row.by_seed)),
            ]
        )
    what = "several labels; percent" if kind == "multi" else f"numbers: {', '.join(targets)}"
    return f"{corpus}, {protocol} ({synthetic}{what}; means over targets)\n{aligned(lines, left=3)}"


def _cells(row: Row, *, unparsed: bool) -> dict[str, str]:
    """Heading -> cell of one row of a comparison; ``unparsed``: whether any row has unparsed answers."""
    figures = {}
    for metric in METRICS.values():
        result = row.scores[metric.name]
        figures[metric.short_title] = percent(result["value"])
        if metric.name == UAR:
            figures["95% interval"] = interval_text(result)
            if unparsed:
                figures["without unparsed"] = percent(row.scores["without_unparsed"][metric.name])
    return {
        "recognizer": row.record.recognizer,
        "modalities": row.modalities,
        "method": row.record.method,
        "n": str(row.utterances()),
        "unscored": str(row.utterances("unscored")),
        "unparsed": str(row.utterances("unparsed")),
        **figures,
        "folds": str(len(row.folds)),
        "seeds": str(len(row.by_seed)),
    }


def pair_text(pair: Pair) -> str:
    """A paired test as a sentence, in percentage points."""
    test = pair.test
    adjusted = "" if pair.p_holm is None else f", Holm {p_text(pair.p_holm)}"
    speakers = "speakers unknown" if test.n_speakers is None else f"{test.n_speakers} speakers"
    if pair.a.kind == "scalar":
        main = metric_called(default_metric(pair.a.kind)).short_title
        return (
            f"{pair.a.record.corpus}: {pair.a.label} against {pair.b.label}: {test.difference:+.3f} {main}, "
            f"{p_text(test.p_value)}{adjusted} ({speakers})"
        )
    return (
        f"{pair.a.record.corpus}: {pair.a.label} against {pair.b.label}: {100 * test.difference:+.1f} points, "
        f"95% interval {difference_text(test.interval)}, {p_text(test.p_value)}{adjusted} ({speakers})"
    )
