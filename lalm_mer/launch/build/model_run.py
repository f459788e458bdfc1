"""A run of a pretrained model, opened in two steps: first data and prompts, then the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.names import FULL, GENERATION, ZERO_SHOT
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.provenance import hash_file, hash_json
from lalm_mer.core.settings import naming_keys
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.launch.build.clap import ClapBuilder
from lalm_mer.launch.build.data import (
    RunData,
    augmented,
    balanced,
    input_hashes,
    open_corpus,
    open_data,
    require_training,
    require_transcripts,
)
from lalm_mer.launch.build.defaults import with_folder, with_model, with_targets
from lalm_mer.launch.build.kept_model import KeptModel
from lalm_mer.launch.build.language import LanguageBuilder
from lalm_mer.launch.build.loss import check_loss
from lalm_mer.launch.build.prompts import read_synonyms, source_for_prompts
from lalm_mer.launch.build.remote import SERVED_ADAPTERS, RemoteBuilder
from lalm_mer.launch.config.sections import ModelSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, read_json
from lalm_mer.models.digest import base_digest
from lalm_mer.models.families import DUAL_ENCODERS, REMOTE
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.recognizers.base import Setup
from lalm_mer.sharing.adapter_context import read_merged_from
from lalm_mer.sharing.hub import load_adapter_from

__all__ = ["LoadedRun", "OpenedRun", "builder_of", "open_model_run", "recognizer_name"]

_EXAMPLES = 5  # ids in a note


def builder_of(family: str) -> ClapBuilder | LanguageBuilder | RemoteBuilder:
    """The builder for a family; the only place that distinguishes dual encoders and served models from families."""
    if family == REMOTE:
        return RemoteBuilder()
    return ClapBuilder() if family in DUAL_ENCODERS else LanguageBuilder()


def _load(builder: ClapBuilder | LanguageBuilder, settings: ModelSettings) -> PretrainedModel:
    """Load a model without any effect on later random draws, so that a kept one gives the same run."""
    with torch.random.fork_rng(devices=[]):
        model: PretrainedModel = builder.load(settings)
    return model


def _base_digest(model: ModelSettings) -> str | None:
    """Hash of the base model; None if its weights are on a server."""
    return None if model.family == REMOTE else base_digest(model.id, model.revision)


@dataclass(frozen=True)
class OpenedRun:
    """An opened run, before its model is loaded.

    Args:
        settings: resolved config
        source: the folded corpus, with what the prompts need
        setup: prompts, or descriptions of labels
        method: ``zero_shot``, or ``adapter.kind``
        hashes: hashes of everything that the run depends on, except for answered examples, which are drawn later
        adapter: folder of an adapter from an earlier run; None for none
    """

    settings: ZeroShotSettings | FinetuneSettings
    source: ExampleSource
    setup: Setup
    method: str
    hashes: dict[str, str | None]
    adapter: Path | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)

    def load(self, kept: KeptModel | None = None) -> LoadedRun:
        """Load the model, and open the examples that it can use.

        Args:
            kept: has the model of an earlier run of this process, which is used again if it is the same

        Raises:
            ConfigError: if settings, model and corpus do not fit
            ModelError: if there is no such model
        """
        settings, builder = self.settings, builder_of(self.settings.model.family)
        model: Any
        if isinstance(builder, RemoteBuilder):
            model = builder.load_remote(settings)
        else:
            key = (self.hashes["base_model"], replace(settings.model, adapter=None, adapter_revision=None))
            model = (kept or KeptModel()).open(key, partial(_load, builder, settings.model))
        if _base_digest(settings.model) != self.hashes["base_model"]:
            raise ModelError(f"model {settings.model.id!r}: its files have changed while it was loaded; start again")
        builder.check(model, settings)
        uses_audio = self.setup.uses("audio")
        data = open_data(
            self.source,
            settings.split,
            sampling_rate=model.sampling_rate if uses_audio else None,
            refuses=model.refuses if uses_audio else None,
            seed=settings.seed,
        )
        setup: Any = self.setup
        setup, data = builder.with_shots(setup, data, model, settings)
        if isinstance(settings, FinetuneSettings):
            data = balanced(data, settings.balance, settings.seed)
            data = augmented(data, settings.augment, settings.seed, refuses=model.refuses)
        if setup.uses("transcript"):
            require_transcripts(data, settings.data.dir)
        return LoadedRun(settings, model, setup, data, {**self.hashes, **setup.digests()})


@dataclass(frozen=True)
class LoadedRun:
    """A run whose model is loaded, ready for training or scoring.

    Args:
        settings: resolved config
        model: a ``Family`` or a ``DualEncoder``
        setup: prompts, or descriptions of labels
        data: train, dev and test of the fold
        hashes: hashes of everything that the run depends on
    """

    settings: ZeroShotSettings | FinetuneSettings
    model: PretrainedModel
    setup: Setup
    data: RunData
    hashes: dict[str, str | None]

    def notes(self) -> list[Note]:
        """Notes on random weights or contamination, refused utterances and answered examples."""
        notes = []
        known = self.model.contamination.get(self.data.folded.corpus.name)
        if self.model.randomly_initialised:
            notes.append(Note(NoteCode.RANDOMLY_INITIALISED))
        elif known is not None:
            notes.append(Note(NoteCode.CONTAMINATION, facts={"model": self.model.name, "known": known}))
        for split, refused in self.data.refused.items():
            code = NoteCode.UNSCORED if split == "test" else NoteCode.LEFT_OUT
            ids = tuple(refused)[:_EXAMPLES]
            notes.append(Note(code, split, len(refused), ids, tuple(refused[name] for name in ids)))
        if self.setup.shots:
            notes.append(Note(NoteCode.ANSWERED_EXAMPLES, "train", len(self.setup.shots)))
        return notes

    def recognizer(self, adapted: PeftModel | None = None) -> Any:  # noqa: ANN401 a Recognizer and nn.Module
        """The recognizer of the model, or of the model with an adapter."""
        model: Any = self.model
        setup: Any = self.setup
        return builder_of(self.settings.model.family).recognizer(model, setup, self.settings, adapted)


def recognizer_name(settings: ZeroShotSettings | FinetuneSettings) -> str:
    """Name in comparisons: family, model, quantization, and whether answers are generated.

    A model that a run trained in full, whose folder has the same name in every run, is named by its base model.
    """
    model = settings.model
    merged = read_merged_from(Path(model.id))
    details = [Path(model.id).name]
    if merged is not None and merged.adapter is None:
        details = [Path(merged.base_model).name, FULL]
    details += [model.quantization] if model.quantization else []
    if isinstance(settings, ZeroShotSettings) and settings.answering.mode == GENERATION:
        details.append("generated")
    return f"{model.family} ({', '.join(details)})"


def _check_task(settings: ZeroShotSettings | FinetuneSettings, kind: str) -> None:
    """Refuse what does not fit the kind of the task, before anything is loaded."""
    if isinstance(settings, FinetuneSettings):
        check_loss(settings, kind)
    if kind == "single":
        return
    if settings.model.family in (*DUAL_ENCODERS, REMOTE):
        raise ConfigError(
            f"key 'model.family': {settings.model.family}; it scores one label an utterance, and the task of the "
            f"protocol is {kind}; choose another family or protocol"
        )
    if isinstance(settings, ZeroShotSettings) and settings.answering.mode == GENERATION:
        raise ConfigError(
            f"key 'answering.mode': generation; an answer names one label, and the task of the protocol is {kind}; set "
            "likelihood"
        )


def open_model_run(settings: ZeroShotSettings | FinetuneSettings) -> OpenedRun:
    """Open data and prompts, and hash what the run depends on; no weights are loaded.

    The settings of the opened run are complete: defaults of model, prompt and adapter targets, and the placeholders in
    the name of the folder, are filled in.

    Raises:
        ConfigError: if the settings do not fit each other or the corpus
    """
    settings = with_model(settings)
    soft = isinstance(settings, FinetuneSettings) and settings.loss.soft_labels
    source = open_corpus(settings.data, settings.split, soft_labels=soft)
    _check_task(settings, source.folded.task.kind)
    setup: Setup
    if source.folded.task.kind == "single":
        setup = builder_of(settings.model.family).prompts(settings, source.folded.label_set)
    else:
        setup = LanguageBuilder().target_prompts(settings, source.folded)
    trains = isinstance(settings, FinetuneSettings)
    if trains or settings.prompt.shots or setup.uses("descriptors") or _scores_dev(settings):
        require_training(source, settings.split)
    settings = with_targets(settings, setup)
    source, measured = source_for_prompts(source, setup, settings.prompt, settings.split.fold)
    digests = {**setup.digests(), **measured, "base_model": _base_digest(settings.model)}
    adapter = None
    if isinstance(settings, FinetuneSettings):
        method, augment = settings.adapter.kind, settings.augment
    else:
        method, augment = ZERO_SHOT, None
        model = settings.model
        if model.adapter is not None and model.family == REMOTE:
            method = SERVED_ADAPTERS
        elif model.adapter is not None:
            with naming_keys("model", revision="adapter_revision"):
                adapter = load_adapter_from(model.adapter, model.adapter_revision, key="key 'model.adapter'")
            method = str(read_json(adapter / CONFIG)["peft_type"]).lower()
            digests["adapter"] = hash_file(adapter / WEIGHTS)
        if settings.answering.mode == GENERATION:
            digests["synonyms"] = hash_json(read_synonyms(settings.answering))
    hashes = {**input_hashes(source, setup.modalities, augment), **digests}
    settings = with_folder(
        settings,
        corpus=source.folded.corpus.name,
        recognizer=recognizer_name(settings),
        method=method,
        modalities=setup.modalities,
    )
    return OpenedRun(settings, source, setup, method, hashes, adapter)


def _scores_dev(settings: ZeroShotSettings | FinetuneSettings) -> bool:
    """Whether a run without training scores dev.

    Raises:
        ConfigError: if its way of answering cannot
    """
    if not isinstance(settings, ZeroShotSettings) or not settings.scoring.dev:
        return False
    if settings.answering.mode == GENERATION:
        raise ConfigError(
            "key 'scoring.dev': true, but generated answers have no log-probabilities to weight; set answering.mode to "
            "likelihood, or scoring.dev to false"
        )
    if settings.model.family == REMOTE:
        raise ConfigError("key 'scoring.dev': true, but only test utterances are sent to a server; set it to false")
    return True
