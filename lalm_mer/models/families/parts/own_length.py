"""Encoding of each waveform at its own length, for towers whose output depends on padding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import Family, FrontEnd

__all__ = ["OwnLength", "encode_at_own_length"]


@dataclass(frozen=True)
class OwnLength(FrontEnd):
    """Features of each waveform, computed separately.

    Args:
        longest_s: longest audio that the published weights take, in seconds; ``longest_audio_s`` of a config overrides
            it
    """

    longest_s: float

    def longest_audio_s(self, family: Family) -> float:
        """Longest audio it takes, in seconds."""
        return float(getattr(family.model.config, "longest_audio_s", self.longest_s))

    @abstractmethod
    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """Features of one waveform, (frames, bins); no frames if it is too short."""

    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Features: ``audio_features`` (A, frames, bins), padded at the end, and ``audio_frames`` (A,)."""
        each = [self.features(family, waveform.samples) for waveform in waveforms]
        return {
            "audio_features": nn.utils.rnn.pad_sequence(each, batch_first=True),
            "audio_frames": torch.tensor([len(features) for features in each]),
        }


def encode_at_own_length(
    encode: Callable[[Tensor, Tensor], Tensor],
    features: Tensor,
    frames: Tensor,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Tower output of each waveform, independent of the others: those of one length are encoded together.

    Args:
        encode: features (N, frames, bins) without padding, and their mask (N, frames) of true -> (N, F, D)
        features: (A, frames, bins), padded at the end
        frames: (A,), 0 for a waveform without frames
        shape: F of the longest, or more, and D
        dtype: of the tower

    Returns:
        (A, F, D), zero after the end of each
    """
    states = torch.zeros((len(frames), *shape), dtype=dtype, device=features.device)
    for length in sorted(set(frames.tolist()) - {0}):
        same = frames == length
        chosen = features[same, :length].to(dtype)
        encoded = encode(chosen, torch.ones(chosen.shape[:2], dtype=torch.bool, device=chosen.device))
        filled = nn.functional.pad(encoded, (0, 0, 0, shape[0] - encoded.shape[1]))
        states = states.index_put((same,), filled.to(dtype))
    return states
