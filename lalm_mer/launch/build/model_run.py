"""A run of a pretrained model, opened in two steps: data and prompts first, then the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel

from lalm_mer.core.labels import LabelSet
from lalm_mer.core.notes import Note
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.launch.build.clap import ClapBuilder
from lalm_mer.launch.build.data import RunData, augmented, balanced, open_corpus, open_data, require_transcripts
from lalm_mer.launch.build.language import LanguageBuilder
from lalm_mer.launch.build.notes import run_notes
from lalm_mer.launch.build.prompts import source_for_prompts
from lalm_mer.launch.config.settings import FinetuneSettings, ModelSettings, ZeroShotSettings
from lalm_mer.models.digest import base_digest
from lalm_mer.models.families import CLAP
from lalm_mer.models.registry import PretrainedModel, model_class
from lalm_mer.recognizers.base import Setup

__all__ = ["Builder", "LoadedRun", "OpenedRun", "builder_of", "open_model_run", "recognizer_name"]


class Builder(Protocol):
    """The steps in which the parts of a run are made, for one kind of model."""

    def prompts(self, settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> Any:  # noqa: ANN401
        """What the model is prompted with, without answered examples."""
        ...

    def load(self, settings: ModelSettings) -> Any:  # noqa: ANN401 a Family or a Clap
        """The model."""
        ...

    def check(self, model: Any, settings: ZeroShotSettings | FinetuneSettings) -> None:  # noqa: ANN401
        """Refuse settings that the loaded model cannot work with."""
        ...

    def with_shots(
        self,
        setup: Any,  # noqa: ANN401
        data: RunData,
        model: Any,  # noqa: ANN401
        settings: ZeroShotSettings | FinetuneSettings,
    ) -> tuple[Any, RunData]:
        """The prompts with answered examples, which are removed from train."""
        ...

    def recognizer(
        self,
        model: Any,  # noqa: ANN401
        setup: Any,  # noqa: ANN401
        settings: ZeroShotSettings | FinetuneSettings,
        adapted: PeftModel | None = None,
    ) -> Any:  # noqa: ANN401 a Recognizer and nn.Module
        """The recognizer over the model, adapted or bare."""
        ...


def builder_of(family: str) -> Builder:
    """The builder of a model by its family: the one place that tells CLAP from audio-language models."""
    return ClapBuilder() if family == CLAP else LanguageBuilder()


@dataclass(frozen=True)
class OpenedRun:
    """Data and prompts of a run, whose weights are not loaded yet.

    Args:
        settings: resolved config
        source: the folded corpus, with what the prompts need
        setup: what the model is prompted with
        digests: hashes of prompts and base model
    """

    settings: ZeroShotSettings | FinetuneSettings
    source: ExampleSource
    setup: Setup
    digests: dict[str, str | None]

    @property
    def hashes(self) -> dict[str, str | None]:
        """Hashes of data and folds, prompts and base model: what is known before the weights are loaded."""
        folded = self.source.folded
        return {"data": folded.corpus.summary["root_hash"], "folds": folded.folds.digest, **self.digests}

    def load(self) -> LoadedRun:
        """Load the model, and the examples that it takes.

        Raises:
            ConfigError: if settings, model and corpus do not belong together
            ModelError: if there is no such model
        """
        settings, builder = self.settings, builder_of(self.settings.model.family)
        model = builder.load(settings.model)
        builder.check(model, settings)
        uses_audio = self.setup.uses("audio")
        data = open_data(
            self.source,
            settings.split.fold,
            sampling_rate=model.sampling_rate if uses_audio else None,
            refuses=model.refuses if uses_audio else None,
        )
        setup, data = builder.with_shots(self.setup, data, model, settings)
        if isinstance(settings, FinetuneSettings):
            data = balanced(data, settings.balance, settings.seed)
            data = augmented(data, settings.augment, settings.seed, refuses=model.refuses)
        if setup.uses("transcript"):
            require_transcripts(data, settings.data.dir)
        return LoadedRun(settings, builder, model, setup, data, self.digests)


@dataclass(frozen=True)
class LoadedRun:
    """All that a run of a pretrained model needs, ready to train or score.

    Args:
        settings: resolved config
        builder: of this kind of model
        model: a ``Family`` or a ``Clap``
        setup: what it is prompted with
        data: train, dev and test of the fold
        opened_digests: hashes of prompts and base model
    """

    settings: ZeroShotSettings | FinetuneSettings
    builder: Builder
    model: PretrainedModel
    setup: Setup
    data: RunData
    opened_digests: dict[str, str | None]

    @property
    def digests(self) -> dict[str, str | None]:
        """Hashes of prompts, their answered examples, and the base model."""
        return {**self.opened_digests, **self.setup.digests()}

    def notes(self) -> list[Note]:
        """What a reader of the figures has to know."""
        return run_notes(self.model, self.data, self.setup)

    def recognizer(self, adapted: PeftModel | None = None) -> Any:  # noqa: ANN401 a Recognizer and nn.Module
        """The recognizer over the model, adapted or bare."""
        return self.builder.recognizer(self.model, self.setup, self.settings, adapted)


def recognizer_name(settings: ModelSettings, *, generated: bool = False) -> str:
    """Name shown in comparisons: the family, which of its models, and whether its answers are generated."""
    quantised = f", {settings.quantization}" if settings.quantization else ""
    return f"{settings.family} ({Path(settings.id).name}{quantised}{', generated' if generated else ''})"


def open_model_run(settings: ZeroShotSettings | FinetuneSettings) -> OpenedRun:
    """Open data and prompts, and hash the base model's files; no weights are loaded.

    Where ``adapter.towers`` is left out, the settings of the opened run have the targets that the family names.

    Raises:
        ConfigError: if the settings do not belong together or do not fit the corpus
    """
    source = open_corpus(settings.data, settings.split)
    setup = builder_of(settings.model.family).prompts(settings, source.folded.label_set)
    source, digests = source_for_prompts(source, setup, settings.prompt, settings.split.fold)
    base = {"base_model": base_digest(settings.model.id, settings.model.revision)}
    if isinstance(settings, FinetuneSettings) and settings.adapter.towers is None:
        settings = replace(settings, adapter=replace(settings.adapter, towers=_default_targets(settings, setup)))
    return OpenedRun(settings, source, setup, {**setup.digests(), **digests, **base})


def _default_targets(settings: FinetuneSettings, setup: Setup) -> dict[str, list[str]]:
    """Targets that the family names, without towers that are trained in full or that the prompt never reaches."""
    unreached = () if setup.uses("audio") else ("audio_tower", "projector")
    targets = model_class(settings.model.family).adapter_targets
    return {tower: list(names) for tower, names in targets.items() if tower not in (*settings.adapter.full, *unreached)}
