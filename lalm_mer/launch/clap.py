"""Builder of CLAP recognizers, in the shape that the recipes of audio-language models use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.launch.data import RunData, augmented, balanced, open_corpus, open_data
from lalm_mer.launch.notes import run_notes
from lalm_mer.launch.settings import FinetuneSettings, ModelSettings, PromptSettings, ZeroShotSettings
from lalm_mer.models.clap import Clap
from lalm_mer.models.clap_recognizer import ClapCollator, ClapRecognizer
from lalm_mer.prompting.ensembles import Ensemble, load_ensemble
from lalm_mer.recognizers.training import Collator

__all__ = ["ClapRun", "open_clap_run"]


@dataclass(frozen=True)
class ClapRun:
    """All that a run of a CLAP needs, ready to train or score; read as a ``LanguageRun`` is.

    Args:
        family: the model
        prompt: what describes the labels
        label_set: the K labels with the ensemble's surface forms
        data: the three sides of the fold
        collators: of a training batch and of a batch to be scored
        objective: what training makes small
    """

    family: Clap
    prompt: Ensemble
    label_set: LabelSet
    data: RunData
    collators: tuple[Collator, Collator]
    objective: str

    @property
    def ways(self) -> tuple[Collator, ...]:
        """Of batches to be scored: it is asked in one way."""
        return self.collators[1:]

    @property
    def content_free(self) -> None:
        """Nothing is taken off."""
        return

    @property
    def digests(self) -> dict[str, str | None]:
        """What its figures depend on besides data and model."""
        return {"prompt": self.prompt.digest}

    def answer_model(self, adapted: PeftModel | None = None) -> ClapRecognizer:
        """The recognizer over the model, adapted or bare."""
        return ClapRecognizer(self.family, self.prompt, self.label_set, adapted, objective=self.objective)

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        return run_notes(self.family, self.data)


def open_clap_run(settings: ZeroShotSettings | FinetuneSettings) -> ClapRun:
    """Load data, ensemble and model.

    Raises:
        ConfigError: if the settings ask for what CLAP does not do
    """
    ensemble = load_ensemble(Path(settings.prompt.file))
    if settings.prompt != PromptSettings(settings.prompt.file) or settings.data.without_audio != "refuse":
        raise ConfigError(
            "section 'prompt': clap compares a voice with descriptions and takes a file alone (several templates stand "
            "in it), and data.without_audio=refuse"
        )
    folded = open_corpus(settings.data, settings.split)
    label_set = ensemble.label_set(folded.label_set)
    clap = _load(settings.model)
    data = open_data(folded, settings.split.fold, sampling_rate=clap.sampling_rate, refuses=clap.refuses)
    objective = "cross_entropy"
    if isinstance(settings, FinetuneSettings):
        objective = settings.objective
        if objective == "contrastive" and settings.train.per_device_train_batch_size < 2:
            raise ConfigError("key 'train.per_device_train_batch_size': 1; a contrastive loss needs several in a batch")
        data = augmented(
            balanced(data, settings.balance, settings.seed), settings.augment, settings.seed, refuses=clap.refuses
        )
    collators = (ClapCollator(clap, label_set, counts=True), ClapCollator(clap, label_set, counts=False))
    return ClapRun(clap, ensemble, label_set, data, collators, objective)


def _load(settings: ModelSettings) -> Clap:
    if settings.quantization is not None:
        raise ConfigError(f"key 'model.quantization': {settings.quantization!r}; clap has no language model; set null")
    return Clap.load(settings.id, revision=settings.revision, dtype=settings.dtype)
