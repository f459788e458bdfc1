"""Keys and values of earlier tokens, so that a pass over later tokens need not repeat them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["KeysValues"]


class KeysValues(DynamicCache):  # type: ignore[misc]  # transformers is not followed
    """Keys and values of the S earlier tokens of B rows, and their positions (B, S); a pass adds its own tokens.

    Layers with a sliding window keep all tokens too: rows are padded at the right, so the last entries are not the last
    tokens of each row. Which of them a token attends to is decided by masks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.position_ids: Tensor | None = None

    def positions_with(self, position_ids: Tensor) -> Tensor:
        """Positions of all keys in a pass over tokens at ``position_ids`` (B, T): (B, S + T)."""
        if self.position_ids is None:
            return position_ids
        return torch.cat([self.position_ids, position_ids], dim=1)

    @property
    def device(self) -> torch.device:
        """Device of the tensors; there must be some."""
        assert self.position_ids is not None
        return self.position_ids.device

    def beginning(self, rows: int, length: int, *, grows: bool) -> KeysValues:
        """The first ``length`` tokens of the only row, for each of ``rows`` rows.

        Args:
            rows: B of the later passes
            length: number of tokens
            grows: whether the keys and values of later passes are added, which needs those of this row B times; if
                not, they are combined with those of this row layer by layer, and only one pass can be made
        """
        assert self.position_ids is not None
        made = KeysValues()
        made.position_ids = self.position_ids[:, :length].expand(rows, -1)
        for layer in self.layers:
            keys, values = (tensor[:, :, :length].expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values))
            own = DynamicLayer() if grows else _FixedLayer()
            own.keys, own.values, own.is_initialized = keys, values, True
            made.layers.append(own)
        return made


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Does not keep the keys and values of a pass, so that those of all layers never exist at once."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """All keys and values, for one pass."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)
