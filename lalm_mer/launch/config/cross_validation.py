"""Schema of cross_validate.py: systems, each a YAML of a recipe, over folds, seeds and modalities."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config.sections import FolderSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings

__all__ = [
    "RECIPES", "TRAINING_RECIPES", "CrossValidationSettings", "RunSettings", "SystemSettings", "require_systems",
]  # fmt: skip

RunSettings: TypeAlias = ZeroShotSettings | FinetuneSettings | BaselineSettings
RECIPES: dict[str, type[RunSettings]] = {
    "zero_shot": ZeroShotSettings,
    "finetune": FinetuneSettings,
    "train_baseline": BaselineSettings,
}
"""Recipe -> schema of its YAML."""
TRAINING_RECIPES = ("finetune", "train_baseline")
"""Those that train, and select on dev."""

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class SystemSettings:
    """One system: a recipe, its YAML, and the values in which its runs differ from it."""

    recipe: str = setting(choices=tuple(RECIPES), help="the recipe that the YAML is for")
    config: str = setting(help="the YAML, a complete run")
    overrides: list[str] = setting([], help="section.key=value, for all runs of the system")
    modalities: list[str] | None = setting(
        None, choices=names.MODALITIES, help="its runs are repeated with each; null for what the YAML says"
    )
    seeds: list[int] | None = setting(None, at_least=0, help="null for those of the cross-validation")


@dataclass(frozen=True)
class CrossValidationSettings:
    """YAML of cross_validate.py."""

    output: FolderSettings
    systems: dict[str, SystemSettings] = setting(help="name -> system; see docs/cross-validation.md")
    folds: list[int] = setting([], at_least=1, help="numbers of the folds; empty for all of the protocol")
    seeds: list[int] = setting([0], at_least=0, help="seeds of all random draws")
    overrides: list[str] = setting([], help="section.key=value, for all runs of all systems")
    only: list[str] = setting([], help="systems to run; empty for all")
    processes: int = setting(1, at_least=1, help="runs at a time, each in its own process, and on its own GPU if any")

    def __post_init__(self) -> None:
        require_systems(self.systems, self.only, {"seeds": self.seeds, "folds": self.folds})
        if not self.seeds:
            raise ConfigError("key 'seeds': is empty; name at least one")

    @property
    def chosen(self) -> dict[str, SystemSettings]:
        """The systems to run."""
        return {name: each for name, each in self.systems.items() if not self.only or name in self.only}


def require_systems(
    systems: Mapping[str, SystemSettings], only: Sequence[str], numbers: Mapping[str, Sequence[int]]
) -> None:
    """Check the names of systems, and that no list has a number twice.

    Args:
        systems: name -> system
        only: the names that were chosen
        numbers: key -> its list

    Raises:
        ConfigError: naming the key
    """
    for name in systems:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"key 'systems': {name!r} is to name folders; use letters, digits, '.', '-' and '_'")
    for name in only:
        if name not in systems:
            raise ConfigError(f"key 'only': {name!r}; the systems are {', '.join(systems)}")
    for key, values in numbers.items():
        if len(set(values)) != len(values):
            raise ConfigError(f"key {key!r}: {list(values)} has a number twice; give each once")
    if not systems:
        raise ConfigError("key 'systems': is empty; name at least one")
