"""Layers of hidden states that are used of a pretrained encoder, and the hash of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.examples.feature_store import Frames

__all__ = ["LayersOf", "side_by_side", "weights_hash"]

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

    def count(self, states: Sequence[Tensor]) -> int:
        """L, the number of layers that are used.

        Raises:
            ConfigError: if the model has no layer of a number
        """
        return len(self.of(states))

    def of(self, states: Sequence[Tensor]) -> list[Tensor]:
        """The states of the layers, each (F, D)."""
        if self.wanted == "last":
            return [states[-1]]
        if self.wanted == "all":
            return list(states)
        outside = [number for number in self.wanted if int(number) >= len(states)]
        if outside:
            raise ConfigError(
                f"argument 'layers': {outside[0]}; model {self._model!r} has layers 0 to {len(states) - 1}"
            )
        return [states[int(number)] for number in self.wanted]


def side_by_side(states: Sequence[Tensor], layers: LayersOf) -> Frames:
    """The chosen layers as frames (F, L * D): float32 of a single layer, float16 of several.

    Example:
        >>> states = [torch.zeros(3, 2), torch.ones(3, 2)]
        >>> side_by_side(states, LayersOf("all", "x"))[0], side_by_side(states, LayersOf("last", "x")).dtype.name
        (array([0., 0., 1., 1.], dtype=float16), 'float32')
    """
    chosen = layers.of(states)
    frames: Frames = torch.cat([each.float() for each in chosen], dim=-1).numpy()
    return frames if len(chosen) == 1 else frames.astype(np.float16)


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
