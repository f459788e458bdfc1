"""Schemas of the recipes' YAML files, one for each recipe, composed of ``sections``."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core.settings import setting
from lalm_mer.examples.augmentation import AugmentSettings
from lalm_mer.launch.config import sections, server
from lalm_mer.launch.config.declarations import preflight_setting, seed_setting
from lalm_mer.launch.config.loss import LossSettings
from lalm_mer.models.families import model_names

__all__ = ["BaselineSettings", "FinetuneSettings", "TinySettings", "TranscribeSettings", "ZeroShotSettings"]


@dataclass(frozen=True)
class ZeroShotSettings:
    """YAML of zero_shot.py."""

    data: sections.DataSettings
    split: sections.SplitSettings
    model: sections.ModelSettings
    output: sections.OutputSettings = setting(may_change=True)
    prompt: sections.PromptSettings = field(default_factory=sections.PromptSettings)
    answering: sections.AnsweringSettings = field(default_factory=sections.AnsweringSettings)
    scoring: sections.ZeroShotScoringSettings = field(default_factory=sections.ZeroShotScoringSettings)
    remote: server.RemoteSettings = field(default_factory=server.RemoteSettings)
    parity: server.ParitySettings = field(default_factory=server.ParitySettings)
    engine: sections.EngineSettings = setting(sections.EngineSettings(), may_change=True)
    preflight: bool = preflight_setting()
    seed: int = seed_setting()


@dataclass(frozen=True)
class FinetuneSettings:
    """YAML of finetune.py."""

    data: sections.DataSettings
    split: sections.TrainingSplitSettings
    model: sections.ModelSettings
    output: sections.FinetuneOutputSettings = setting(may_change=True)
    prompt: sections.PromptSettings = field(default_factory=sections.PromptSettings)
    adapter: sections.AdapterSettings = field(default_factory=sections.AdapterSettings)
    balance: sections.BalanceSettings = field(default_factory=sections.BalanceSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    train: sections.TrainSettings = field(default_factory=sections.TrainSettings)
    hub: sections.HubSettings = setting(sections.HubSettings(), may_change=True)
    engine: sections.EngineSettings = setting(sections.EngineSettings(), may_change=True)
    preflight: bool = preflight_setting()
    seed: int = seed_setting()


@dataclass(frozen=True)
class TinySettings:
    """YAML of build_tiny_model.py: a small, randomly initialised model of a real architecture."""

    data: sections.DataSettings
    split: sections.SplitSettings
    output: sections.FolderSettings
    family: str = setting("qwen2_audio", choices=model_names, help="architecture")
    window_s: int = setting(30, at_least=1, help="window of the audio tower, in whole seconds")
    hidden_size: int = setting(128, at_least=1, help="width of audio tower and language model")
    layers: int = setting(2, at_least=1, help="layers of each")
    vocabulary: int = setting(600, at_least=1, help="largest number of tokens")
    initializer_range: float = setting(0.02, help="standard deviation of the weights")
    seed: int = seed_setting()


@dataclass(frozen=True)
class BaselineSettings:
    """YAML of train_baseline.py."""

    data: sections.DataSettings
    split: sections.TrainingSplitSettings
    output: sections.OutputSettings = setting(may_change=True)
    baseline: sections.BaselinePartsSettings = field(default_factory=sections.BaselinePartsSettings)
    balance: sections.BalanceSettings = field(default_factory=sections.BalanceSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    train: sections.TrainSettings = field(default_factory=sections.TrainSettings)
    engine: sections.EngineSettings = setting(sections.EngineSettings(), may_change=True)
    seed: int = seed_setting()


@dataclass(frozen=True)
class TranscribeSettings:
    """YAML of transcribe.py."""

    data: sections.TranscribeDataSettings
    model: sections.TranscriberSettings
    output: sections.TranscriptFileSettings
    seed: int = seed_setting()
