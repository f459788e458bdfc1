"""Builder of adapted models: with a new adapter or trained in full, with an adapter from an earlier run, or with an
earlier training in the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from torch import nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import FULL
from lalm_mer.core.notes import Note
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.build.defaults import AUDIO_TOWERS
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.launch.config.sections import LORA_KEYS, AdapterSettings
from lalm_mer.models.adapters import add_adapter, load_adapter
from lalm_mer.models.full_training import train_in_full
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.sharing.adapter_context import AdapterContext, read_merged_from, require_fit

__all__ = ["adapt", "add_trained_parts", "merged_notes", "recognizer_to_score"]


def adapt(loaded: LoadedRun, settings: AdapterSettings, *, shown: bool) -> nn.Module:
    """Add an adapter, or choose what is trained in full, and, if ``shown``, print what is trained in each tower.

    Raises:
        AdapterError: if a target matches no layer, or a tower cannot be trained with these settings
        ConfigError: if a target is in a tower that a prompt without audio does not use, or an option is not of this
            kind of adapter
        ModelError: if the model is trained in full and could not be saved
    """
    towers = settings.towers or {}
    if not loaded.setup.uses("audio"):
        for tower in AUDIO_TOWERS:
            for key, adapted in ((f"towers.{tower}", towers.get(tower)), ("full", tower in settings.full)):
                if adapted:
                    raise ConfigError(
                        f"key 'adapter.{key}': the prompt has no audio slot, so nothing in the {tower} would be "
                        f"trained; set adapter.{key}=[]"
                    )
    unused = () if loaded.setup.uses("audio") else AUDIO_TOWERS
    return cast(nn.Module, loaded.recognizer(add_trained_parts(loaded.model, settings, unused, shown=shown)))


def add_trained_parts(
    base: PretrainedModel, settings: AdapterSettings, unused: Sequence[str] = (), *, shown: bool
) -> PeftModel | None:
    """Add an adapter to a model, or choose what is trained in full, and, if ``shown``, print what is trained.

    Args:
        base: the model
        settings: section ``adapter``
        unused: towers that the prompt does not use
        shown: whether this process prints

    Returns:
        the model with the adapter; None for kind full

    Raises:
        AdapterError: as of ``adapt``, and so are the others
    """
    if settings.kind == FULL:
        _train_in_full(base, settings.full or [each for each in base.towers if each not in unused], shown=shown)
        return None
    towers = settings.towers or {}
    with naming_keys("adapter"):
        model, report = add_adapter(base, towers, _adapter_options(settings), kind=settings.kind, full=settings.full)
    for row in report if shown else ():
        in_full = f", {row.full_parameters:,} in full" if row.full_parameters else ""
        targets = f"; targets {', '.join(towers[row.tower])}" if towers.get(row.tower) else ""
        print(  # noqa: T201 for the user, before training starts
            f"preflight: adapter in {row.tower}: {row.modules} modules, {row.adapter_parameters:,} trainable "
            f"parameters, {row.base_parameters:,} frozen{in_full}{targets}"
        )
    return model


def _train_in_full(base: PretrainedModel, towers: Sequence[str], *, shown: bool) -> None:
    with naming_keys("adapter"):
        report = train_in_full(base, towers)
    if shown:
        base.require_savable()
    for row in report if shown else ():
        print(  # noqa: T201 for the user, before training starts
            f"preflight: {row.tower}: {row.full_parameters:,} parameters trained in full, {row.base_parameters:,} "
            "frozen"
        )


def _adapter_options(settings: AdapterSettings) -> dict[str, Any]:
    """The options of peft's config."""
    of_lora = {name: getattr(settings, name) for name in LORA_KEYS}
    if settings.kind == "lora":
        for name in settings.options:
            if name in of_lora:
                raise ConfigError(f"key 'adapter.options.{name}': set adapter.{name} instead")
        return of_lora | settings.options
    for name, value in of_lora.items():
        if value != getattr(AdapterSettings, name):
            raise ConfigError(
                f"key 'adapter.{name}': only for kind lora; set options of {settings.kind} in adapter.options"
            )
    return settings.options


def _load_adapted(loaded: LoadedRun, adapter: Path) -> tuple[nn.Module, list[Note]]:
    """The recognizer with the adapter in a folder, and notes on how its training fits this run.

    Raises:
        AdapterError: if it does not fit the model
        SplitLeakError: if it was trained on another fold of the same folds
    """
    notes = _fit_notes(adapter, loaded, loaded.hashes["base_model"])
    return loaded.recognizer(load_adapter(loaded.model, adapter)), notes


def merged_notes(loaded: LoadedRun) -> list[Note]:
    """Notes on an earlier training that is part of the base model; empty if none is known.

    Raises:
        SplitLeakError: if it was trained on another fold of the same folds
    """
    folder = Path(loaded.settings.model.id)
    merged = read_merged_from(folder)
    return [] if merged is None else [merged.note, *_fit_notes(folder, loaded, None)]


def _fit_notes(folder: Path, loaded: LoadedRun, digest: str | None) -> list[Note]:
    """Notes on the differences between this run and that of the adapter; without a digest the base is not compared."""
    folded, settings = loaded.data.folded, loaded.settings
    now = AdapterContext(
        corpus=folded.corpus.name,
        protocol=folded.folds.protocol.name,
        fold=settings.split.fold,
        labels=folded.task.targets,
        folds_digest=folded.folds.digest,
        prompt_digest=loaded.hashes["prompt"],
        base_digest=digest,
        quantization=settings.model.quantization,
    )
    with naming_keys("split"):
        return require_fit(folder, now, None if digest is None else settings.model.id)


def recognizer_to_score(loaded: LoadedRun, adapter: Path | None) -> tuple[Any, list[Note]]:
    """The recognizer of a run without training, and the notes on a merged base model and on its adapter.

    Args:
        loaded: the run
        adapter: folder of its adapter; None for the base model alone
    """
    notes = merged_notes(loaded)
    if adapter is None:
        return loaded.recognizer(), notes
    recognizer, fit = _load_adapted(loaded, adapter)
    return recognizer, notes + fit
