"""Schema of train_linear.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core.settings import setting
from lalm_mer.launch.config import sections
from lalm_mer.recognizers.linear.settings import LinearModelSettings

__all__ = ["LinearPartsSettings", "LinearSettings"]


@dataclass(frozen=True)
class LinearPartsSettings(sections.FeatureStoreSettings, LinearModelSettings):
    """The linear model."""


@dataclass(frozen=True)
class LinearSettings:
    """YAML of train_linear.py."""

    data: sections.DataSettings
    split: sections.TrainingSplitSettings
    output: sections.OutputSettings = setting(may_change=True)
    linear: LinearPartsSettings = field(default_factory=LinearPartsSettings)
    seed: int = setting(
        0, at_least=0, at_most=2**32 - 1, help="of the draw of split.train_utterances; the fit draws nothing at random"
    )
