"""A run of a pretrained model, opened in two steps: data and prompts first, then the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel

from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import GENERATION, ZERO_SHOT
from lalm_mer.core.notes import Note
from lalm_mer.core.provenance import hash_json
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.launch.build.clap import ClapBuilder
from lalm_mer.launch.build.data import (
    RunData,
    augmented,
    balanced,
    input_hashes,
    open_corpus,
    open_data,
    require_transcripts,
)
from lalm_mer.launch.build.defaults import with_folder, with_model, with_targets
from lalm_mer.launch.build.language import LanguageBuilder
from lalm_mer.launch.build.notes import run_notes
from lalm_mer.launch.build.prompts import read_synonyms, source_for_prompts
from lalm_mer.launch.build.trained_adapter import TrainedAdapter, find_adapter
from lalm_mer.launch.config.settings import FinetuneSettings, ModelSettings, ZeroShotSettings
from lalm_mer.models.digest import base_digest
from lalm_mer.models.families import CLAP
from lalm_mer.models.pretrained import PretrainedModel
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
        method: ``zero_shot``, or the kind of adapter
        hashes: of all that the run depends on, but for the answered examples that are drawn once the model is loaded
        adapter: that was trained earlier; None where there is none
    """

    settings: ZeroShotSettings | FinetuneSettings
    source: ExampleSource
    setup: Setup
    method: str
    hashes: dict[str, str | None]
    adapter: TrainedAdapter | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)

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
        return LoadedRun(settings, builder, model, setup, data, {**self.hashes, **setup.digests()})


@dataclass(frozen=True)
class LoadedRun:
    """All that a run of a pretrained model needs, ready to train or score.

    Args:
        settings: resolved config
        builder: of this kind of model
        model: a ``Family`` or a ``Clap``
        setup: what it is prompted with
        data: train, dev and test of the fold
        hashes: of all that the run depends on
    """

    settings: ZeroShotSettings | FinetuneSettings
    builder: Builder
    model: PretrainedModel
    setup: Setup
    data: RunData
    hashes: dict[str, str | None]

    def notes(self) -> list[Note]:
        """What a reader of the figures has to know."""
        return run_notes(self.model, self.data, self.setup)

    def recognizer(self, adapted: PeftModel | None = None) -> Any:  # noqa: ANN401 a Recognizer and nn.Module
        """The recognizer over the model, adapted or bare."""
        return self.builder.recognizer(self.model, self.setup, self.settings, adapted)


def recognizer_name(settings: ZeroShotSettings | FinetuneSettings) -> str:
    """Name shown in comparisons: the family, which of its models, and whether its answers are generated."""
    model = settings.model
    details = [Path(model.id).name, *([model.quantization] if model.quantization else [])]
    if isinstance(settings, ZeroShotSettings) and settings.answering.mode == GENERATION:
        details.append("generated")
    return f"{model.family} ({', '.join(details)})"


def open_model_run(settings: ZeroShotSettings | FinetuneSettings) -> OpenedRun:
    """Open data and prompts, and hash what the run depends on; no weights are loaded.

    The settings of the opened run are complete: model, prompt, adapter targets and the name of the folder are filled in
    where they were left out.

    Raises:
        ConfigError: if the settings do not belong together or do not fit the corpus
    """
    settings = with_model(settings)
    source = open_corpus(settings.data, settings.split)
    setup = builder_of(settings.model.family).prompts(settings, source.folded.label_set)
    settings = with_targets(settings, setup)
    source, measured = source_for_prompts(source, setup, settings.prompt, settings.split.fold)
    digests = {**setup.digests(), **measured, "base_model": base_digest(settings.model.id, settings.model.revision)}
    adapter = None
    if isinstance(settings, FinetuneSettings):
        method, augment = settings.adapter.kind, settings.augment
    else:
        method, augment = ZERO_SHOT, None
        if settings.model.adapter is not None:
            adapter = find_adapter(settings.model)
            method, digests["adapter"] = adapter.kind, adapter.digest
        if settings.answering.mode == GENERATION:
            digests["synonyms"] = hash_json(read_synonyms(settings.answering))
    hashes = {**input_hashes(source, setup.modalities, augment), **digests}
    facts = {
        "corpus": source.folded.corpus.name,
        "recognizer": recognizer_name(settings),
        "method": method,
        "modalities": setup.modalities,
        "fold": settings.split.fold,
        "seed": settings.seed,
    }
    return OpenedRun(with_folder(settings, facts), source, setup, method, hashes, adapter)
