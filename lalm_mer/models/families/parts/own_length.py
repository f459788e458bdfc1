"""Encoding of each waveform as if it were alone, for towers whose output depends on padding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import AudioEncoder, Family, FrontEnd, TowerOutput
from lalm_mer.models.families.parts.log_mel import frame_mask

__all__ = ["OwnLength", "OwnLengthEncoder", "halved"]

_MOST_PADDED = 1.125  # frames with padding, relative to those without


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
    """Tower output of each waveform as if it were encoded alone, in padded batches of similar lengths.

    Convolutions and attention have to exclude padding, also where transformers' own forward does not::

        mel frames         | a a a a a a a . . . |   subsampling: each waveform without its padding (.),
                           | b b b b b b b b b b |   because its activations are the largest
        frames of tower    | A A . |                 transformer: a batch; ``states`` masks the padding
                           | B B B |

    Args:
        states: tower, features (N, frames, bins) padded at the end, and mask (N, frames), true for audio -> (N, F, D)
        lengths: family, mel frames (A,) -> rows of output (A,), F or more; those without a frame of audio are zero
        width: name of D in the tower's config
        subsampling: name of the submodule of the tower that runs on one waveform at a time, if it has one
    """

    states: Callable[[Any, Tensor, Tensor], Tensor]
    lengths: Callable[[Family, Tensor], Tensor]
    width: str
    subsampling: str | None = None

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, frames, bins) and (A,)."""
        tower: Any = family.submodule("audio_tower")
        lengths = self.lengths(family, audio_frames)
        size = int(lengths.max())
        shape = (len(lengths), size, int(getattr(tower.config, self.width)))
        states = torch.zeros(shape, dtype=tower.dtype, device=audio_features.device)
        frames = audio_frames.tolist()
        for group in _groups(frames, float("inf") if _is_sharded(tower) else _MOST_PADDED):
            rows = torch.tensor(group, device=audio_features.device)
            longest = max(frames[row] for row in group)
            mask = frame_mask(audio_frames[rows], longest)
            with ExitStack() as changes:
                if self.subsampling is not None:
                    module = tower.get_submodule(self.subsampling)
                    changes.enter_context(_one_by_one(module, [frames[row] for row in group]))
                encoded = self.states(tower, audio_features[rows, :longest].to(tower.dtype), mask)
            encoded = encoded.masked_fill(~halved(mask, encoded.shape[1])[..., None], 0)
            filled = nn.functional.pad(encoded, (0, 0, 0, size - encoded.shape[1]))
            states = states.index_put((rows,), filled.to(tower.dtype))
        return TowerOutput(states, lengths)


def halved(mask: Tensor, frames: int) -> Tensor:
    """A mask (N, mel frames) after strides of two, each of which rounds up, down to ``frames``."""
    while mask.shape[1] > frames:
        mask = mask[:, ::2]
    return mask


def _is_sharded(tower: nn.Module) -> bool:
    """Whether processes share its weights: then all have to call it equally often, once for a batch."""
    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in tower.parameters())


def _groups(frames: Sequence[int], most_padded: float) -> list[list[int]]:
    """Rows with frames, the longest first, in groups with at most ``most_padded`` times their own frames."""
    groups: list[list[int]] = []
    total = 0
    for row in sorted(range(len(frames)), key=lambda row: -frames[row]):
        if not frames[row]:
            continue
        if groups and (len(groups[-1]) + 1) * frames[groups[-1][0]] <= most_padded * (total + frames[row]):
            groups[-1].append(row)
            total += frames[row]
        else:
            groups.append([row])
            total = frames[row]
    return groups


@contextmanager
def _one_by_one(module: Any, frames: Sequence[int]) -> Iterator[None]:  # noqa: ANN401 each family's own class
    """Within it, a module that takes (N, frames, ...) runs on each row without its padding."""
    forward, own = module.forward, "forward" in vars(module)

    def each(*args: Tensor | None) -> Any:  # noqa: ANN401 as the module's own
        outputs = [
            forward(*(None if arg is None else arg[row : row + 1, :count] for arg in args))
            for row, count in enumerate(frames)
        ]
        if isinstance(outputs[0], tuple):
            return tuple(map(_padded, zip(*outputs, strict=True)))
        return _padded(outputs)

    module.forward = each
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward


def _padded(rows: Sequence[Tensor | None]) -> Tensor | None:
    found = [row[0] for row in rows if row is not None]
    return nn.utils.rnn.pad_sequence(found, batch_first=True) if found else None
