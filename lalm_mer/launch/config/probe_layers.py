"""Schema of probe_layers.py: systems, each a YAML of train_linear.py, on single layers of their encoders."""

from __future__ import annotations

from dataclasses import dataclass

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config.cross_validation import SystemSettings, WithSystems, require_systems
from lalm_mer.launch.config.sections import FolderSettings

__all__ = ["PROBE", "ProbeLayersSettings"]

PROBE = "train_linear"
"""The recipe of a probe."""


@dataclass(frozen=True)
class ProbeLayersSettings(WithSystems):
    """YAML of probe_layers.py."""

    output: FolderSettings
    systems: dict[str, SystemSettings] = setting(
        help="name -> system of train_linear, of one modality with a pretrained encoder; see docs/probe-layers.md"
    )
    layers: list[int] = setting(
        [], at_least=0, help="numbers of the layers, 0 for the input of the first layer; empty for all of each encoder"
    )
    folds: list[int] = setting([], at_least=1, help="numbers of the folds; empty for all of the protocol")
    seed: int = setting(0, at_least=0, help="of the draw of split.train_utterances; a fit draws nothing at random")
    overrides: list[str] = setting([], help="section.key=value, for all runs of all systems")
    only: list[str] = setting([], help="systems to run; empty for all")
    processes: int = setting(1, at_least=1, help="runs at a time, each in its own process")

    def __post_init__(self) -> None:
        require_systems(self.systems, self.only, {"layers": self.layers, "folds": self.folds})
        for name, system in self.systems.items():
            if system.recipe != PROBE:
                raise ConfigError(f"key 'systems.{name}.recipe': {system.recipe}; a probe is a linear model: {PROBE}")
