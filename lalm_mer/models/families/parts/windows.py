"""Families that cut audio longer than their tower's window, encode the windows one by one and join them again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.parts.in_place import InPlaceFamily

__all__ = ["WindowedFamily"]


class WindowedFamily(InPlaceFamily):
    """A Whisper-like front end, whose processor allows audio of several windows.

    A window is padded to its full length whatever its neighbours are, so that an utterance's features are its own.
    """

    @property
    def longest_audio_s(self) -> float:
        """As many whole windows as ``max_audio_len`` of the processor has room for, in seconds."""
        window_s = int(self.processor.feature_extractor.chunk_length)
        return float(self.processor.max_audio_len // window_s * window_s)

    def audio_token_count(self, samples: int) -> int:
        """Tokens of all mel frames together: a whole window gives a whole number of them."""
        frames = -(-samples // int(self.processor.feature_extractor.hop_length))
        return max(0, int(self.tokens_of(torch.tensor(frames))))

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Log-mel spectrograms in windows.

        Returns:
            ``audio_features`` (A, W, mel bins, window frames) and ``audio_frames`` (A, W): mel frames inside each
            window, 0 in those that an utterance does not reach

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        size = int(self.processor.feature_extractor.n_samples)
        pieces = [
            [replace(wave, samples=wave.samples[at : at + size]) for at in range(0, max(1, len(wave.samples)), size)]
            for wave in waveforms
        ]
        features, frames = self.log_mel([piece for of_one in pieces for piece in of_one])
        counts = [len(of_one) for of_one in pieces]
        return {
            "audio_features": pad_sequence(list(torch.split(features, counts)), batch_first=True),
            "audio_frames": pad_sequence(list(torch.split(frames, counts)), batch_first=True),
        }

    def encode_audio(self, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:  # type: ignore[override]
        """Step one, window by window; the windows of an utterance then stand behind one another without padding."""
        used = audio_frames > 0
        frames = audio_frames[used]
        lengths = self.tokens_of(frames).clamp(min=0)
        of_window = torch.zeros_like(audio_frames).masked_scatter(used, lengths)
        states = self.encode_windows(audio_features[used], frames, used)
        inside = torch.arange(states.shape[1], device=lengths.device)[None, :] < lengths[:, None]
        totals = of_window.sum(dim=1)
        of_utterance = torch.split(states[inside], totals.tolist())
        return TowerOutput(pad_sequence(list(of_utterance), batch_first=True), totals)

    @abstractmethod
    def tokens_of(self, frames: Tensor) -> Tensor:
        """Tokens that mel frames become, of any shape; may be below 1 where frames are few."""

    @abstractmethod
    def encode_windows(self, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """The tower on N windows, (N, F, D), padding included.

        Args:
            features: (N, mel bins, window frames), utterance by utterance
            frames: (N,), mel frames inside each
            used: (A, W), true at those N windows
        """
