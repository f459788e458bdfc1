"""Every pretrained model by name: the families of audio-language models, and CLAP."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.models.clap import Clap
from lalm_mer.models.families import CLAP, FAMILIES, OTHER_MODEL_TYPES, family_class, model_names

__all__ = ["family_of", "model_class"]


def model_class(name: str) -> type[Any]:
    """The class of that name: a ``Family``, or ``Clap``.

    Raises:
        ConfigError: if there is none
        ModelError: if the transformers that is installed does not have it
    """
    return Clap if name == CLAP else family_class(name)


def family_of(model_id: str, revision: str | None = None) -> str:
    """Name of a model's family by the ``model_type`` of its config; neither weights nor code are loaded.

    Raises:
        ModelError: if there is no such model, or none of the families is of its type
    """
    try:
        config, _ = PretrainedConfig.get_config_dict(model_id, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model_id!r} cannot be found: {one_line(error)}; expected a Hub id or a local folder"
        ) from error
    model_type = config.get("model_type")
    family = str(OTHER_MODEL_TYPES.get(model_type, model_type))
    if family not in (*FAMILIES, CLAP):
        found = (
            f"is of type {model_type!r}, which has no family" if model_type else "has no config.json with a model_type"
        )
        raise ModelError(f"model {model_id!r} {found}; name one of {', '.join(model_names())}")
    return family
