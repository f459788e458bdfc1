"""Schema of cross_validate.py: systems, each a YAML of a recipe, over folds, seeds and modalities."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config.late_fusion import LateFusionSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.sections import FolderSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings

__all__ = [
    "LATE_FUSION", "RECIPES", "TRAINING_RECIPES", "CrossValidationSettings", "PlannedSettings", "RunSettings",
    "SystemSettings", "WithSystems", "require_systems",
]  # fmt: skip

RunSettings: TypeAlias = ZeroShotSettings | FinetuneSettings | BaselineSettings | LinearSettings
PlannedSettings: TypeAlias = RunSettings | LateFusionSettings
RECIPES: dict[str, type[RunSettings]] = {
    "zero_shot": ZeroShotSettings,
    "finetune": FinetuneSettings,
    "train_baseline": BaselineSettings,
    "train_linear": LinearSettings,
}
"""Recipe -> schema of its YAML, for a run on a fold."""
LATE_FUSION = "late_fusion"
"""The recipe that combines runs of other systems."""
TRAINING_RECIPES = ("finetune", "train_baseline", "train_linear")
"""Those that train, and select on dev."""

_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class SystemSettings:
    """One system: a recipe, its YAML, and the values in which its runs differ from it."""

    recipe: str = setting(choices=(*RECIPES, LATE_FUSION), help="the recipe that the YAML is for")
    config: str = setting(help="the YAML, a complete run")
    overrides: list[str] = setting([], help="section.key=value, for all runs of the system")
    modalities: list[str] | None = setting(
        None, choices=names.MODALITIES, help="its runs are repeated with each; null for what the YAML says"
    )
    seeds: list[int] | None = setting(None, at_least=0, help="null for those of the cross-validation")
    members: list[str] = setting(
        [], help="with late_fusion: systems, or systems with modalities such as baseline_audio, whose runs are combined"
    )
    after: list[str] = setting([], help="systems whose runs are finished first, such as those that a run starts from")


class WithSystems:
    """What the schemas of recipes with systems have in common."""

    output: FolderSettings
    systems: dict[str, SystemSettings]
    overrides: list[str]
    only: list[str]

    @property
    def chosen(self) -> dict[str, SystemSettings]:
        """The systems to run."""
        return {name: each for name, each in self.systems.items() if not self.only or name in self.only}


@dataclass(frozen=True)
class CrossValidationSettings(WithSystems):
    """YAML of cross_validate.py."""

    output: FolderSettings
    systems: dict[str, SystemSettings] = setting(help="name -> system; see docs/cross-validation.md")
    folds: list[int] = setting([], at_least=1, help="numbers of the folds; empty for all of the protocol")
    seeds: list[int] = setting([0], at_least=0, help="seeds of all random draws")
    overrides: list[str] = setting([], help="section.key=value, for all runs of all systems")
    only: list[str] = setting([], help="systems to run; empty for all")
    processes: int = setting(1, at_least=1, help="runs at a time, each in its own process, and on its own GPU if any")
    tflops: float | None = setting(
        None,
        above=0,
        help="with --dry-run: 10^12 operations per second that are reached, such as those of a benchmark, for the "
        "durations of audio-language models of which no run has finished",
    )

    def __post_init__(self) -> None:
        require_systems(self.systems, self.only, {"seeds": self.seeds, "folds": self.folds})
        _require_order(self.systems)
        if not self.seeds:
            raise ConfigError("key 'seeds': is empty; name at least one")


def require_systems(
    systems: Mapping[str, SystemSettings], only: Sequence[str], numbers: Mapping[str, Sequence[int]]
) -> None:
    """Check the names of systems, and that no list has a value twice.

    Args:
        systems: name -> system
        only: the names that were chosen
        numbers: key -> its list

    Raises:
        ConfigError: naming the key
    """
    for name in systems:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"key 'systems': {name!r} is to name folders; use at most 100 letters, digits, '.', '-' and '_'"
            )
    for name in only:
        if name not in systems:
            raise ConfigError(f"key 'only': {name!r}; the systems are {', '.join(systems)}")
    own = {
        f"systems.{name}.{key}": values
        for name, system in systems.items()
        for key, values in (("seeds", system.seeds), ("modalities", system.modalities))
        if values is not None
    }
    for key, each in own.items():
        if not each:
            raise ConfigError(f"key {key!r}: is empty; name at least one, or leave it out")
    for key, values in (*numbers.items(), *own.items()):
        if len(set(values)) != len(values):
            raise ConfigError(f"key {key!r}: {list(values)} has a value twice; give each once")
    if not systems:
        raise ConfigError("key 'systems': is empty; name at least one")


def _require_order(systems: Mapping[str, SystemSettings]) -> None:
    """Check that systems come after those that they need."""
    earlier: list[str] = []
    for name, system in systems.items():
        fuses = system.recipe == LATE_FUSION
        if fuses and len(set(system.members)) < 2:
            raise ConfigError(f"key 'systems.{name}.members': {system.members}; name two or more different systems")
        if fuses and (system.modalities or system.seeds):
            raise ConfigError(f"system {name}: late_fusion has modalities and seeds of its members; leave them out")
        if system.members and not fuses:
            raise ConfigError(f"key 'systems.{name}.members': only for recipe {LATE_FUSION}; use after")
        for needed in system.after:
            if needed not in earlier:
                known = ", ".join(earlier) or "none"
                raise ConfigError(f"key 'systems.{name}.after': {needed!r}; expected a system above it: {known}")
        earlier.append(name)
