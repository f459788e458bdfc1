"""Networks over the padded frames or tokens of a branch; padding does not affect their output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from lalm_mer.recognizers.baselines.settings import Conv2dSettings, SequenceSettings

__all__ = ["SequenceNetwork", "frame_mask", "positions", "sequence_network"]


def frame_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """Mask (B, F), False at padding, from the lengths (B,) of sequences that are padded to ``n_frames``, F.

    Example:
        >>> frame_mask(torch.tensor([1, 3]), 3).int().tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(n_frames, device=lengths.device)[None] < lengths[:, None]


def positions(frames: Tensor) -> Tensor:
    """Sinusoidal encoding (F, D) of the positions of frames (B, F, D) with an even D (Vaswani et al. 2017)."""
    count, size = frames.shape[1:]
    frequencies = torch.exp(torch.arange(0, size, 2, device=frames.device) * (-math.log(10_000.0) / size))
    angles = torch.arange(count, device=frames.device)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(frames.dtype)


class SequenceNetwork(nn.Module, ABC):
    """Base class: (B, F, D) frames with lengths (B,) become (B, F', ``output_size``) states with their lengths (B,)."""

    output_size: int

    @abstractmethod
    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States and their lengths; what is in padded frames is not defined."""


class _Convolutions(SequenceNetwork):
    """Convolutions with ReLU, batch normalisation if set, and dropout between them."""

    def __init__(self, convolutions: Iterable[nn.Module], settings: SequenceSettings | Conv2dSettings, *,
                 batch_norm: bool, dropout: float) -> None:  # fmt: skip
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.stride = settings.stride
        self.norms = nn.ModuleList(nn.BatchNorm1d(settings.channels) for _ in self.convolutions if batch_norm)
        self.dropout = nn.Dropout(dropout)
        self.output_size = settings.channels

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        for number in range(len(self.convolutions)):
            frames, lengths = self._layer(number, frames, lengths)
        return frames, lengths

    def _layer(self, number: int, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a convolution for frames (B, F, ..., channels), and its lengths."""
        mask = frame_mask(lengths, frames.shape[1])
        # zeros after the end, as the convolution pads a single sequence
        masked = frames * mask.reshape(*mask.shape, *[1] * (frames.ndim - 2))
        frames = self.convolutions[number](masked.movedim(-1, 1)).movedim(1, -1)
        lengths = torch.div(lengths - 1, self.stride, rounding_mode="floor") + 1
        if self.norms:
            mask = frame_mask(lengths, frames.shape[1])
            kept = frames[mask]
            normalised = torch.zeros_like(frames)
            normalised[mask] = self.norms[number](kept.reshape(-1, kept.shape[-1])).reshape(kept.shape)
            frames = normalised
        frames = torch.relu(frames)
        if number + 1 < len(self.convolutions):  # before the pooling it would increase the standard deviation
            frames = self.dropout(frames)
        return frames, lengths


class Conv1d(_Convolutions):
    """Convolutions over time."""

    def __init__(self, size: int, settings: SequenceSettings) -> None:
        sizes = [size] + [settings.channels] * settings.layers
        convolutions = (
            nn.Conv1d(before, after, settings.kernel_size, settings.stride, padding=settings.kernel_size // 2)
            for before, after in pairwise(sizes)
        )
        super().__init__(convolutions, settings, batch_norm=settings.batch_norm, dropout=settings.dropout)


class Conv2d(_Convolutions):
    """Convolutions over time and features, whose channels and remaining features are the features of a state."""

    def __init__(self, size: int, settings: Conv2dSettings, *, batch_norm: bool) -> None:
        sizes = [1] + [settings.channels] * settings.layers
        convolutions = (
            nn.Conv2d(before, after, settings.kernel_size, settings.stride, padding=settings.kernel_size // 2)
            for before, after in pairwise(sizes)
        )
        super().__init__(convolutions, settings, batch_norm=batch_norm, dropout=0.0)
        for _ in range(settings.layers):
            size = (size - 1) // settings.stride + 1
        self.output_size = settings.channels * size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        frames, lengths = super().forward(frames[..., None], lengths)
        return frames.flatten(2), lengths


class Recurrent(SequenceNetwork):
    """A bidirectional LSTM or GRU."""

    def __init__(self, size: int, settings: SequenceSettings) -> None:
        super().__init__()
        kind = nn.LSTM if settings.kind == "lstm" else nn.GRU
        dropout = settings.dropout if settings.layers > 1 else 0.0
        self.network = kind(
            size, settings.channels, settings.layers, batch_first=True, dropout=dropout, bidirectional=True
        )
        self.output_size = 2 * settings.channels

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        packed = nn.utils.rnn.pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.network(packed)[0], batch_first=True, total_length=frames.shape[1]
        )
        return states, lengths


class Transformer(SequenceNetwork):
    """A projection, sinusoidal positions, and a transformer encoder with layer normalisation first."""

    def __init__(self, size: int, settings: SequenceSettings) -> None:
        super().__init__()
        width = self.output_size = settings.channels
        self.projection = nn.Linear(size, width)
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 4 * width, settings.dropout, batch_first=True, norm_first=True
        )
        self.network = nn.TransformerEncoder(
            layer, settings.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        frames = self.projection(frames)
        padding = ~frame_mask(lengths, frames.shape[1])
        return self.network(frames + positions(frames), src_key_padding_mask=padding), lengths


class Features(SequenceNetwork):
    """The frames as they are."""

    def __init__(self, size: int, settings: SequenceSettings) -> None:
        super().__init__()
        self.output_size = size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        return frames, lengths


class _Stacked(SequenceNetwork):
    """A network over the states of another."""

    def __init__(self, first: SequenceNetwork, second: SequenceNetwork) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.output_size = second.output_size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SequenceNetwork``."""
        return cast(tuple[Tensor, Tensor], self.second(*self.first(frames, lengths)))


_KINDS: dict[str, Callable[[int, SequenceSettings], SequenceNetwork]] = {
    "conv1d": Conv1d, "lstm": Recurrent, "gru": Recurrent, "transformer": Transformer, "none": Features,
}  # fmt: skip


def sequence_network(size: int, settings: SequenceSettings) -> SequenceNetwork:
    """The network that the settings describe, over frames of ``size`` features."""
    if not settings.conv2d.layers:
        return _KINDS[settings.kind](size, settings)
    first = Conv2d(size, settings.conv2d, batch_norm=settings.batch_norm)
    return _Stacked(first, _KINDS[settings.kind](first.output_size, settings))
