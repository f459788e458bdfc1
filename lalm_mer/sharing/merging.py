"""An adapter merged into its base model: a model folder like any other, which remembers what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lalm_mer.core.errors import AdapterError, ConfigError, one_line
from lalm_mer.core.provenance import hash_file
from lalm_mer.models.adapter_files import WEIGHTS
from lalm_mer.models.adapters import load_adapter
from lalm_mer.models.digest import base_digest
from lalm_mer.models.registry import model_class
from lalm_mer.sharing.adapter_context import MergedFrom, context_of, read_trained_run, surely_differ
from lalm_mer.sharing.hub import load_adapter_from
from lalm_mer.sharing.hub_folder import require_empty

__all__ = ["merge"]


def merge(source: str, out: Path, *, base_model: str | None = None, revision: str | None = None) -> Path:
    """Write base model and adapter as one model with its processor, in safetensors.

    The base is opened in the run's dtype and never in 4 bits: a sum rounded to 4 bits would be another model. In half
    precision the sum is rounded to it.

    Args:
        source: run folder, adapter folder or Hub id, with the ``run.json`` of its training
        out: a new or empty folder; ``model.id`` takes it
        base_model: Hub id or folder of the base, where it is not the one that ``run.json`` names
        revision: of the adapter on the Hub

    Returns:
        ``out``, which also holds ``merged_from.json``: the base, the adapter's SHA-256 and what it was trained on

    Raises:
        AdapterError: if there is no such adapter, or it was trained on another base
        PredictionError: if the record of its training is malformed or of another format
        ConfigError: if ``out`` holds files
        ModelError: if the base cannot be loaded
    """
    require_empty(out)
    folder = load_adapter_from(source, revision, key="RUN")
    trained = read_trained_run(folder)
    if trained is None:
        raise AdapterError(f"{source}: no run.json beside the adapter, so that its base model is not known")
    model = trained.model(source)
    built = model_class(model.family)
    if not built.has_language_model:
        raise AdapterError(f"{source}: an adapter of a CLAP; only those of audio-language models are merged so far")
    base = base_model or model.id
    revision_of_base = model.revision if base_model is None else None
    family = built.load(
        base, revision=revision_of_base, dtype=model.dtype, attn_implementation=model.attn_implementation
    )
    if surely_differ(base_digest(base, revision_of_base), trained.hashes["base_model"]):
        raise AdapterError(f"{source}: was trained on another base model than {base}; name the same one")
    merged: Any = load_adapter(family, folder)
    try:
        merged = merged.merge_and_unload(safe_merge=True)
    except ValueError as error:  # not finite
        raise AdapterError(f"{source}: cannot be merged: {one_line(error)}") from error
    out.mkdir(parents=True, exist_ok=True)
    _without_padding_state(family.tokenizer)
    try:
        merged.save_pretrained(out)
        family.processor.save_pretrained(out)
    except ValueError as error:
        raise ConfigError(f"{out}: transformers cannot save it: {one_line(error)}") from error
    MergedFrom(base, hash_file(folder / WEIGHTS), context_of(trained, source)).write(out)
    return out


def _without_padding_state(tokenizer: Any) -> None:  # noqa: ANN401 each family's own class
    """A fast tokenizer would be saved with the padding and truncation of its last call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
