"""Builder of recognizers of CLAP and other dual encoders."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.packing import refuse_packing
from lalm_mer.launch.config.sections import ModelSettings, PromptSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.dual_encoder import DualEncoder
from lalm_mer.models.registry import model_class
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.recognizers.clap import ClapRecognizer, ClapSetup

__all__ = ["ClapBuilder"]


class ClapBuilder:
    """Makes the parts of a run of a dual encoder, with the methods of ``LanguageBuilder``."""

    def prompts(self, settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> ClapSetup:
        """The descriptions of the labels.

        Raises:
            ConfigError: if other keys of the prompt are set
        """
        ensemble = load_ensemble(Path(settings.prompt.file))
        chosen = recorded(settings.prompt)
        if chosen != PromptSettings(chosen.file, chosen.modalities) or settings.data.without_audio != "refuse":
            raise ConfigError(
                f"section 'prompt': {settings.model.family} compares audio with descriptions and uses only prompt.file "
                "(which may have several templates), and data.without_audio=refuse"
            )
        return ClapSetup(ensemble, ensemble.label_set(label_set))

    def load(self, settings: ModelSettings) -> DualEncoder:
        """Load the model.

        Raises:
            ModelError: if there is no such model
        """
        with naming_keys("model"):
            model: DualEncoder = model_class(settings.family).load(
                recorded(settings).id,  # peft writes it into adapter_config.json
                revision=settings.revision,
                dtype=settings.dtype,
                quantization=settings.quantization,
            )
        return model

    def check(self, clap: DualEncoder, settings: ZeroShotSettings | FinetuneSettings) -> None:
        """Refuse a contrastive loss with one or an unknown number of utterances, and what it has no layers for.

        Raises:
            ConfigError: naming the key
        """
        name = settings.model.family
        refuse_packing(settings, f"{name} has no rows of tokens")
        if settings.model.torch_compile:
            raise ConfigError(f"key 'model.torch_compile': true, but {name} has no language model; set it to false")
        if not isinstance(settings, FinetuneSettings):
            return
        if settings.train.gradient_checkpointing:
            raise ConfigError(f"key 'train.gradient_checkpointing': true, but {name} has none; set it to false")
        if settings.loss.kind == "contrastive" and settings.train.per_device_train_batch_size < 2:
            raise ConfigError("key 'train.per_device_train_batch_size': 1; a contrastive loss needs several per batch")
        if settings.loss.kind == "contrastive" and settings.train.auto_find_batch_size:
            raise ConfigError(
                "key 'train.auto_find_batch_size': true; a contrastive loss compares the utterances of a batch, so a "
                "smaller one is another loss; set it to false"
            )

    def with_shots(
        self, setup: ClapSetup, data: RunData, clap: DualEncoder, settings: ZeroShotSettings | FinetuneSettings
    ) -> tuple[ClapSetup, RunData]:
        """Setup and data unchanged: a dual encoder uses no answered examples."""
        return setup, data

    def recognizer(
        self,
        clap: DualEncoder,
        setup: ClapSetup,
        settings: ZeroShotSettings | FinetuneSettings,
        adapted: PeftModel | None = None,
    ) -> ClapRecognizer:
        """The recognizer of the model, or of the model with an adapter."""
        contrastive = isinstance(settings, FinetuneSettings) and settings.loss.kind == "contrastive"
        objective = "contrastive" if contrastive else "cross_entropy"
        return ClapRecognizer(clap, setup, adapted, objective=objective)
