"""Pretrained models by name: the families of audio-language models, dual encoders, and models behind a server."""

from __future__ import annotations

from typing import Any

from lalm_mer.core.errors import ModelError
from lalm_mer.core.names import COMPOSED_OF
from lalm_mer.models.clap import Clap
from lalm_mer.models.composed_clap import ComposedClap
from lalm_mer.models.digest import read_model_config
from lalm_mer.models.families import (
    CLAP,
    COMPOSED_CLAP,
    DUAL_ENCODERS,
    FAMILIES,
    OTHER_MODEL_TYPES,
    REMOTE,
    family_class,
    model_names,
)
from lalm_mer.models.remote import Remote

__all__ = ["family_of", "model_class"]


def model_class(name: str) -> type[Any]:
    """The class of that name: a ``Family``, a ``DualEncoder`` or ``Remote``.

    Raises:
        ConfigError: if there is none
        ModelError: if the installed transformers does not have it
    """
    others: dict[str, type[Any]] = {CLAP: Clap, COMPOSED_CLAP: ComposedClap, REMOTE: Remote}
    return others[name] if name in others else family_class(name)


def family_of(model_id: str, revision: str | None = None) -> str:
    """Name of a model's family by the ``model_type`` of its config; neither weights nor code are loaded.

    Raises:
        ModelError: if there is no such model, or no family for its type
    """
    config = read_model_config(model_id, revision)
    model_type = str(config.get("model_type") or "")
    family = OTHER_MODEL_TYPES.get(model_type, model_type)
    if family == "qwen2_audio" and COMPOSED_OF in config:
        family = "composed"
    if family not in (*FAMILIES, *DUAL_ENCODERS):
        found = (
            f"is of type {model_type!r}, which has no family" if model_type else "has no config.json with a model_type"
        )
        raise ModelError(f"model {model_id!r} {found}; name one of {', '.join(model_names())}")
    return family
