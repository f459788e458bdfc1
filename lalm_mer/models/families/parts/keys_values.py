"""Keys and values of earlier tokens, so that a pass over later tokens need not repeat them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

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
