"""Builder of CLAP recognizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.settings import FinetuneSettings, ModelSettings, PromptSettings, ZeroShotSettings
from lalm_mer.models.clap import Clap
from lalm_mer.prompting.ensembles import Ensemble, load_ensemble
from lalm_mer.recognizers.clap import ClapRecognizer

__all__ = ["ClapBuilder", "ClapSetup"]


@dataclass(frozen=True)
class ClapSetup:
    """What a CLAP compares audio with.

    Args:
        ensemble: descriptions of the labels
        label_set: the K labels with the ensemble's surface forms
    """

    ensemble: Ensemble
    label_set: LabelSet

    @property
    def modalities(self) -> str:
        """``audio``."""
        return self.ensemble.modalities

    @property
    def shots(self) -> tuple[Example, ...]:
        """None: it takes no answered examples."""
        return ()

    def digests(self) -> dict[str, str | None]:
        """Hash of the descriptions, for run.json."""
        return {"prompt": self.ensemble.digest}

    def uses(self, slot: str) -> bool:
        """It uses audio alone."""
        return slot == "audio"


class ClapBuilder:
    """What a run of a CLAP is made of; the steps are those of ``Builder``."""

    def prompts(
        self, settings: ZeroShotSettings | FinetuneSettings, source: ExampleSource
    ) -> tuple[ClapSetup, ExampleSource, dict[str, str | None]]:
        """The descriptions of the labels, the source as it is, and their hash; no weights are loaded.

        Raises:
            ConfigError: if the settings ask for what CLAP does not do
        """
        ensemble = load_ensemble(Path(settings.prompt.file))
        if settings.prompt != PromptSettings(settings.prompt.file) or source.without_audio:
            raise ConfigError(
                "section 'prompt': clap compares a voice with descriptions and takes a file alone (several templates "
                "stand in it), and data.without_audio=refuse"
            )
        setup = ClapSetup(ensemble, ensemble.label_set(source.folded.label_set))
        return setup, source, setup.digests()

    def load(self, settings: ModelSettings) -> Clap:
        """The model.

        Raises:
            ConfigError: if it is to be quantised
            ModelError: if there is no such model
        """
        if settings.quantization is not None:
            raise ConfigError(
                f"key 'model.quantization': {settings.quantization!r}; clap has no language model; set null"
            )
        return Clap.load(settings.id, revision=settings.revision, dtype=settings.dtype)

    def check(self, clap: Clap, settings: ZeroShotSettings | FinetuneSettings) -> None:
        """Refuse a contrastive loss over one utterance.

        Raises:
            ConfigError: naming the key
        """
        if not isinstance(settings, FinetuneSettings) or settings.objective != "contrastive":
            return
        if settings.train.per_device_train_batch_size < 2:
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
        return ClapRecognizer(clap, setup.ensemble, setup.label_set, adapted, objective=objective)
