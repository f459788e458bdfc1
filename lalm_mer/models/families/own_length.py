"""Towers that hear padding: every waveform is encoded at its own length, those of one length together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["at_own_length"]


def at_own_length(
    encode: Callable[[Tensor], Tensor], features: Tensor, frames: Tensor, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """What a tower makes of each waveform, independent of its neighbours.

    Args:
        encode: (N, frames, bins), all of one length -> (N, F, D)
        features: (A, frames, bins), padded at the end
        frames: (A,), 0 where there is nothing to encode
        shape: F of the longest, or more, and D
        dtype: of the tower

    Returns:
        (A, F, D), zero after each one's end
    """
    states = torch.zeros((len(frames), *shape), dtype=dtype, device=features.device)
    for length in sorted(set(frames.tolist()) - {0}):
        same = frames == length
        encoded = encode(features[same, :length].to(dtype))
        filled = nn.functional.pad(encoded, (0, 0, 0, shape[0] - encoded.shape[1]))
        states = states.index_put((same,), filled.to(dtype))
    return states
