"""A series of cross-validations of each system: one for each of several numbers, such as the layers of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lalm_mer.core.output import atomic_path, write_text
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.plain_text import plain_cells
from lalm_mer.core.provenance import package_versions
from lalm_mer.core.run_record import RunRecord
from lalm_mer.evaluation.report.html import html_template
from lalm_mer.launch.config.cross_validation import CrossValidationSettings, SystemSettings, WithSystems
from lalm_mer.launch.config.sections import FolderSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun, plan_runs, require_free

__all__ = [
    "PlannedPoint", "points_of_runs", "require_free_overrides", "runs_of_points", "system_runs", "write_series",
]  # fmt: skip


@dataclass(frozen=True)
class PlannedPoint:
    """The runs of one row at one number of a series.

    Args:
        row: name of the system, with its modalities if it has several
        number: of the layer, or of training utterances
        runs: one for each fold and seed
    """

    row: str
    number: int
    runs: tuple[PlannedRun, ...]


def require_free_overrides(settings: WithSystems, own: Sequence[str], instead: str) -> None:
    """Check that no override is of a key that differs between the points.

    Args:
        settings: of the recipe
        own: keys of which each run has its own value
        instead: what to give in place of such an override

    Raises:
        ConfigError: naming the override
    """
    require_free(settings.overrides, own, instead)
    for name, system in settings.chosen.items():
        require_free(system.overrides, own, instead, f"system {name}: ")


def system_runs(
    settings: WithSystems,
    name: str,
    system: SystemSettings,
    *,
    folder: str,
    folds: Sequence[int],
    seeds: Sequence[int],
    own: Sequence[str] = (),
) -> list[PlannedRun]:
    """The runs of one system at one number.

    Args:
        settings: of the recipe
        name: of the system
        system: its recipe, YAML and overrides
        folder: name of the folder of these runs
        folds: as of ``CrossValidationSettings``
        seeds: likewise
        own: overrides of these runs alone

    Raises:
        ConfigError: as ``plan_runs``
    """
    return plan_runs(
        CrossValidationSettings(
            output=FolderSettings(as_recorded(Path(settings.output.dir) / folder)),
            systems={name: system},
            folds=list(folds),
            seeds=list(seeds),
            overrides=[*settings.overrides, *own],
        )
    )


def points_of_runs(runs: Sequence[PlannedRun], number: int, text: str) -> list[PlannedPoint]:
    """The point of each row of the runs of one number; ``text`` is added to the names under which they are printed."""
    rows: dict[str, list[PlannedRun]] = {}
    for run in runs:
        rows.setdefault(run.row, []).append(replace(run, row=f"{run.row}, {text}"))
    return [PlannedPoint(row, number, tuple(of_row)) for row, of_row in rows.items()]


def runs_of_points(points: Sequence[PlannedPoint]) -> list[PlannedRun]:
    """The runs of all points, in order."""
    return [run for point in points for run in point.runs]


def write_series(template: str, frame: pd.DataFrame, table: Path, record: RunRecord, **shown: Any) -> str:  # noqa: ANN401
    """Write the table of a series and report.html in its folder, and return the lines that name them.

    Args:
        template: name of a folder of ``launch`` and of the template in it, which extends ``curve.html.jinja``
        frame: the table
        table: its CSV file
        record: of a run, all of which have its corpus and protocol
        shown: what the template shows
    """
    with atomic_path(table) as partial:
        plain_cells(frame).to_csv(partial, index=False, encoding="utf-8")
    report = table.parent / "report.html"
    versions = [(name, found) for name, found in package_versions().items() if found]
    page = html_template("lalm_mer.launch", template, f"{template}.html.jinja")
    write_text(report, page.render(record=record, metric=record.primary_metric, versions=versions, **shown))
    return f"table: {as_recorded(table)}\nreport: {as_recorded(report)}"
