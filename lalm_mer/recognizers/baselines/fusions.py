"""Fusion of the branches of a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lalm_mer.recognizers.baselines.settings import FusionSettings

__all__ = ["Encoded", "Fusion", "fusion_of"]


@dataclass(frozen=True)
class Encoded:
    """Output of a branch for a batch.

    Args:
        states: (B, F, H), padded
        lengths: (B,), frames of each that are not padding
        pooled: (B, P), one vector per utterance
    """

    states: Tensor
    lengths: Tensor
    pooled: Tensor


class Fusion(nn.Module):
    """Base class: the outputs of the branches become one vector per utterance, (B, ``output_size``)."""

    output_size: int

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """Combine the branches, in their order."""
        raise NotImplementedError


class Concatenation(Fusion):
    """The pooled vectors side by side; also for a single branch."""

    def __init__(self, pooled: Mapping[str, int]) -> None:
        super().__init__()
        self.output_size = sum(pooled.values())

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """See ``Fusion``."""
        return torch.cat([branch.pooled for branch in branches.values()], dim=1)


def fusion_of(settings: FusionSettings, states: Mapping[str, int], pooled: Mapping[str, int]) -> Fusion:
    """The fusion that the settings describe; a single branch is not fused.

    Args:
        settings: its kind and shape
        states: modality -> H, width of the states
        pooled: modality -> P, width of the vector
    """
    return Concatenation(pooled)
