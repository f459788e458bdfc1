"""The results of a search: a table of the trials, the best values, figures, and the command that scores test."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lalm_mer.core.output import atomic_path, write_text
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.plain_text import plain_cells
from lalm_mer.core.provenance import package_versions
from lalm_mer.evaluation.report.figures import SETTINGS, data_uri
from lalm_mer.evaluation.report.html import html_template
from lalm_mer.evaluation.report.text import aligned, interval_text, percent
from lalm_mer.launch.cross_validation.plan import engine_of
from lalm_mer.launch.search.space import Range
from lalm_mer.launch.search.study import Search, Trial

__all__ = ["report_search"]

_DOTS, _BEST = "#0072B2", "#D55E00"
_COLUMNS = 3  # of figures


def report_search(search: Search, trials: Sequence[Trial], command: str) -> str:
    """Write trials.csv, best.yaml and report.html, and return the summary.

    Args:
        search: the search
        trials: its finished trials, at least one of them with a result
        command: command line of the search
    """
    best = _best(trials)
    test = _command(search, best)
    with atomic_path(search.out / "trials.csv") as partial:
        plain_cells(_frame(search, trials)).to_csv(partial, index=False, encoding="utf-8")
    write_text(search.out / "best.yaml", _yaml(best))
    overlap = _overlap(search)
    html = html_template("lalm_mer.launch", "search", "search.html.jinja").render(
        title=f"Search for {search.settings.recipe} with {search.settings.config}",
        metric=search.metric,
        fold=search.base.split.fold,
        best=best,
        best_yaml=_yaml(best),
        value=percent(_value(best)),
        trials=[_row(trial) for trial in sorted(trials, key=_order)],
        keys=list(search.space),
        figure=_figure(search, trials),
        overlap=overlap,
        test=test,
        command=command,
        versions=[(name, found) for name, found in package_versions().items() if found],
    )
    report = search.out / "report.html"
    write_text(report, html)
    table = [["trial", f"dev {search.metric}", "95% interval", *search.space]]
    for trial in sorted(trials, key=_order):
        row = _row(trial)
        table.append([str(trial.number), row["value"], row["interval"], *row["values"]])
    written = [f"trials: {as_recorded(search.out / 'trials.csv')}", f"report: {as_recorded(report)}"]
    parts = [aligned(table), *([overlap] if overlap else []), "\n".join(written)]
    parts.append(f"best values: {as_recorded(search.out / 'best.yaml')}; to score test with them:\n{test}")
    return "\n\n".join(parts)


def _value(trial: Trial) -> float | None:
    return None if trial.result is None else float(trial.result["value"])


def _order(trial: Trial) -> tuple[bool, float, int]:
    """Best first, failed ones last."""
    value = _value(trial)
    return value is None, -(value or 0.0), trial.number


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=_order)


def _overlap(search: Search) -> str:
    """That dev is part of other folds' test sets, if it is."""
    if not search.tested_elsewhere:
        return ""
    fold = search.base.split.fold
    return (
        f"{search.tested_elsewhere} of the dev utterances of fold {fold} are in the test sets of other folds: values "
        f"chosen here may flatter those folds; repeat the search with split.fold=... for each of them"
    )


def _yaml(trial: Trial) -> str:
    """The values of a trial as sections of the recipe's YAML."""
    content: dict[str, Any] = {}
    for key, value in trial.values.items():
        *sections, name = key.split(".")
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _command(search: Search, best: Trial) -> str:
    """The command that trains with the best values and scores the test set."""
    settings, out = search.settings, as_recorded(search.out / "best")
    launch = ["accelerate", "launch", "--quiet", "--config_file", as_recorded(engine_of(search.base).accelerate_config)]
    launch = launch if hasattr(search.base, "engine") else ["python"]
    recipe = [f"recipes/{settings.recipe}.py", "--config", settings.config]
    return shlex.join([*launch, *recipe, *search.overrides(best.values), f"output.dir={out}"])


def _row(trial: Trial) -> dict[str, Any]:
    result = trial.result
    return {
        "number": trial.number,
        "value": percent(_value(trial)),
        "interval": "failed" if result is None else interval_text(result),
        "values": [_text(value) for value in trial.values.values()],
        "seconds": "-" if trial.seconds is None else f"{trial.seconds:.0f}",
        "error": trial.error or "",
    }


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _frame(search: Search, trials: Sequence[Trial]) -> pd.DataFrame:
    rows = []
    for trial in trials:
        result = trial.result or {}
        figures = {search.metric: result.get("value"), "low": result.get("low"), "high": result.get("high")}
        rows.append({"trial": trial.number, **{key: _cell(value) for key, value in trial.values.items()}, **figures,
                     "n": result.get("n"), "seconds": trial.seconds, "error": trial.error})  # fmt: skip
    return pd.DataFrame(rows)


def _cell(value: object) -> object:
    return value if isinstance(value, int | float | str | None) else str(value)


def _figure(search: Search, trials: Sequence[Trial]) -> str:
    """Value by trial with the highest so far, and value by each key."""
    scored = sorted((trial for trial in trials if trial.result), key=lambda trial: trial.number)
    values = [100 * (_value(trial) or 0.0) for trial in scored]
    count = 1 + len(search.space)
    rows = -(-count // _COLUMNS)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9.0, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False).flat
        first, *others = list(grid)
        numbers = [trial.number for trial in scored]
        first.plot(numbers, values, "o", color=_DOTS, markersize=4)
        first.plot(numbers, pd.Series(values).cummax(), color=_BEST, linewidth=1.2, drawstyle="steps-post")
        first.set_title(f"dev {search.metric}, percent, and highest so far", loc="left")
        first.set_xlabel("trial")
        first.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        for axes, (key, each) in zip(others, search.space.items(), strict=False):
            found = [trial.values[key] for trial in scored]
            if isinstance(each, Range):
                axes.plot(found, values, "o", color=_DOTS, markersize=4)
                axes.set_xscale("log" if each.log else "linear")
            else:
                places = [each.values.index(value) for value in found]
                axes.plot(places, values, "o", color=_DOTS, markersize=4)
                axes.set_xticks(range(len(each.values)), [_text(value)[:16] for value in each.values])
                axes.set_xlim(-0.5, len(each.values) - 0.5)
            axes.set_xlabel(key)
        for axes in others[len(search.space) :]:
            axes.set_visible(False)
        for axes in (first, *others):
            axes.grid(color="#E8E8E8", linewidth=0.8)
            axes.set_axisbelow(True)
        return data_uri(figure)
