"""One branch of the fusion network: it encodes a padded sequence of frames or tokens as one vector per utterance."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lalm_mer.recognizers.baselines.settings import BranchSettings

__all__ = ["SequenceBranch", "frame_mask"]


def frame_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """Mask (B, F), False at padding, from the lengths (B,) of sequences that are padded to ``n_frames``, F.

    Example:
        >>> frame_mask(torch.tensor([1, 3]), 3).int().tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(n_frames, device=lengths.device)[None] < lengths[:, None]


class SequenceBranch(nn.Module):
    """Normalisation, convolutions and pooling; padding does not affect the output.

    Args:
        size: D, features per frame or token
        settings: shape and regularisation
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, settings: BranchSettings) -> None:
        super().__init__()
        self.settings = settings
        sizes = [size] + [settings.channels] * settings.layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, settings.kernel_size, settings.stride, padding=settings.kernel_size // 2)
            for before, after in pairwise(sizes)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(settings.channels) for _ in range(settings.layers if settings.batch_norm else 0)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.output_size = settings.channels * (2 if settings.pooling == "mean_std" else 1)

    def set_normalisation(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> None:
        """Set the statistics of the train split, (D,) each; a constant feature is only centred."""
        deviation = np.asarray(std, dtype=np.float32)
        self.mean.copy_(torch.from_numpy(np.array(mean, dtype=np.float32)))
        self.std.copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, np.float32(1))))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Encode a padded batch (B, F, D) with lengths (B,) of at least 1 as (B, ``output_size``)."""
        mask = frame_mask(lengths, frames.shape[1])
        frames = (frames - self.mean) / self.std
        if self.training:
            frames = self._corrupted(frames, lengths)
        for number, convolution in enumerate(self.convolutions):
            # zeros after the end, as the convolution pads a single sequence
            frames = convolution((frames * mask[..., None]).transpose(1, 2)).transpose(1, 2)
            lengths = torch.div(lengths - 1, self.settings.stride, rounding_mode="floor") + 1
            mask = frame_mask(lengths, frames.shape[1])
            if self.norms:
                normalised = torch.zeros_like(frames)
                normalised[mask] = self.norms[number](frames[mask])
                frames = normalised
            frames = torch.relu(frames)
            if number + 1 < len(self.convolutions):  # before the pooling it would increase the standard deviation
                frames = self.dropout(frames)
        return cast(Tensor, self.dropout(self._pooled(frames, mask)))

    def _pooled(self, frames: Tensor, mask: Tensor) -> Tensor:
        weights = mask[..., None].to(frames.dtype)
        count = weights.sum(dim=1)
        mean = (frames * weights).sum(dim=1) / count
        if self.settings.pooling == "mean":
            return mean
        variance = ((frames - mean[:, None]).square() * weights).sum(dim=1) / count
        # the small constant keeps the gradient of the root finite if a channel is constant
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)

    def _corrupted(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Add noise and SpecAugment-like masks (Park et al., INTERSPEECH 2019); zero is the train mean."""
        settings = self.settings
        n_frames, size = frames.shape[1:]
        if settings.noise_std:
            frames = frames + settings.noise_std * torch.randn_like(frames)
        if settings.shift_std:
            frames = frames + settings.shift_std * torch.randn_like(frames[:, :1])
        if settings.time_mask:
            frames = frames * ~_random_span(lengths, settings.time_mask, n_frames)[:, :, None]
        if settings.feature_mask:
            sizes = torch.full_like(lengths, size)
            frames = frames * ~_random_span(sizes, settings.feature_mask, size)[:, None, :]
        return frames


def _random_span(lengths: Tensor, share: float, size: int) -> Tensor:
    """Mask (B, size), True in one random span of at most ``share`` of each length."""
    width = torch.rand(len(lengths), device=lengths.device) * share * lengths
    start = torch.rand(len(lengths), device=lengths.device) * (lengths - width)
    places = torch.arange(size, device=lengths.device)[None]
    return (places >= start[:, None]) & (places < (start + width)[:, None])
