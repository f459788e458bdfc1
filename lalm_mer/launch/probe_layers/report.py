"""Layer probes from finished runs: figures by layer, and of the layer that dev chooses in each fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lalm_mer.core.run_record import MODEL_FOLDER
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.report.figures import COLOURS, MARKERS, data_uri, interval_bars, lines_figure
from lalm_mer.evaluation.report.text import aligned, interval_text, percent
from lalm_mer.evaluation.runs import Run, read_dev_predictions, read_run
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.cross_validation.series import PlannedPoint, write_series
from lalm_mer.recognizers.linear.model import saved_c

__all__ = ["FoldProbe", "Probe", "choices", "probes_of", "report_probes"]

_SPLITS = ("dev", "test")


@dataclass(frozen=True)
class FoldProbe:
    """A probe of one layer on one fold.

    Args:
        layer: number of the layer
        run: its finished run
        dev: dev predictions, of the fit on train
        c: that dev chose
        results: split -> the metric of the protocol, with its interval by speakers
    """

    layer: int
    run: Run
    dev: Predictions
    c: float
    results: Mapping[str, Mapping[str, Any]]

    @property
    def tables(self) -> dict[str, Predictions]:
        """Split -> predictions."""
        return {"dev": self.dev, "test": self.run.predictions}


@dataclass(frozen=True)
class Probe:
    """The probes of all folds of one row, on one layer or on that which dev chooses in each fold.

    Args:
        row: name of the system, with its modality if it has several
        layer: number of the layer; None for that which dev chooses
        folds: one for each fold
        results: split -> the metric of the protocol, folds pooled, with its interval by speakers
    """

    row: str
    layer: int | None
    folds: tuple[FoldProbe, ...]
    results: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, row: str, layer: int | None, folds: Sequence[FoldProbe]) -> Probe:
        """Pool the folds."""
        metric = folds[0].run.record.primary_metric
        pooled = {split: Predictions.concat([each.tables[split] for each in folds]) for split in _SPLITS}
        return cls(row, layer, tuple(folds), {split: score(table)[metric] for split, table in pooled.items()})

    @property
    def mean_over_folds(self) -> float:
        """Mean over folds of the metric on test."""
        return fmean(each.results["test"]["value"] for each in self.folds)

    @property
    def layers(self) -> str:
        """The number of the layer, or the numbers that dev chooses."""
        numbers = [each.layer for each in self.folds] if self.layer is None else [self.layer]
        return " ".join(map(str, numbers))


def probes_of(planned: Sequence[PlannedPoint]) -> list[Probe]:
    """The probes of finished runs, by the metric with which the protocol selects.

    Raises:
        PredictionError: if a run folder is malformed, or dev has an utterance of test
    """
    return [Probe.of(each.row, each.number, [_read(each.number, run.folder) for run in each.runs]) for each in planned]


def _read(layer: int, folder: Path) -> FoldProbe:
    run = read_run(folder)
    dev = read_dev_predictions(run, folder)
    assert dev is not None  # every run of a linear model has them
    metric = run.record.primary_metric
    results = {split: score(table)[metric] for split, table in (("dev", dev), ("test", run.predictions))}
    return FoldProbe(layer, run, dev, saved_c(folder / MODEL_FOLDER), results)


def choices(probes: Sequence[Probe]) -> list[Probe]:
    """For each row the layer that dev chooses in each fold, the first of equals; test chooses nothing."""
    found = []
    for row in dict.fromkeys(probe.row for probe in probes):
        by_fold = zip(*(probe.folds for probe in probes if probe.row == row), strict=True)
        best = [max(of_fold, key=lambda each: each.results["dev"]["value"]) for of_fold in by_fold]
        found.append(Probe.of(row, None, best))
    return found


def report_probes(probes: Sequence[Probe], out: Path, command: str) -> str:
    """Write layer_probes.csv and report.html, and return the table, which ends with the figures of the choices.

    Args:
        probes: in the order of the table
        out: folder of the files
        command: command line of the recipe
    """
    chosen = choices(probes)
    record = probes[0].folds[0].run.record
    metric = record.primary_metric
    rows, answers = [_row(probe) for probe in probes], [_answer(probe, metric) for probe in chosen]
    written = write_series(
        "probe_layers",
        _frame(probes, chosen, metric),
        out / "layer_probes.csv",
        record,
        title=f"Layer probes on {record.corpus}",
        rows=rows,
        chosen=[_row(probe) for probe in chosen],
        folds=", ".join(str(each.run.record.fold) for each in chosen[0].folds),
        interval=probes[0].results["test"]["method"],
        figure=_figure(probes, chosen, metric),
        answers=answers,
        command=command,
    )
    header = ["system", "layer", f"dev {metric}", "95% interval", f"test {metric}", "95% interval", "mean over folds",
              "c"]  # fmt: skip
    table = aligned([header, *(list(row.values()) for row in rows)])
    return "\n\n".join([table, written, "\n".join(answers)])


def _row(probe: Probe) -> dict[str, str]:
    counts = Counter(f"{each.c:g}" for each in probe.folds)
    cells = {"row": probe.row, "layers": probe.layers}
    for split, result in probe.results.items():
        cells |= {split: percent(result["value"]), f"{split}_interval": interval_text(result)}
    listed = ", ".join(c if len(counts) == 1 else f"{c} ({count})" for c, count in counts.items())
    return cells | {"mean": percent(probe.mean_over_folds), "c": listed}


def _answer(probe: Probe, metric: str) -> str:
    """Which layers dev chooses, and the figure on test of this choice, in a sentence."""
    test, n = probe.results["test"], sum(len(each.tables["test"].frame) for each in probe.folds)
    return (
        f"{probe.row}, layer chosen on dev of each fold ({probe.layers}): test {metric} {percent(test['value'])}% (95% "
        f"interval {interval_text(test)}), mean over folds {percent(probe.mean_over_folds)}, n = {n}"
    )


def _frame(probes: Sequence[Probe], chosen: Sequence[Probe], metric: str) -> pd.DataFrame:
    """A line for each layer and fold, and one with the folds pooled for each layer and for the choice of dev."""
    kept = {(probe.row, each.run.record.fold): each.layer for probe in chosen for each in probe.folds}
    record = probes[0].folds[0].run.record
    shared = {"corpus": record.corpus, "protocol": record.protocol, "metric": metric}
    lines: list[dict[str, Any]] = []
    for probe in (*probes, *chosen):
        named = {"system": probe.row, "layer": "chosen on dev" if probe.layer is None else probe.layer} | shared
        for each in probe.folds if probe.layer is not None else ():
            fold = each.run.record.fold
            own = {"fold": fold, "chosen": kept[probe.row, fold] == probe.layer, "c": each.c}
            lines.append(named | own | dict(_figures([each], each.results)))
        pooled = dict(_figures(probe.folds, probe.results))
        lines.append(named | {"fold": "pooled"} | pooled | {"test_mean_over_folds": probe.mean_over_folds})
    return pd.DataFrame(lines)


def _figures(folds: Sequence[FoldProbe], results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Columns of figures: numbers of utterances, values, ends of intervals, and the duration of the runs."""
    for split, result in results.items():
        yield f"n_{split}", sum(len(each.tables[split].frame) for each in folds)
        yield split, result["value"]
        yield from ((f"{split}_{end}", result[end]) for end in ("low", "high"))
    yield "seconds", sum(each.run.seconds for each in folds)


def _figure(probes: Sequence[Probe], chosen: Sequence[Probe], metric: str) -> str:
    """Dev (dashed) and test by layer with intervals, and a dotted line at the figure of the layers that dev chooses."""
    numbers = sorted({probe.layer for probe in probes if probe.layer is not None})
    with lines_figure("layer (0: input of the first layer)", f"{metric}, percent") as (figure, axes):
        for place, choice in enumerate(chosen):
            of_row = [probe for probe in probes if probe.row == choice.row]
            shift = 0.06 * (2 * place - len(chosen) + 0.5)  # so that bars do not overlap
            look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
            _curve(axes, of_row, "dev", shift, linestyle="--", markerfacecolor="white", alpha=0.7, **look)
            _curve(axes, of_row, "test", shift + 0.06, **look)
            axes.axhline(100 * choice.results["test"]["value"], color=look["color"], linewidth=1, linestyle=":",
                         label=f"{choice.row}, test, layers chosen on dev")  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(nbins=min(len(numbers), 12), integer=True))
    return data_uri(figure)


def _curve(axes: Axes, probes: Sequence[Probe], split: str, shift: float, **look: Any) -> None:  # noqa: ANN401
    """The values of a row by layer, with a bar for each interval."""
    places = [(probe.layer or 0) + shift for probe in probes]
    results = [probe.results[split] for probe in probes]
    axes.plot(places, [100 * result["value"] for result in results], label=f"{probes[0].row}, {split}", **look)
    interval_bars(axes, places, results, look["color"])
