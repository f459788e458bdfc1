"""Every pretrained model by name: the families of audio-language models, and CLAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import nn
from transformers import PretrainedConfig

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.models.clap import Clap
from lalm_mer.models.families import CLAP, FAMILIES, OTHER_MODEL_TYPES, family_class, model_names

__all__ = ["PretrainedModel", "family_of", "model_class"]


class PretrainedModel(Protocol):
    """What ``Family`` and ``Clap`` have in common: what data, adapters, engines, Hub and run.json read of a model."""

    name: ClassVar[str]
    towers: ClassVar[Mapping[str, str]]
    published: ClassVar[Sequence[str]]
    published_revision: ClassVar[str | None]
    licence: ClassVar[str]
    contamination: ClassVar[Mapping[str, str]]
    adapter_targets: ClassVar[Mapping[str, Sequence[str]]]
    fsdp_layers: ClassVar[Sequence[str]]
    has_language_model: ClassVar[bool]
    batch_tolerance: ClassVar[float]
    model: Any

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Any:  # noqa: ANN401 each its own class
        """Its processor, with ``tokenizer`` and ``feature_extractor``."""
        ...

    @classmethod
    def default_prompt(cls, modalities: str) -> str:
        """The prompt of some modalities, for settings that name none."""
        ...

    @classmethod
    def can_be_quantized(cls) -> bool:
        """Whether ``model.quantization`` can quantise a part of it to 4 bits."""
        ...

    @property
    def sampling_rate(self) -> int:
        """Rate at which it takes audio, in Hz."""
        ...

    @property
    def randomly_initialised(self) -> bool:
        """Whether the weights were never trained."""
        ...

    def submodule(self, tower: str) -> nn.Module:
        """The module of a tower, adapters included."""
        ...

    def refuses(self, duration_s: float) -> str | None:
        """Why it cannot take audio of this duration, in seconds; None where it can."""
        ...


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
