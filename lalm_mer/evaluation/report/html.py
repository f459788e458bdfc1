"""The report of a comparison, one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.core.notes import sentence
from lalm_mer.core.output import write_text
from lalm_mer.evaluation.comparison import Comparison, Pair, Row
from lalm_mer.evaluation.metrics import UAR
from lalm_mer.evaluation.report.figures import ForestPoint, curves, data_uri, forest
from lalm_mer.evaluation.report.text import (
    METHOD_NAMES,
    difference_text,
    interval_text,
    p_text,
    percent,
    value_text,
    with_interval,
)
from lalm_mer.evaluation.target_metrics import TargetMetric, default_metric, metric_called, metric_names

__all__ = ["html_template", "render_report", "write_report"]

_SIGNIFICANCE = 0.05
_TIE = 1e-9


def write_report(comparison: Comparison, path: Path, command: str | None = None) -> None:
    """Write the report as an HTML file, atomically; ``command`` is the command line of the comparison, to be shown."""
    write_text(path, render_report(comparison, command))


def html_template(package: str, folder: str, name: str) -> jinja2.Template:
    """A template of a package, which may extend those of all reports: ``page.html.jinja`` and ``curve.html.jinja``."""
    loaders = [jinja2.PackageLoader(*place) for place in ((package, folder), ("lalm_mer.evaluation", "report"))]
    undefined = jinja2.StrictUndefined
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def render_report(comparison: Comparison, command: str | None = None) -> str:
    """The report as one HTML document."""
    runs = [run for row in comparison.rows for run in row.runs]
    corpora = dict.fromkeys(row.record.corpus for row in comparison.rows)
    return html_template("lalm_mer.evaluation", "report", "report.html.jinja").render(
        title=f"Emotion recognition on {', '.join(corpora)}",
        metrics=[metric_called(name) for name in metric_names(comparison.rows[0].kind)],
        single=comparison.rows[0].kind == "single",
        main=metric_called(default_metric(comparison.rows[0].kind)),
        blocks=[_block(rows) for rows in comparison.blocks().values()],
        synthetic=sorted({run.record.corpus for run in runs if run.record.synthetic}),
        all_synthetic=all(run.record.synthetic for run in runs),
        pairs=[_pair(pair, comparison.pairs) for pair in comparison.pairs],
        notes=_notes(comparison),
        versions=_versions([run.record.versions for run in runs]),
        commits=sorted({str(run.record.git) for run in runs}),
        configs=[_config(row) for row in comparison.rows],
        command=command,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _name(row: Row) -> str:
    return f"{row.record.recognizer}, {METHOD_NAMES[row.record.method]}, {row.modalities}"


def _summary(rows: Sequence[Row]) -> str:
    """The compared rows and the best of them, in one sentence."""
    record, uar = rows[0].record, [row.scores[default_metric(rows[0].kind)] for row in rows]
    best = max(range(len(rows)), key=lambda place: (rows[place].is_plain, uar[place]["value"]))
    speakers = uar[best]["n_clusters"]
    who = "" if speakers is None else f" by {_count(speakers, 'speaker')}"
    kind = "synthetic utterances" if record.synthetic else "utterances"
    if rows[0].kind == "single":
        value = f"{percent(uar[best]['value'])}% (95% interval {interval_text(uar[best])})"
    else:
        value = value_text(metric_called(default_metric(rows[0].kind)), uar[best]["value"])
    n = rows[0].utterances()
    recognizers = _count(len({row.record.recognizer for row in rows}), "recognizer")
    tested = "One recognizer was" if len(rows) == 1 else f"{len(rows)} settings of {recognizers} were"
    title = metric_called(default_metric(rows[0].kind)).short_title
    found = f"its {title} is" if len(rows) == 1 else f"the highest {title} is that of {_name(rows[best])}:"
    if rows[0].kind != "single":
        targets = ", ".join(record.labels)
        return f"{tested} tested on {n:,} {kind}{who} of the corpus {record.corpus}, {targets}; {found} {value}."
    return (
        f"{tested} tested on {n:,} {kind}{who} of the corpus {record.corpus}, {rows[0].described_classes}; {found} "
        f"{value}, where chance is {percent(rows[0].chance)}%."
    )


def _block(rows: Sequence[Row]) -> dict[str, Any]:
    """Values of the template for one corpus and protocol."""
    record = rows[0].record
    names = [_name(row) for row in rows]
    main = default_metric(rows[0].kind)
    return {
        "title": f"{record.corpus}, protocol {record.protocol}",
        "record": record,
        "summary": _summary(rows),
        "n_labels": len(record.labels),
        **(_of_classes(rows, names) if rows[0].kind == "single" else {"by_target": _by_target(rows)}),
        "several_seeds": any(len(row.by_seed) > 1 for row in rows),
        "table": _table(rows),
        "interval_methods": list(dict.fromkeys(row.scores[main]["method"] for row in rows)),
        "curves": [_curves(row) for row in rows if any(not run.history.empty for run in row.runs)],
        "untrained": [_name(row) for row in rows if all(run.history.empty for run in row.runs)],
        "folds": ", ".join(map(str, rows[0].folds)),
        "denominators": [_denominators(row) for row in rows],
    }


def _of_classes(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """Values of the template that only a task of one label an utterance has."""
    values = [with_interval(row.scores[UAR]) for row in rows]
    stated = "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
    points = [
        ForestPoint(name, row.record.modalities, *(row.scores[UAR][key] for key in ("value", "low", "high")))
        for name, row in zip(names, rows, strict=True)
    ]
    return {
        "n_classes": len(rows[0].classes),
        "described_classes": rows[0].described_classes,
        "chance": percent(rows[0].chance),
        "forest": data_uri(forest(points, rows[0].chance)),
        "forest_alt": f"Forest plot of UAR in percent with 95% intervals. {stated}.",
        "confusions": [_confusion(row) for row in rows],
    }


def _by_target(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All metrics of each target, for each row."""
    metrics = [metric_called(name) for name in metric_names(rows[0].kind)]
    return [
        {
            "name": _name(row),
            "target": target,
            "cells": [value_text(metric, row.scores[metric.name]["by_target"][target]) for metric in metrics],
        }
        for row in rows
        for target in row.record.labels
    ]


def _table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    plain = [row for row in rows if row.is_plain]
    metrics = [metric_called(name) for name in metric_names(rows[0].kind)]
    values = {metric.name: [row.scores[metric.name]["value"] for row in plain] for metric in metrics}
    best = {
        metric.name: (min if isinstance(metric, TargetMetric) and not metric.greater_is_better else max)(
            values[metric.name], default=1.0
        )
        for metric in metrics
    }
    table = []
    for row in rows:
        cells = []
        for metric in metrics:
            found = row.scores[metric.name]
            is_best = len(plain) > 1 and row.is_plain and abs(found["value"] - best[metric.name]) <= _TIE
            sd = None if row.sd is None or metric.name != metrics[0].name else value_text(metric, row.sd)
            value, interval = value_text(metric, found["value"]), interval_text(found)
            cells.append({"value": value, "sd": sd, "interval": interval, "best": is_best})
        table.append(
            {
                "row": row,
                "method": METHOD_NAMES[row.record.method],
                "cells": cells,
                "time": _duration(sum(run.seconds for run in row.runs)),
            }
        )
    return table


def _duration(seconds: float) -> str:
    """A duration in seconds as text.

    Example:
        >>> _duration(4.2), _duration(75), _duration(7265)
        ('4 s', '1 min 15 s', '2 h 1 min')
    """
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes = rounded // 60
    return f"{minutes} min {rounded % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _pair(pair: Pair, pairs: Sequence[Pair]) -> dict[str, Any]:
    test = pair.test
    if pair.p_holm is None:
        verdict = test.method
    elif pair.p_holm < _SIGNIFICANCE:
        verdict = "higher" if test.difference > 0 else "lower"
    else:
        verdict = "no difference shown"
        family = (pair.a.record.corpus, pair.a.record.protocol)
        number = sum((other.a.record.corpus, other.a.record.protocol) == family for other in pairs)
        if test.smallest_p is not None and test.smallest_p * number > _SIGNIFICANCE:
            verdict += f" (with {test.n_speakers} speakers no p-value can be below {test.smallest_p:.3f})"
    return {
        "corpus": pair.a.record.corpus,
        "a": _name(pair.a),
        "b": _name(pair.b),
        "points": f"{test.difference:+.3f}" if pair.a.kind == "scalar" else f"{100 * test.difference:+.1f}",
        "interval": difference_text(test.interval),
        "p": p_text(test.p_value),
        "holm": p_text(pair.p_holm),
        "verdict": verdict,
        "method": test.method,
    }


def _confusion(row: Row) -> dict[str, Any]:
    """Counts with a shade of blue for the share of the true class."""
    matrix = row.scores["confusion"]
    named = {UNPARSED: "unparsed", UNSCORED: "unscored"}
    lines = []
    for label, counts in zip(row.scores["labels"], matrix["counts"], strict=True):
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        cells = [
            {"count": count, "colour": _shade(share), "dark": share > 0.55, "share": percent(share)}
            for count, share in zip(counts, shares, strict=True)
        ]
        lines.append({"label": label, "cells": cells, "recall": percent(row.scores["recalls"][label])})
    columns = [named.get(name, name) for name in matrix["columns"]]
    return {"name": _name(row), "columns": columns, "rows": lines, "seeds": len(row.by_seed)}


def _shade(share: float) -> str:
    """White for none, dark blue for all, as a CSS colour."""
    red, green, blue = (round(255 + (dark - 255) * share) for dark in (8, 64, 129))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _curves(row: Row) -> dict[str, Any]:
    parts, main = [], metric_called(default_metric(row.kind))
    unit = "" if row.kind == "scalar" else "%"
    for run in row.runs:
        dev = run.history[run.history["split"] == "dev"]
        if len(dev):
            highest = value_text(main, float(dev[main.name].astype(float).max()))
            place = f"fold {run.record.fold} seed {run.record.seed}"
            parts.append(f"{place}: highest dev {main.short_title} {highest}{unit}")
    name, n = _name(row), sum(not run.history.empty for run in row.runs)
    alt = f"Loss and dev {main.short_title} by optimizer step of {name}. " + "; ".join(parts)
    return {"name": name, "image": curves(row), "alt": alt, "n": n}


def _denominators(row: Row) -> dict[str, Any]:
    scores = row.scores
    if row.kind != "single":
        return {"name": _name(row), "scores": scores, "absent": "", "by_fold": "", "without_unparsed": ""}
    absent = ", ".join(f"{label} (in {_count(count, 'seed')})" for label, count in scores["absent_labels"].items())
    return {"name": _name(row), "scores": scores, "absent": absent, "by_fold": _absent_by_fold(row),
            "without_unparsed": percent(scores["without_unparsed"][UAR])}  # fmt: skip


def _absent_by_fold(row: Row) -> str:
    """Labels without a test utterance in some fold; metrics include them, since folds are pooled."""
    frame = row.predictions.frame
    present = {label: frame[frame["truth"] == label]["fold"].nunique() for label in row.scores["labels"]}
    number = len(row.folds)
    return ", ".join(f"{label} ({number - seen} of {number})" for label, seen in present.items() if seen < number)


def _notes(comparison: Comparison) -> list[dict[str, Any]]:
    """Each distinct note with the rows and runs that have it."""
    notes: dict[str, dict[str, list[str]]] = {}
    for row in comparison.rows:
        for run in row.runs:
            found = [sentence(note) for note in run.record.notes]
            others = sorted(set(run.predictions.frame["condition"]) - {run.record.condition})
            if others:
                found.append(f"also has predictions under other conditions, not compared here: {', '.join(others)}")
            for note in found:
                notes.setdefault(note, {}).setdefault(_name(row), []).append(run.name)
    sizes = {_name(row): len(row.runs) for row in comparison.rows}
    return [
        {"text": note, "rows": [{"name": name, "runs": runs, "n": sizes[name]} for name, runs in of_note.items()]}
        for note, of_note in notes.items()
    ]


def _versions(versions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name and version of each package; several versions if runs differ."""
    found: dict[str, set[str]] = {}
    for name, version in (item for each in versions for item in each.items()):
        found.setdefault(name, set()).update([] if version is None else [str(version)])
    return [(name, " and ".join(sorted(of_name))) for name, of_name in found.items() if of_name]


def _config(row: Row) -> dict[str, Any]:
    """The config of the first run, and the keys in which the other runs of the row differ."""
    first, missing = _flat(row.record.config), object()
    different: dict[str, None] = {}
    for other in (_flat(run.record.config) for run in row.runs[1:]):
        different |= dict.fromkeys(key for key in first | other if first.get(key, missing) != other.get(key, missing))
    started = sorted(run.record.started_at for run in row.runs)
    return {
        "name": _name(row),
        "row": row,
        "started": started[0] if len(started) == 1 else f"{started[0]} to {started[-1]}",
        "config": json.dumps(row.record.config, indent=2, ensure_ascii=False, default=str),
        "differs": ", ".join(different),
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
