"""Builders of audio-language recognizers: where config stops and library classes take keyword arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from torch import nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.provenance import model_digest
from lalm_mer.core.schema import Example
from lalm_mer.launch.data import RunData, augmented, balanced, open_corpus, open_data, require_transcripts
from lalm_mer.launch.notes import run_notes
from lalm_mer.launch.prompting import Asked, content_free, open_prompts, surrounded, take_shots
from lalm_mer.launch.settings import FinetuneSettings, ModelSettings, ZeroShotSettings
from lalm_mer.models.answer_model import AnswerModel
from lalm_mer.models.clap import Clap
from lalm_mer.models.collator import answer_forms
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.training import Collator

__all__ = [
    "AdaptableRun",
    "LanguageRun",
    "base_digest",
    "open_language_run",
    "recognizer_name",
]

_EXACT = 1e-4


@dataclass(frozen=True)
class LanguageRun:
    """All that a run of an audio-language model needs, ready to train or score.

    Args:
        family: the model
        asked: in which ways
        data: the three sides of the fold
        label_score: ``sum``, ``mean`` or ``pmi``
    """

    family: Family
    asked: Asked
    data: RunData
    label_score: str

    @property
    def prompt(self) -> Prompt:
        """What is asked first of all."""
        return self.asked.prompts[0]

    @property
    def label_set(self) -> LabelSet:
        """The K labels with the prompt's surface forms."""
        return self.asked.label_set

    @property
    def collators(self) -> tuple[Collator, Collator]:
        """Of a training batch and of a batch to be scored."""
        return self.asked.collators(self.family, every_answer=False)[0], self.ways[0]

    @property
    def ways(self) -> tuple[Collator, ...]:
        """Of batches to be scored, one for each way of asking."""
        return self.asked.collators(self.family, every_answer=True)

    @property
    def content_free(self) -> Example | None:
        """What says nothing, where its score is to be taken off."""
        return content_free(self.family, self.label_set.labels) if self.label_score == "pmi" else None

    @property
    def digests(self) -> dict[str, str | None]:
        """What its figures depend on besides data and model."""
        return self.asked.digests()

    def answer_model(self, adapted: PeftModel | None = None) -> AnswerModel:
        """The two-step forward over the model, adapted or bare."""
        owners = [index for index, _ in answer_forms(self.label_set)]
        normalised = self.label_score == "mean"
        return AnswerModel(self.family, owners, len(self.label_set), adapted, length_normalised=normalised)

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        return run_notes(self.family, self.data) + self.asked.notes()


def open_language_run(settings: ZeroShotSettings | FinetuneSettings) -> LanguageRun:
    """Load data, prompt and model.

    Raises:
        ConfigError: if the prompt reads transcripts that the corpus does not have
    """
    if isinstance(settings, FinetuneSettings) and settings.objective != "cross_entropy":
        raise ConfigError(
            f"key 'objective': {settings.objective!r}; {settings.model.family} learns its answers by cross_entropy"
        )
    folded = open_corpus(settings.data, settings.split)
    asked = open_prompts(settings, folded.label_set)
    folded, asked = surrounded(folded, asked, settings.prompt, settings.split.fold)
    family = _load_family(settings.model)
    _require_batches_it_can_take(family, settings)
    hears = any(prompt.hears for prompt in asked.prompts)
    data = open_data(
        folded,
        settings.split.fold,
        sampling_rate=family.sampling_rate if hears else None,
        refuses=family.refuses if hears else None,
    )
    asked, data = take_shots(asked, data, settings.prompt, family, settings.seed)
    if isinstance(settings, FinetuneSettings):
        if not len(data.train):
            raise ConfigError(
                f"key 'prompt.shots': {settings.prompt.shots} are all of train, and none is left to learn; lower it"
            )
        data = augmented(
            balanced(data, settings.balance, settings.seed), settings.augment, settings.seed, refuses=family.refuses
        )
    if any(prompt.reads for prompt in asked.prompts):
        require_transcripts(data, settings.data.dir)
    return LanguageRun(family, asked, data, settings.prompt.label_score)


class AdaptableRun(Protocol):
    """What recipes ask of a run: a ``LanguageRun`` has it, and so has a ``ClapRun``."""

    @property
    def family(self) -> Family | Clap:
        """The model."""
        ...

    @property
    def prompt(self) -> Prompt | Ensemble:
        """What it is given besides."""
        ...

    @property
    def label_set(self) -> LabelSet:
        """The K labels with the prompt's surface forms."""
        ...

    @property
    def data(self) -> RunData:
        """The three sides of the fold."""
        ...

    @property
    def collators(self) -> tuple[Collator, Collator]:
        """Of a training batch and of a batch to be scored."""
        ...

    @property
    def ways(self) -> tuple[Collator, ...]:
        """Of batches to be scored, one for each way of asking."""
        ...

    @property
    def content_free(self) -> Example | None:
        """What says nothing, where its score is to be taken off."""
        ...

    @property
    def digests(self) -> dict[str, str | None]:
        """What its figures depend on besides data and model."""
        ...

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        ...

    def answer_model(self, adapted: PeftModel | None = None) -> nn.Module:
        """The recognizer over the model, adapted or bare."""
        ...


def recognizer_name(settings: ModelSettings, *, generated: bool = False) -> str:
    """Name shown in comparisons: the family, which of its models, and whether its answers are generated."""
    quantised = f", {settings.quantization}" if settings.quantization else ""
    return f"{settings.family} ({Path(settings.id).name}{quantised}{', generated' if generated else ''})"


def _load_family(settings: ModelSettings) -> Family:
    if settings.attn_implementation not in ("sdpa", "eager"):
        raise ConfigError(
            f"key 'model.attn_implementation': {settings.attn_implementation!r}; answers that share a prompt need a "
            "custom attention mask: expected sdpa or eager"
        )
    return family_class(settings.family).load(
        settings.id,
        revision=settings.revision,
        dtype=settings.dtype,
        attn_implementation=settings.attn_implementation,
        quantization=settings.quantization,
    )


def _require_batches_it_can_take(family: Family, settings: ZeroShotSettings | FinetuneSettings) -> None:
    """A family whose scores depend on what else is in the batch runs one utterance at a time."""
    if family.batch_tolerance <= _EXACT:
        return
    section, learns = ("train", True) if isinstance(settings, FinetuneSettings) else ("scoring", False)
    sizes = settings.train if isinstance(settings, FinetuneSettings) else settings.scoring
    why = f"scores of {family.name} differ by up to {family.batch_tolerance:g} with what else is in the batch"
    if family.whole is not None:
        why = f"{family.name} takes one utterance at a time"
    for key in ("per_device_eval_batch_size", *(["per_device_train_batch_size"] if learns else [])):
        if getattr(sizes, key) != 1:
            raise ConfigError(f"key '{section}.{key}': {getattr(sizes, key)}; {why}: set it to 1")


def base_digest(settings: ModelSettings, family: Family | Clap) -> str:
    """What identifies the base model of a run."""
    return model_digest(settings.id, getattr(family.model.config, "_commit_hash", None))
