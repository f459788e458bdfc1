"""The runs of a learning curve: those of a cross-validation on one fold, for each number of training utterances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lalm_mer.core.config import override_key
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.config.cross_validation import CrossValidationSettings
from lalm_mer.launch.config.learning_curve import LearningCurveSettings
from lalm_mer.launch.config.sections import FolderSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun, plan_runs

__all__ = ["PlannedSize", "default_sizes", "plan_sizes"]

_FIRST = 25
_OF_A_RUN = ("split.train_utterances", "split.score_test")


@dataclass(frozen=True)
class PlannedSize:
    """The runs of one row on one number of training utterances.

    Args:
        row: name of the system, with its modalities
        size: number of training utterances
        runs: one for each seed
    """

    row: str
    size: int
    runs: tuple[PlannedRun, ...]


def default_sizes(count: int) -> list[int]:
    """25, 50, 100 and so on, and last all of train.

    Example:
        >>> default_sizes(130), default_sizes(20)
        ([25, 50, 100, 130], [20])
    """
    sizes = []
    size = _FIRST
    while size < count:
        sizes.append(size)
        size *= 2
    return [*sizes, count]


def plan_sizes(settings: LearningCurveSettings) -> list[PlannedSize]:
    """All points of the curves, row by row, from the smallest number on; every config is checked.

    Raises:
        ConfigError: as ``plan_runs``, or if train has fewer utterances than a size
    """
    given = (*settings.overrides, *(each for system in settings.chosen.values() for each in system.overrides))
    for override in given:
        if override_key(override) in _OF_A_RUN:
            raise ConfigError(f"override {override!r}: each run has its own {' and '.join(_OF_A_RUN)}; give sizes")
    found = [point for name in settings.chosen for point in _points(name, settings)]
    return sorted(found, key=lambda point: [each.row for each in found].index(point.row))


def _points(name: str, settings: LearningCurveSettings) -> Iterator[PlannedSize]:
    """The points of one system, from the smallest number on."""
    train = _runs(name, settings, None)[0].sizes["train"]
    sizes = sorted(settings.sizes) or default_sizes(train)
    if sizes[-1] > train:
        raise ConfigError(
            f"key 'sizes': {sizes[-1]}, but train of system {name} has {train} utterances in fold {settings.fold}; "
            "lower it"
        )
    for size in sizes:
        rows: dict[str, list[PlannedRun]] = {}
        for run in _runs(name, settings, size):
            rows.setdefault(run.row, []).append(replace(run, row=f"{run.row}, {size} utterances"))
        for row, runs in rows.items():
            yield PlannedSize(row, size, tuple(runs))


def _runs(name: str, settings: LearningCurveSettings, size: int | None) -> list[PlannedRun]:
    """The runs of one system on one number of training utterances, or on all."""
    number = "null" if size is None else str(size)
    folder = Path(settings.output.dir) / f"train_{number}"
    own = [f"split.train_utterances={number}", "split.score_test=false"]
    return plan_runs(
        CrossValidationSettings(
            output=FolderSettings(as_recorded(folder)),
            systems={name: settings.systems[name]},
            folds=[settings.fold],
            seeds=settings.seeds,
            overrides=[*settings.overrides, *own],
        )
    )
