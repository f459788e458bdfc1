"""Encoding of each waveform at its own length, for towers whose output depends on padding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import AudioEncoder, Family, FrontEnd, TowerOutput

__all__ = ["OwnLength", "OwnLengthEncoder"]


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


@dataclass(frozen=True)
class OwnLengthEncoder(AudioEncoder):
    """Tower output of each waveform, independent of the others: those of one length are encoded together.

    Args:
        states: tower, features (N, frames, bins) without padding, and their mask (N, frames) of true -> (N, F, D)
        lengths: family, mel frames (A,) -> rows of output (A,), F or more; those after F are zero
        width: name of D in the tower's config
    """

    states: Callable[[Any, Tensor, Tensor], Tensor]
    lengths: Callable[[Family, Tensor], Tensor]
    width: str

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, frames, bins) and (A,)."""
        tower: Any = family.submodule("audio_tower")
        lengths = self.lengths(family, audio_frames)
        size = int(lengths.max())
        shape = (len(lengths), size, int(getattr(tower.config, self.width)))
        states = torch.zeros(shape, dtype=tower.dtype, device=audio_features.device)
        for length in sorted(set(audio_frames.tolist()) - {0}):
            same = audio_frames == length
            features = audio_features[same, :length].to(tower.dtype)
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
            encoded = self.states(tower, features, mask)
            filled = nn.functional.pad(encoded, (0, 0, 0, size - encoded.shape[1]))
            states = states.index_put((same,), filled.to(tower.dtype))
        return TowerOutput(states, lengths)
