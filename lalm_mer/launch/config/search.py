"""Schema of search.py: a recipe, its YAML, and the values among which dev chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config.cross_validation import TRAINING_RECIPES
from lalm_mer.launch.config.sections import FolderSettings

__all__ = ["SearchSettings"]


@dataclass(frozen=True)
class SearchSettings:
    """YAML of search.py."""

    output: FolderSettings
    recipe: str = setting(choices=TRAINING_RECIPES, help="the recipe that the YAML is for")
    config: str = setting(help="the YAML, a complete run")
    space: dict[str, Any] = setting(
        help="section.key -> list of values, or {low: 1e-5, high: 1e-3, log: true}, or {low: 8, high: 64, step: 8}"
    )
    overrides: list[str] = setting([], help="section.key=value, for all trials")
    trials: int = setting(20, at_least=1, help="number of trials, those of an earlier start included")
    metric: str | None = setting(
        None, help="name of a metric in dev_metrics.json, of which a higher value is better; null for the protocol's"
    )
    sampler: str = setting("tpe", choices=("tpe", "random"), help="Optuna's sampler")
    seed: int = setting(0, at_least=0, at_most=2**31, help="of the sampler; the runs have that of their YAML")

    def __post_init__(self) -> None:
        if not self.space:
            raise ConfigError("key 'space': is empty; name at least one key of the YAML")
