"""Towers that hear padding: every waveform is encoded at its own length, those of one length together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.parts.in_place import InPlaceFamily

__all__ = ["OwnLengthFamily", "at_own_length"]


class OwnLengthFamily(InPlaceFamily):
    """Each waveform goes through front end and tower alone, or beside those of its own length."""

    longest_s: ClassVar[float]
    """Longest audio that the published weights take, in seconds; a config may say another"""

    @property
    def longest_audio_s(self) -> float:
        """Longest audio it takes, in seconds."""
        return float(getattr(self.model.config, "longest_audio_s", self.longest_s))

    @abstractmethod
    def features_of(self, samples: npt.NDArray[np.float32]) -> Tensor:
        """What the tower takes for one waveform, (frames, bins); no frames where it is too short."""

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Each waveform's own features.

        Returns:
            ``audio_features`` (A, frames, bins), padded at the end, and ``audio_frames`` (A,)

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        each = [self.features_of(waveform.samples) for waveform in waveforms]
        return {
            "audio_features": nn.utils.rnn.pad_sequence(each, batch_first=True),
            "audio_frames": torch.tensor([len(features) for features in each]),
        }


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
