"""What a recipe's YAML may say: a schema a recipe, made of the sections of ``sections``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lalm_mer.core.names import OBJECTIVES
from lalm_mer.core.settings import setting
from lalm_mer.examples.augmentation import AugmentSettings
from lalm_mer.launch.config.sections import (
    AdapterSettings,
    AnsweringSettings,
    BalanceSettings,
    DataSettings,
    EngineSettings,
    FinetuneOutputSettings,
    FolderSettings,
    FusionSettings,
    ModelSettings,
    OutputSettings,
    PromptSettings,
    ScoringSettings,
    SplitSettings,
    TrainSettings,
    TranscribeDataSettings,
    TranscriberSettings,
    TranscriptFileSettings,
    ZeroShotScoringSettings,
)
from lalm_mer.models.families import model_names

__all__ = [
    "AdapterSettings",
    "AnsweringSettings",
    "AugmentSettings",
    "BalanceSettings",
    "BaselineSettings",
    "DataSettings",
    "EngineSettings",
    "FinetuneOutputSettings",
    "FinetuneSettings",
    "FusionSettings",
    "ModelSettings",
    "OutputSettings",
    "PromptSettings",
    "ScoringSettings",
    "SplitSettings",
    "TinySettings",
    "TrainSettings",
    "TranscribeSettings",
    "ZeroShotScoringSettings",
    "ZeroShotSettings",
]

_LARGEST_SEED = 2**32 - 1  # numpy's


def _seed() -> Any:  # noqa: ANN401 a declaration
    return setting(0, at_least=0, at_most=_LARGEST_SEED, help="of every random draw")


def _preflight() -> Any:  # noqa: ANN401 a declaration
    return setting(True, may_change=True, help="a few seconds of checks before the run")


@dataclass(frozen=True)
class ZeroShotSettings:
    """A YAML for zero_shot.py."""

    data: DataSettings
    split: SplitSettings
    model: ModelSettings
    output: OutputSettings = setting(may_change=True)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    answering: AnsweringSettings = field(default_factory=AnsweringSettings)
    scoring: ZeroShotScoringSettings = field(default_factory=ZeroShotScoringSettings)
    engine: EngineSettings = setting(EngineSettings(), may_change=True)
    preflight: bool = _preflight()
    seed: int = _seed()


@dataclass(frozen=True)
class FinetuneSettings:
    """A YAML for finetune.py."""

    data: DataSettings
    split: SplitSettings
    model: ModelSettings
    output: FinetuneOutputSettings = setting(may_change=True)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    engine: EngineSettings = setting(EngineSettings(), may_change=True)
    objective: str = setting("cross_entropy", choices=OBJECTIVES, help="training loss; contrastive: family clap alone")
    preflight: bool = _preflight()
    seed: int = _seed()


@dataclass(frozen=True)
class TinySettings:
    """A YAML for build_tiny_model.py: a randomly initialised model of a real architecture, made on the spot."""

    data: DataSettings
    split: SplitSettings
    output: FolderSettings
    family: str = setting("qwen2_audio", choices=model_names, help="architecture")
    window_s: int = setting(30, at_least=1, help="window of the audio tower, in whole seconds")
    hidden_size: int = setting(128, at_least=1, help="width of audio tower and language model")
    layers: int = setting(2, at_least=1, help="layers of each")
    vocabulary: int = setting(600, at_least=1, help="tokens at most")
    initializer_range: float = setting(0.02, help="standard deviation of the weights")
    seed: int = _seed()


@dataclass(frozen=True)
class BaselineSettings:
    """A YAML for train_baseline.py."""

    data: DataSettings
    split: SplitSettings
    output: OutputSettings = setting(may_change=True)
    baseline: FusionSettings = field(default_factory=FusionSettings)
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    engine: EngineSettings = setting(EngineSettings(), may_change=True)
    seed: int = _seed()


@dataclass(frozen=True)
class TranscribeSettings:
    """A YAML for transcribe.py."""

    data: TranscribeDataSettings
    model: TranscriberSettings
    output: TranscriptFileSettings
    seed: int = _seed()
