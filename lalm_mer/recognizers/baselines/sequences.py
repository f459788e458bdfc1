"""Networks over the padded frames or tokens of a branch; padding does not affect their output."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lalm_mer.recognizers.baselines.settings import SequenceSettings

__all__ = ["SequenceNetwork", "frame_mask", "sequence_network"]


def frame_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """Mask (B, F), False at padding, from the lengths (B,) of sequences that are padded to ``n_frames``, F.

    Example:
        >>> frame_mask(torch.tensor([1, 3]), 3).int().tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(n_frames, device=lengths.device)[None] < lengths[:, None]


class SequenceNetwork(nn.Module):
    """Base class: (B, F, D) frames with lengths (B,) become (B, F', ``output_size``) states with their lengths (B,)."""

    output_size: int

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States and their lengths; what is in padded frames is not defined."""
        raise NotImplementedError


class Conv1d(SequenceNetwork):
    """Convolutions over time with ReLU, and batch normalisation if set."""

    def __init__(self, size: int, settings: SequenceSettings) -> None:
        super().__init__()
        self.stride = settings.stride
        sizes = [size] + [settings.channels] * settings.layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, settings.kernel_size, settings.stride, padding=settings.kernel_size // 2)
            for before, after in pairwise(sizes)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(settings.channels) for _ in range(settings.layers if settings.batch_norm else 0)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.output_size = settings.channels

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        mask = frame_mask(lengths, frames.shape[1])
        for number, convolution in enumerate(self.convolutions):
            # zeros after the end, as the convolution pads a single sequence
            frames = convolution((frames * mask[..., None]).transpose(1, 2)).transpose(1, 2)
            lengths = torch.div(lengths - 1, self.stride, rounding_mode="floor") + 1
            mask = frame_mask(lengths, frames.shape[1])
            if self.norms:
                normalised = torch.zeros_like(frames)
                normalised[mask] = self.norms[number](frames[mask])
                frames = normalised
            frames = torch.relu(frames)
            if number + 1 < len(self.convolutions):  # before the pooling it would increase the standard deviation
                frames = self.dropout(frames)
        return frames, lengths


def sequence_network(size: int, settings: SequenceSettings) -> SequenceNetwork:
    """The network that the settings describe, over frames of ``size`` features."""
    return Conv1d(size, settings)
