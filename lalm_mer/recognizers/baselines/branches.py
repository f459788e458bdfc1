"""One branch of a baseline: it encodes a padded sequence of frames or tokens as one vector per utterance."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lalm_mer.recognizers.baselines.sequences import frame_mask, sequence_network
from lalm_mer.recognizers.baselines.settings import SequenceSettings

__all__ = ["Branch"]

_ATTENTION = 64
"""Units of the attention of attentive pooling"""


class Branch(nn.Module):
    """Normalisation, weights of the layers, a sequence network and pooling; padding does not affect the output.

    Args:
        size: width of the frames or tokens, D features of L layers side by side
        settings: the sequence network, pooling and regularisation
        layers: L; with several, their sum with softmax weights that are learnt is used
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, settings: SequenceSettings, *, layers: int = 1) -> None:
        super().__init__()
        self.settings = settings
        self.sequence = sequence_network(size // layers, settings)
        self.layer_weights = nn.Parameter(torch.zeros(layers)) if layers > 1 else None
        self.embedder: nn.Module | None = None
        self.frozen = False
        self.dropout = nn.Dropout(settings.dropout)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        width = self.sequence.output_size
        self.output_size = width * (1 if settings.pooling in ("mean", "max") else 2)
        self.attention = _attention(width) if settings.pooling == "attentive" else None

    def set_normalisation(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> None:
        """Set the statistics of the train split, (``size``,) each; a constant feature is only centred."""
        deviation = np.asarray(std, dtype=np.float32)
        self.mean.copy_(torch.from_numpy(np.array(mean, dtype=np.float32)))
        self.std.copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, np.float32(1))))

    def freeze(self) -> None:
        """Keep the weights in training, without dropout and other random changes."""
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Branch:
        """As of ``nn.Module``; a frozen branch stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, F', H) and their lengths, of a padded batch (B, F, ``size``) with lengths (B,) of at least 1.

        With an embedder, the batch is (B, T) token ids.
        """
        if self.embedder is not None:
            frames = self.embedder(frames, frame_mask(lengths, frames.shape[1]))
        frames = (frames - self.mean) / self.std
        if self.layer_weights is not None:
            layers = frames.reshape(*frames.shape[:2], len(self.layer_weights), -1)
            frames = torch.einsum("bfld,l->bfd", layers, torch.softmax(self.layer_weights, dim=0))
        if self.training:
            frames = self._corrupted(frames, lengths)
        states, lengths = self.sequence(frames, lengths)
        return states, lengths

    def pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        """One vector per utterance, (B, ``output_size``), of the states."""
        return cast(Tensor, self.dropout(self._pooled(states, frame_mask(lengths, states.shape[1]))))

    def _pooled(self, frames: Tensor, mask: Tensor) -> Tensor:
        if self.settings.pooling == "max":
            return frames.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        weights = mask[..., None].to(frames.dtype)
        frames = frames * weights  # what is in padding may be anything
        if self.attention is not None:
            weights = torch.softmax(self.attention(frames).masked_fill(~mask[..., None], -torch.inf), dim=1)
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


def _attention(size: int) -> nn.Module:
    """Attention of attentive statistics pooling (Okabe et al., INTERSPEECH 2018): a score for each frame."""
    return nn.Sequential(nn.Linear(size, _ATTENTION), nn.Tanh(), nn.Linear(_ATTENTION, 1))


def _random_span(lengths: Tensor, share: float, size: int) -> Tensor:
    """Mask (B, size), True in one random span of at most ``share`` of each length."""
    width = torch.rand(len(lengths), device=lengths.device) * share * lengths
    start = torch.rand(len(lengths), device=lengths.device) * (lengths - width)
    places = torch.arange(size, device=lengths.device)[None]
    return (places >= start[:, None]) & (places < (start + width)[:, None])
