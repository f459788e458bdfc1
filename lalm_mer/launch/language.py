"""Builders of audio-language recognizers: where config stops and library classes take keyword arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from torch import nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.provenance import hash_file, model_digest
from lalm_mer.launch.data import RunData, augmented, balanced, open_corpus, open_data, require_transcripts
from lalm_mer.launch.settings import AdapterSettings, FinetuneSettings, ModelSettings, ZeroShotSettings
from lalm_mer.models.adapters import Adaptable, add_lora, load_adapter
from lalm_mer.models.answer_model import AnswerModel
from lalm_mer.models.collator import AnswerCollator, answer_forms
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.prompting.prompts import Prompt, load_prompt
from lalm_mer.recognizers.hub import load_adapter_from, require_fit
from lalm_mer.recognizers.training import Collator

__all__ = [
    "RANDOM_NOTE",
    "AdaptableRun",
    "LanguageRun",
    "adapt",
    "base_digest",
    "load_adapted",
    "open_language_run",
    "recognizer_name",
]

_EXACT = 1e-4
RANDOM_NOTE = "The base model is randomly initialised: its figures say nothing about the published model."
"""For ``run.json``."""


@dataclass(frozen=True)
class LanguageRun:
    """All that a run of an audio-language model needs, ready to train or score.

    Args:
        family: the model
        prompt: what is asked
        label_set: the K labels with the prompt's surface forms
        data: the three sides of the fold
        collators: of a training batch and of a batch to be scored
    """

    family: Family
    prompt: Prompt
    label_set: LabelSet
    data: RunData
    collators: tuple[Collator, Collator]

    def answer_model(self, adapted: PeftModel | None = None) -> AnswerModel:
        """The two-step forward over the model, adapted or bare."""
        owners = [index for index, _ in answer_forms(self.label_set)]
        return AnswerModel(self.family, owners, len(self.label_set), adapted)

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        notes = [RANDOM_NOTE] if self.family.randomly_initialised else []
        known = self.family.contamination.get(self.data.folded.corpus.name)
        if known is not None and not self.family.randomly_initialised:
            notes.append(f"Contamination of {self.family.name}: {known}")
        for split, lines in self.data.refused.items():
            left = "unscored, counted as errors" if split == "test" else "left out"
            notes.append(f"{len(lines)} utterances of {split} {left}: {'; '.join(lines[:5])}")
        return notes


def open_language_run(settings: ZeroShotSettings | FinetuneSettings) -> LanguageRun:
    """Load data, prompt and model.

    Raises:
        ConfigError: if the prompt reads transcripts that the corpus does not have
    """
    if isinstance(settings, FinetuneSettings) and settings.objective != "cross_entropy":
        raise ConfigError(
            f"key 'objective': {settings.objective!r}; {settings.model.family} learns its answers by cross_entropy"
        )
    prompt = load_prompt(Path(settings.prompt.file))
    folded = open_corpus(settings.data, settings.split)
    label_set = prompt.label_set(folded.label_set)
    family = _load_family(settings.model)
    _require_batches_it_can_take(family, settings)
    hears = prompt.hears
    data = open_data(
        folded,
        settings.split.fold,
        sampling_rate=family.sampling_rate if hears else None,
        refuses=family.refuses if hears else None,
    )
    if isinstance(settings, FinetuneSettings):
        data = augmented(
            balanced(data, settings.balance, settings.seed), settings.augment, settings.seed, refuses=family.refuses
        )
    if prompt.reads:
        require_transcripts(data, settings.data.dir)
    collators = (
        AnswerCollator(family, prompt, label_set, every_answer=False),
        AnswerCollator(family, prompt, label_set, every_answer=True),
    )
    return LanguageRun(family, prompt, label_set, data, collators)


class AdaptableRun(Protocol):
    """What recipes ask of a run: a ``LanguageRun`` has it, and so has a ``ClapRun``."""

    @property
    def family(self) -> Adaptable:
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

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        ...

    def answer_model(self, adapted: PeftModel | None = None) -> nn.Module:
        """The recognizer over the model, adapted or bare."""
        ...


def adapt(language: AdaptableRun, settings: AdapterSettings, *, shown: bool) -> nn.Module:
    """Add a LoRA adapter and print, tower by tower, what it touches.

    Raises:
        AdapterError: if a target matches nothing
        ConfigError: if it touches towers that a prompt without audio never reaches
    """
    if "audio" not in language.prompt.modalities:
        deaf = [tower for tower in ("audio_tower", "projector") if settings.towers.get(tower)]
        if deaf:
            raise ConfigError(
                f"key 'adapter.towers.{deaf[0]}': prompt {language.prompt.name} has no audio slot, so nothing there "
                f"would learn; set adapter.towers.{deaf[0]}=[]"
            )
    adapted, report = add_lora(
        language.family,
        settings.towers,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
    )
    if shown:
        for row in report:
            print(  # noqa: T201 what a user should see before training starts
                f"adapter in {row.tower}: {row.modules} modules, {row.adapter_parameters:,} trainable parameters "
                f"beside {row.base_parameters:,} frozen"
            )
    return language.answer_model(adapted)


def load_adapted(language: AdaptableRun, settings: ModelSettings, fold: int) -> tuple[nn.Module, str, list[str]]:
    """The model under an adapter that an earlier run trained, from a folder or the Hub.

    Returns:
        the model, the SHA-256 of the adapter's weights, and notes for a reader of the figures

    Raises:
        AdapterError: if there is no such adapter, or it does not fit the model
        SplitLeakError: if it was trained on another fold of the same folds
    """
    folder = load_adapter_from(str(settings.adapter), settings.adapter_revision)
    folded = language.data.folded
    hashes = {
        "folds": folded.folds.digest,
        "prompt": language.prompt.digest,
        "base_model": base_digest(settings, language.family),
    }
    now = {"corpus": folded.corpus.name, "fold": fold, "labels": folded.label_set.labels, "hashes": hashes}
    notes = require_fit(folder, now=now | {"quantization": settings.quantization})
    adapted = language.answer_model(load_adapter(language.family, folder))
    return adapted, hash_file(folder / "adapter_model.safetensors"), notes


def recognizer_name(settings: ModelSettings, *, generated: bool = False) -> str:
    """Name shown in comparisons: the family, which of its models, and whether its answers are generated."""
    quantised = f", {settings.quantization}" if settings.quantization else ""
    return f"{settings.family} ({Path(settings.id).name}{quantised}{', generated' if generated else ''})"


def _load_family(settings: ModelSettings) -> Family:
    if settings.dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"key 'model.dtype': {settings.dtype!r}; expected float32, bfloat16 or float16")
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
    for key in ("per_device_eval_batch_size", *(["per_device_train_batch_size"] if learns else [])):
        if getattr(sizes, key) != 1:
            raise ConfigError(
                f"key '{section}.{key}': {getattr(sizes, key)}; scores of {family.name} differ by up to "
                f"{family.batch_tolerance:g} with what else is in the batch: set it to 1"
            )


def base_digest(settings: ModelSettings, family: Adaptable) -> str:
    """What identifies the base model of a run."""
    return model_digest(settings.id, getattr(family.model.config, "_commit_hash", None))
