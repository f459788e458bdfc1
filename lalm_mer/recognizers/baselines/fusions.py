"""Fusion of the branches of a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lalm_mer.recognizers.baselines.sequences import frame_mask, positions
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


@dataclass(frozen=True)
class Widths:
    """Widths of the output of a branch: H of its states, P of its vector."""

    states: int
    pooled: int


class Fusion(nn.Module, ABC):
    """Base class: the outputs of the branches become one vector per utterance, (B, ``output_size``)."""

    output_size: int

    @abstractmethod
    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """Combine the branches, in their order."""


class Concatenation(Fusion):
    """The pooled vectors side by side; also for a single branch."""

    def __init__(self, widths: Mapping[str, Widths], settings: FusionSettings) -> None:
        super().__init__()
        self.output_size = sum(width.pooled for width in widths.values())

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """See ``Fusion``."""
        return _vectors(branches)


class Gated(Fusion):
    """Gated multimodal unit: each feature is a weighted mean of both branches, with weights computed from both.

    References:
        Arevalo et al., "Gated multimodal units for information fusion", ICLR workshop 2017.
    """

    def __init__(self, widths: Mapping[str, Widths], settings: FusionSettings) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width.pooled, settings.size) for name, width in widths.items()}
        )
        self.gate = nn.Linear(sum(width.pooled for width in widths.values()), settings.size)
        self.output_size = settings.size

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """See ``Fusion``."""
        first, second = (torch.tanh(self.projections[name](each.pooled)) for name, each in branches.items())
        gate = torch.sigmoid(self.gate(_vectors(branches)))
        return gate * first + (1 - gate) * second


class Attention(Fusion):
    """Self-attention over the vectors of the branches, whose outputs are side by side."""

    def __init__(self, widths: Mapping[str, Widths], settings: FusionSettings) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width.pooled, settings.size) for name, width in widths.items()}
        )
        self.layer = nn.TransformerEncoderLayer(
            settings.size, settings.heads, 2 * settings.size, settings.dropout, batch_first=True, norm_first=True
        )  # layer normalisation first: the vectors themselves reach the head
        self.output_size = settings.size * len(widths)

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """See ``Fusion``."""
        vectors = torch.stack([self.projections[name](each.pooled) for name, each in branches.items()], dim=1)
        attended: Tensor = self.layer(vectors)
        return attended.flatten(1)


class CrossModal(Fusion):
    """Each sequence attends to the other one by transformer layers, whose outputs are averaged over time.

    The vectors of the branches are concatenated with these means, so that the head has at least the inputs that it has
    with a concatenation.

    References:
        Tsai et al., "Multimodal transformer for unaligned multimodal language sequences", ACL 2019.
    """

    def __init__(self, widths: Mapping[str, Widths], settings: FusionSettings) -> None:
        super().__init__()
        size = settings.size
        self.projections = nn.ModuleDict({name: nn.Linear(width.states, size) for name, width in widths.items()})
        self.layers = nn.ModuleDict(
            {name: nn.ModuleList(_CrossLayer(settings) for _ in range(settings.layers)) for name in widths}
        )
        self.norms = nn.ModuleDict({name: nn.LayerNorm(size) for name in widths})
        self.scale = size**0.5  # as of embeddings: else the positions would hide the states
        self.output_size = size * len(widths) + sum(width.pooled for width in widths.values())

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """See ``Fusion``."""
        projected = {name: self.scale * self.projections[name](each.states) for name, each in branches.items()}
        projected = {name: states + positions(states) for name, states in projected.items()}
        masks = {name: frame_mask(each.lengths, each.states.shape[1]) for name, each in branches.items()}
        means = []
        for (name, states), other in zip(projected.items(), [*reversed(projected)], strict=True):
            for layer in cast(nn.ModuleList, self.layers[name]):
                states = layer(states, projected[other], ~masks[other])
            weights = masks[name][..., None].to(states.dtype)
            means.append((self.norms[name](states) * weights).sum(dim=1) / weights.sum(dim=1))
        return torch.cat([*means, _vectors(branches)], dim=1)


class _CrossLayer(nn.Module):
    """Attention from one sequence to another and a feed-forward network, each with layer normalisation first."""

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__()
        size = settings.size
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.attention = nn.MultiheadAttention(size, settings.heads, settings.dropout, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, states: Tensor, others: Tensor, padding: Tensor) -> Tensor:
        """States (B, F, size) after attention to others (B, T, size), of which ``padding`` (B, T) is left out."""
        others = self.norms[1](others)
        attended, _ = self.attention(
            self.norms[0](states), others, others, key_padding_mask=padding, need_weights=False
        )
        states = states + self.dropout(attended)
        fed: Tensor = states + self.dropout(self.feed_forward(self.norms[2](states)))
        return fed


class Bilinear(Fusion):
    """Low-rank bilinear fusion: products of linear maps of both vectors, each extended by a one, summed over the rank.

    References:
        Liu et al., "Efficient low-rank multimodal fusion with modality-specific factors", ACL 2018.
    """

    def __init__(self, widths: Mapping[str, Widths], settings: FusionSettings) -> None:
        super().__init__()
        self.rank, self.output_size = settings.rank, settings.size
        self.factors = nn.ModuleDict(
            {name: nn.Linear(width.pooled, settings.rank * settings.size) for name, width in widths.items()}
        )  # the bias is the factor of the one
        self.weights = nn.Linear(settings.rank, 1, bias=False)
        for factor in self.factors.values():  # at first each vector has an effect alone, as in a sum
            nn.init.ones_(cast(nn.Linear, factor).bias)
        nn.init.constant_(self.weights.weight, 1 / settings.rank)
        self.bias = nn.Parameter(torch.zeros(settings.size))

    def forward(self, branches: Mapping[str, Encoded]) -> Tensor:
        """See ``Fusion``."""
        product = torch.ones(1, device=self.bias.device)
        for name, each in branches.items():
            product = product * self.factors[name](each.pooled)
        by_rank = product.reshape(len(product), self.rank, self.output_size)
        weighted: Tensor = self.weights(by_rank.transpose(1, 2)).squeeze(-1)
        return weighted + self.bias


def _vectors(branches: Mapping[str, Encoded]) -> Tensor:
    return torch.cat([branch.pooled for branch in branches.values()], dim=1)


_KINDS: dict[str, Callable[[Mapping[str, Widths], FusionSettings], Fusion]] = {
    "concatenation": Concatenation, "gated": Gated, "attention": Attention, "cross_modal": CrossModal,
    "bilinear": Bilinear,
}  # fmt: skip


def fusion_of(settings: FusionSettings, states: Mapping[str, int], pooled: Mapping[str, int]) -> Fusion:
    """The fusion that the settings describe; a single branch is not fused.

    Args:
        settings: its kind and shape
        states: modality -> H, width of the states
        pooled: modality -> P, width of the vector
    """
    widths = {name: Widths(states[name], pooled[name]) for name in pooled}
    return Concatenation(widths, settings) if len(widths) == 1 else _KINDS[settings.kind](widths, settings)
