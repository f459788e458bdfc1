"""Layers of hidden states that are used of a pretrained encoder, their number, and the hash of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from copy import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from lalm_mer.core.errors import ConfigError, ModelError, one_line
from lalm_mer.examples.feature_store import Columns, Frames
from lalm_mer.models.loading import from_pretrained

__all__ = ["ChosenLayers", "LayersOf", "concatenated", "number_of_layers", "side_by_side", "weights_hash"]

_UNUSED = ("pooler", "masked_spec_embed", "position_ids", "token_type_ids", "relative_position_index")
"""Parts of names of weights that hidden states do not depend on, or that follow from the config"""


class LayersOf:
    """The layers that are used of the hidden states of a model.

    Args:
        wanted: ``last``, ``all``, or numbers, 0 for the input of the first layer
        model: its name, for errors
    """

    def __init__(self, wanted: str | Sequence[int], model: str) -> None:
        self.wanted = wanted if isinstance(wanted, str) else list(wanted)
        self._model = model

    @property
    def all(self) -> LayersOf:
        """All layers of the same model."""
        return LayersOf("all", self._model)

    def numbers(self, total: int) -> list[int]:
        """The numbers of the L layers that are used, of a model with ``total`` layers.

        Raises:
            ConfigError: if the model has no layer of a number
        """
        if self.wanted == "last":
            return [total - 1]
        if self.wanted == "all":
            return [*range(total)]
        found = [int(number) for number in self.wanted]
        outside = [number for number in found if number >= total]
        if outside:
            raise ConfigError(f"argument 'layers': {outside[0]}; model {self._model!r} has layers 0 to {total - 1}")
        return found

    def columns(self, total: int, width: int) -> Columns:
        """Places of the features of the L layers among those of all layers, (L * ``width``,).

        Example:
            >>> LayersOf([2, 0], "x").columns(total=3, width=2)
            array([4, 5, 0, 1])
        """
        return np.concatenate([np.arange(width) + number * width for number in self.numbers(total)])


class ChosenLayers:
    """An encoder with layers of hidden states, of which some are chosen.

    Attributes:
        layers: L, the number of those that are chosen
        chosen: which they are
    """

    layers: int
    chosen: LayersOf
    _total: int
    _width: int

    def _open_layers(self, wanted: str | Sequence[int], model: str, *, total: int, width: int) -> None:
        """Choose layers; ``total`` is their number, and ``width`` that of the features of each."""
        self._total, self._width = total, width
        self._choose(LayersOf(wanted, model))

    def _choose(self, chosen: LayersOf) -> None:
        self.chosen, self.layers = chosen, len(chosen.numbers(self._total))

    @property
    def size(self) -> int:
        """Width of the frames."""
        return self.layers * self._width

    def with_all_layers(self) -> Self:
        """The same encoder with the features of all layers."""
        other = copy(self)
        other._choose(self.chosen.all)
        return other

    @property
    def columns(self) -> Columns:
        """Places of its features among those of all layers, (``size``,)."""
        return self.chosen.columns(self._total, self._width)


def number_of_layers(model: str, revision: str | None = None) -> int:
    """Number of the layers of hidden states of a pretrained encoder, the input of the first layer included.

    It is read from the config; no weights are loaded.

    Args:
        model: Hub id or local folder of a model that ``PretrainedAudio`` or ``PretrainedText`` takes
        revision: branch, tag or commit on the Hub

    Raises:
        ModelError: if there is no such model, or its config has no number of layers
    """
    try:
        config = from_pretrained(AutoConfig, model, revision)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"encoder {model!r}: its config cannot be read ({one_line(error)})") from error
    if config.model_type == "clap":
        return 1  # the output of its audio tower
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int):
        raise ModelError(f"encoder {model!r}: its config has no number of layers; give them as numbers")
    return count + 1


def concatenated(states: Sequence[Tensor], layers: LayersOf) -> Tensor:
    """The chosen layers of states (..., D) in float32, (..., L * D)."""
    return torch.cat([states[number].float() for number in layers.numbers(len(states))], dim=-1)


def side_by_side(states: Sequence[Tensor], layers: LayersOf, *, pooled: bool = False) -> Frames:
    """The chosen layers as frames (F, L * D): float16 of several layers, unless they are to be pooled, else float32.

    Example:
        >>> states = [torch.zeros(3, 2), torch.ones(3, 2)]
        >>> side_by_side(states, LayersOf("all", "x"))[0], side_by_side(states, LayersOf("last", "x")).dtype.name
        (array([0., 0., 1., 1.], dtype=float16), 'float32')
    """
    frames: Frames = concatenated(states, layers).numpy()
    return frames if len(layers.numbers(len(states))) == 1 or pooled else frames.astype(np.float16)


def weights_hash(model: nn.Module, missing: Collection[str], name: str, prefix: str = "") -> str:
    """Hash of the weights of a model; those that are neither in its files nor used are left out.

    Args:
        model: a model, or the part of one that is used
        missing: names of the weights of the complete model that its files do not have
        name: name of the model, for errors
        prefix: path of the part in the complete model, with a dot at the end

    Raises:
        ModelError: if a weight is missing that is used
    """
    of_part = (key for key in missing if key.startswith(prefix))
    if absent := sorted(key for key in of_part if not any(part in key for part in _UNUSED)):
        raise ModelError(
            f"encoder {name!r}: it has no weights for {len(absent)} of its tensors, such as {absent[0]}; is the model "
            "complete?"
        )
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(model.state_dict().items()):
        if not any(part in key for part in _UNUSED):
            digest.update(key.encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
