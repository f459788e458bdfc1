"""Builder of adapted models: a new adapter to be trained, one that was trained elsewhere, or a merged copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.launch.build.trained_adapter import TrainedAdapter
from lalm_mer.launch.config.settings import AdapterSettings
from lalm_mer.models.adapters import add_adapter, load_adapter
from lalm_mer.sharing.adapter_context import MERGED_FROM, AdapterContext, require_fit

__all__ = ["adapt", "load_adapted", "merged_notes"]

_OF_LORA = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")


def adapt(loaded: LoadedRun, settings: AdapterSettings, *, shown: bool) -> nn.Module:
    """Add an adapter and print, tower by tower, what it touches.

    Raises:
        AdapterError: if a target matches nothing, or a tower cannot be trained so
        ConfigError: if it touches towers that a prompt without audio never reaches, or an option is of another kind
    """
    towers = settings.towers or {}
    if not loaded.setup.uses("audio"):
        for tower in ("audio_tower", "projector"):
            for key, reached in ((f"towers.{tower}", towers.get(tower)), ("full", tower in settings.full)):
                if reached:
                    raise ConfigError(
                        f"key 'adapter.{key}': the prompt has no audio slot, so nothing in the {tower} would learn; "
                        f"set adapter.{key}=[]"
                    )
    options = _adapter_options(settings)
    with naming_keys("adapter"):
        adapted, report = add_adapter(loaded.model, towers, options, kind=settings.kind, full=settings.full)
    if shown:
        for row in report:
            in_full = f", {row.full_parameters:,} in full" if row.full_parameters else ""
            targets = f"; targets {', '.join(towers[row.tower])}" if towers.get(row.tower) else ""
            print(  # noqa: T201 what a user should see before training starts
                f"preflight: adapter in {row.tower}: {row.modules} modules, {row.adapter_parameters:,} trainable "
                f"parameters, {row.base_parameters:,} frozen{in_full}{targets}"
            )
    return cast(nn.Module, loaded.recognizer(adapted))


def _adapter_options(settings: AdapterSettings) -> dict[str, Any]:
    """What peft's config is made from."""
    of_lora = {name: getattr(settings, name) for name in _OF_LORA}
    if settings.kind == "lora":
        twice = [name for name in settings.options if name in of_lora]
        if twice:
            raise ConfigError(f"key 'adapter.options.{twice[0]}': say it as adapter.{twice[0]}")
        return of_lora | settings.options
    for name, value in of_lora.items():
        if value != getattr(AdapterSettings, name):
            raise ConfigError(
                f"key 'adapter.{name}': is of kind lora; what {settings.kind} takes goes into adapter.options"
            )
    return settings.options


def load_adapted(loaded: LoadedRun, adapter: TrainedAdapter) -> tuple[nn.Module, list[Note]]:
    """The model under an adapter that an earlier run trained, and notes for a reader of the figures.

    Raises:
        AdapterError: if it does not fit the model
        SplitLeakError: if it was trained on another fold of the same folds
    """
    notes = _fit_of(adapter.folder, loaded, loaded.hashes["base_model"])
    return loaded.recognizer(load_adapter(loaded.model, adapter.folder)), notes


def merged_notes(loaded: LoadedRun) -> list[Note]:
    """Notes on the adapter that was merged into the base model; none where there is no such adapter.

    Raises:
        SplitLeakError: if it was trained on another fold of the same folds
    """
    folder = Path(loaded.settings.model.id)
    if not (folder / MERGED_FROM).is_file():
        return []
    return [Note(NoteCode.MERGED_BASE_MODEL), *_fit_of(folder, loaded, None)]


def _fit_of(folder: Path, loaded: LoadedRun, digest: str | None) -> list[Note]:
    """Notes on how the run differs from that of the adapter; a base model without a digest is not compared."""
    folded, settings = loaded.data.folded, loaded.settings
    now = AdapterContext(
        corpus=folded.corpus.name,
        protocol=folded.folds.protocol.name,
        fold=settings.split.fold,
        labels=folded.label_set.labels,
        folds_digest=folded.folds.digest,
        prompt_digest=loaded.hashes["prompt"],
        base_digest=digest,
        quantization=settings.model.quantization,
    )
    with naming_keys("split"):
        return require_fit(folder, now, None if digest is None else settings.model.id)
