"""Front ends that make log-mel spectrograms with a Whisper-like feature extractor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import Family, FrontEnd
from lalm_mer.models.pretrained import PretrainedModel

__all__ = [
    "LogMel", "PaddedToLongest", "SeveralWindows", "frame_mask", "halved_and_pooled", "halved_thrice", "log_mel",
    "padded_samples",
]  # fmt: skip


@dataclass(frozen=True)
class LogMel(FrontEnd):
    """Spectrograms padded to the extractor's window, which is the longest audio.

    Args:
        tokens_of: number of mel frames -> number of placeholders, of any shape; may be negative for few frames
    """

    tokens_of: Callable[[Tensor], Tensor]

    def longest_audio_s(self, family: Family) -> float:
        """The extractor's window, in seconds."""
        return float(family.processor.feature_extractor.n_samples / family.sampling_rate)

    def token_count(self, family: Family, samples: int) -> int:
        """Placeholders of the mel frames, the last frame padded."""
        frames = -(-samples // int(family.processor.feature_extractor.hop_length))
        return max(0, int(self.tokens_of(torch.tensor(frames))))

    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Spectrograms: ``audio_features`` (A, mel bins, window frames) and ``audio_frames`` (A,)."""
        features, frames = log_mel(family, waveforms)
        return {"audio_features": features, "audio_frames": frames}


class PaddedToLongest(LogMel):
    """Spectrograms padded to the longest of a batch, for towers whose output does not depend on padding."""

    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Spectrograms: ``audio_features`` (A, mel bins, frames) and ``audio_frames`` (A,)."""
        padded = None if family.full_window else padded_samples(family, waveforms)
        features, frames = log_mel(family, waveforms, padded)
        return {"audio_features": features, "audio_frames": frames}


@dataclass(frozen=True)
class SeveralWindows(LogMel):
    """Spectrograms in windows; token counts add up, because a full window gives an integer number of tokens.

    Args:
        true_length: whether windows are padded to the longest of a batch, and not to the extractor's window
    """

    true_length: bool = False

    def longest_audio_s(self, family: Family) -> float:
        """Duration of the full windows within ``max_audio_len`` of the processor, in seconds."""
        window_s = int(family.processor.feature_extractor.chunk_length)
        return float(family.processor.max_audio_len // window_s * window_s)

    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Spectrograms in windows.

        Returns:
            ``audio_features`` (A, W, mel bins, frames) and ``audio_frames`` (A, W): mel frames of each window that are
            not padding
        """
        size = int(family.processor.feature_extractor.n_samples)
        pieces = [
            [replace(wave, samples=wave.samples[at : at + size]) for at in range(0, max(1, len(wave.samples)), size)]
            for wave in waveforms
        ]
        windows = [piece for of_one in pieces for piece in of_one]
        padded = padded_samples(family, windows) if self.true_length and not family.full_window else None
        features, frames = log_mel(family, windows, padded)
        counts = [len(of_one) for of_one in pieces]
        return {
            "audio_features": pad_sequence(list(torch.split(features, counts)), batch_first=True),
            "audio_frames": pad_sequence(list(torch.split(frames, counts)), batch_first=True),
        }


def padded_samples(base: PretrainedModel, waveforms: Sequence[Waveform]) -> int:
    """Length of the longest waveform with the silence that the last analysis window reaches into, in samples."""
    extractor = base.processor.feature_extractor
    hop = int(extractor.hop_length)
    longest = max(len(waveform.samples) for waveform in waveforms) + int(extractor.n_fft)
    return min(-(-longest // hop) * hop, int(extractor.n_samples))


def log_mel(base: PretrainedModel, waveforms: Sequence[Waveform], samples: int | None = None) -> tuple[Tensor, Tensor]:
    """Spectrograms by a Whisper-like feature extractor.

    Args:
        base: has the processor
        waveforms: A of them
        samples: length of all after padding; None for the extractor's full window

    Returns:
        (A, mel bins, frames), and the number of frames of each that are not padding (A,)
    """
    batch = base.processor.feature_extractor(
        [waveform.samples for waveform in waveforms],
        sampling_rate=base.sampling_rate,
        padding="max_length",
        max_length=samples,
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return batch["input_features"], batch["attention_mask"].sum(-1)


def halved_and_pooled(frames: Tensor) -> Tensor:
    """Number of mel frames, halved by a strided convolution and again by pooling.

    Example:
        >>> import torch
        >>> halved_and_pooled(torch.tensor([0, 3, 4, 100, 3000]))
        tensor([  0,   1,   1,  25, 750])
    """
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def halved_thrice(frames: Tensor, chunk: int) -> Tensor:
    """Number of mel frames after three strided convolutions over chunks, of which only the last may be shorter.

    Example:
        >>> import torch
        >>> halved_thrice(torch.tensor([0, 1, 99, 100, 150]), 100)
        tensor([ 0,  1, 13, 13, 20])
    """
    rest, full = frames % chunk, torch.full_like(frames, chunk)
    for _ in range(3):
        rest, full = (rest - 1) // 2 + 1, (full - 1) // 2 + 1
    return rest + frames // chunk * full


def frame_mask(lengths: Tensor, width: int) -> Tensor:
    """True for frames that are not padding, (..., width), from the lengths (...)."""
    return torch.arange(width, device=lengths.device) < lengths[..., None]
