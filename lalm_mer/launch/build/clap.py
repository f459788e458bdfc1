"""Builder of CLAP recognizers."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.settings import FinetuneSettings, ModelSettings, PromptSettings, ZeroShotSettings
from lalm_mer.models.clap import Clap
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.recognizers.clap import ClapRecognizer, ClapSetup

__all__ = ["ClapBuilder"]


class ClapBuilder:
    """What a run of a CLAP is made of; the steps are those of ``Builder``."""

    def prompts(self, settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> ClapSetup:
        """The descriptions of the labels.

        Raises:
            ConfigError: if the settings ask for what CLAP does not do
        """
        ensemble = load_ensemble(Path(settings.prompt.file))
        plain = PromptSettings(settings.prompt.file, settings.prompt.modalities)
        if settings.prompt != plain or settings.data.without_audio != "refuse":
            raise ConfigError(
                "section 'prompt': clap compares a voice with descriptions and takes a file alone (several templates "
                "stand in it), and data.without_audio=refuse"
            )
        return ClapSetup(ensemble, ensemble.label_set(label_set))

    def load(self, settings: ModelSettings) -> Clap:
        """The model.

        Raises:
            ModelError: if there is no such model
        """
        with naming_keys("model"):
            return Clap.load(
                settings.id, revision=settings.revision, dtype=settings.dtype, quantization=settings.quantization
            )

    def check(self, clap: Clap, settings: ZeroShotSettings | FinetuneSettings) -> None:
        """Refuse a contrastive loss over one utterance, and gradient checkpointing, which CLAP does not have.

        Raises:
            ConfigError: naming the key
        """
        if not isinstance(settings, FinetuneSettings):
            return
        if settings.train.gradient_checkpointing:
            raise ConfigError("key 'train.gradient_checkpointing': transformers' ClapModel has none; set it to false")
        if settings.objective == "contrastive" and settings.train.per_device_train_batch_size < 2:
            raise ConfigError("key 'train.per_device_train_batch_size': 1; a contrastive loss needs several in a batch")

    def with_shots(
        self, setup: ClapSetup, data: RunData, clap: Clap, settings: ZeroShotSettings | FinetuneSettings
    ) -> tuple[ClapSetup, RunData]:
        """Both as they are: a CLAP takes no answered examples."""
        return setup, data

    def recognizer(
        self,
        clap: Clap,
        setup: ClapSetup,
        settings: ZeroShotSettings | FinetuneSettings,
        adapted: PeftModel | None = None,
    ) -> ClapRecognizer:
        """The recognizer over the model, adapted or bare."""
        objective = settings.objective if isinstance(settings, FinetuneSettings) else "cross_entropy"
        return ClapRecognizer(clap, setup, adapted, objective=objective)
