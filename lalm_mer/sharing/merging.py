"""Merges an adapter into its base model; the model folder records both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lalm_mer.core.errors import AdapterError, one_line
from lalm_mer.core.locks import only_writer
from lalm_mer.core.output import atomic_folder, require_empty
from lalm_mer.core.provenance import hash_file
from lalm_mer.models.adapter_files import WEIGHTS
from lalm_mer.models.adapters import load_adapter
from lalm_mer.models.digest import base_digest
from lalm_mer.models.registry import model_class
from lalm_mer.sharing.adapter_context import MergedFrom, context_of, read_trained_run, surely_differ
from lalm_mer.sharing.hub import load_adapter_from

__all__ = ["merge"]


def merge(source: str, out: Path, *, base_model: str | None = None, revision: str | None = None) -> Path:
    """Write base model and adapter as one model with its processor, in safetensors, and ``merged_from.json``.

    The sum is rounded to the run's dtype, never to 4 bits, which would make another model.

    Args:
        source: run folder, adapter folder or Hub id, with the ``run.json`` of its training
        out: a new or empty folder, for use as ``model.id``; it is returned
        base_model: Hub id or folder of the base model, if it is not the one in ``run.json``
        revision: revision of the adapter on the Hub

    Raises:
        AdapterError: if there is no such adapter, or it was trained on another base model
        PredictionError: if the record of its training is malformed or of another format
        ConfigError: if ``out`` is not empty
        ModelError: if the base model cannot be loaded, or transformers refuses to save it
        OutputError: if ``out`` cannot be written; it is not created then
    """
    require_empty(out)
    folder = load_adapter_from(source, revision, key="RUN")
    trained = read_trained_run(folder)
    if trained is None:
        raise AdapterError(f"{source}: the adapter has no run.json, so that its base model is not known")
    model = trained.model(source)
    built = model_class(model.family)
    if not built.has_language_model:
        raise AdapterError(
            f"{source}: an adapter of family {model.family}; only those of audio-language models can be merged"
        )
    base = base_model or model.id
    of_base = model.revision if base_model is None else None
    family = built.load(base, revision=of_base, dtype=model.dtype)
    if surely_differ(base_digest(base, of_base), trained.hashes["base_model"]):
        raise AdapterError(f"{source}: was trained on another base model than {base}; name that one")
    adapted: Any = load_adapter(family, folder)
    try:
        adapted.merge_and_unload(safe_merge=True)  # in the modules of the family
    except ValueError as error:  # not finite
        raise AdapterError(f"{source}: cannot be merged: {one_line(error)}") from error
    with only_writer(out), atomic_folder(out) as partial:
        family.save(partial)
        MergedFrom.of(base, hash_file(folder / WEIGHTS), context_of(trained, source)).write(partial)
    return out
