"""Schema of learning_curve.py: systems, each a YAML of a recipe, on numbers of training utterances."""

from __future__ import annotations

from dataclasses import dataclass

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config.cross_validation import TRAINING_RECIPES, SystemSettings, WithSystems, require_systems
from lalm_mer.launch.config.sections import FolderSettings

__all__ = ["LearningCurveSettings"]


@dataclass(frozen=True)
class LearningCurveSettings(WithSystems):
    """YAML of learning_curve.py."""

    output: FolderSettings
    systems: dict[str, SystemSettings] = setting(help="name -> system that is trained; see docs/learning-curve.md")
    sizes: list[int] = setting(
        [], at_least=1, help="numbers of training utterances; empty for 25, 50, 100 and so on up to all of train"
    )
    fold: int = setting(1, at_least=1, help="fold of the protocol")
    seeds: list[int] = setting([0, 1, 2], at_least=0, help="seeds of the draws of utterances and of all others")
    overrides: list[str] = setting([], help="section.key=value, for all runs of all systems")
    only: list[str] = setting([], help="systems to run; empty for all")
    processes: int = setting(1, at_least=1, help="runs at a time, each in its own process, and on its own GPU if any")

    def __post_init__(self) -> None:
        require_systems(self.systems, self.only, {"seeds": self.seeds, "sizes": self.sizes})
        if not self.seeds:
            raise ConfigError("key 'seeds': is empty; name at least one")
        for name, system in self.systems.items():
            if system.recipe not in TRAINING_RECIPES:
                raise ConfigError(
                    f"key 'systems.{name}.recipe': {system.recipe} trains nothing; expected one of "
                    f"{', '.join(TRAINING_RECIPES)}"
                )
