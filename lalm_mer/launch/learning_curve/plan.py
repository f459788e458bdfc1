"""The runs of a learning curve: those of a cross-validation on one fold, for each number of training utterances."""

from __future__ import annotations

from collections.abc import Iterator

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.learning_curve import LearningCurveSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun
from lalm_mer.launch.cross_validation.series import PlannedPoint, points_of_runs, require_free_overrides, system_runs

__all__ = ["default_sizes", "plan_sizes"]

_FIRST = 25
_OF_A_RUN = ("split.train_utterances", "split.score_test")


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


def plan_sizes(settings: LearningCurveSettings) -> list[PlannedPoint]:
    """All points of the curves, row by row, from the smallest number on; every config is checked.

    Raises:
        ConfigError: as ``plan_runs``, or if train has fewer utterances than a size
    """
    require_free_overrides(settings, _OF_A_RUN, "sizes")
    found = [point for name in settings.chosen for point in _points(name, settings)]
    return sorted(found, key=lambda point: [each.row for each in found].index(point.row))


def _points(name: str, settings: LearningCurveSettings) -> Iterator[PlannedPoint]:
    """The points of one system, from the smallest number on."""
    train = _runs(name, settings, "null")[0].sizes["train"]
    sizes = sorted(settings.sizes) or default_sizes(train)
    if sizes[-1] > train:
        raise ConfigError(
            f"key 'sizes': {sizes[-1]}, but train of system {name} has {train} utterances in fold {settings.fold}; "
            "lower it"
        )
    for size in sizes:
        yield from points_of_runs(_runs(name, settings, str(size)), size, f"{size} utterances")


def _runs(name: str, settings: LearningCurveSettings, number: str) -> list[PlannedRun]:
    """The runs of one system on a number of training utterances, ``null`` for all."""
    return system_runs(
        settings,
        name,
        settings.systems[name],
        folder=f"train_{number}",
        folds=[settings.fold],
        seeds=settings.seeds,
        own=[f"split.train_utterances={number}", "split.score_test=false"],
    )
