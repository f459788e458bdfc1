"""Whisper-like towers: one window at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask

from lalm_mer.models.families.base import AudioEncoder, Family, TowerOutput
from lalm_mer.models.families.parts.log_mel import frame_mask, halved_and_pooled
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape

__all__ = ["PooledWhisper", "WindowByWindow", "one_window_processor"]


class PooledWhisper(AudioEncoder):
    """Qwen2-Audio's tower: convolutions, transformer and pooling; padding is masked as in the model's own forward."""

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, mel bins, window frames) and (A,)."""
        tower: Any = family.submodule("audio_tower")
        positions = (audio_features.shape[-1] - 1) // 2 + 1
        mask = create_bidirectional_mask(
            config=tower.config,
            inputs_embeds=audio_features.new_zeros((len(audio_features), positions, 1), dtype=tower.dtype),
            attention_mask=frame_mask((audio_frames - 1) // 2 + 1, positions).long(),
        )
        states = tower(audio_features, attention_mask=mask).last_hidden_state
        return TowerOutput(states, halved_and_pooled(audio_frames))


@dataclass(frozen=True)
class WindowByWindow(AudioEncoder):
    """A tower that takes one window at a time; the windows of an utterance are concatenated without padding.

    Args:
        tokens_of: number of mel frames -> number of placeholders
    """

    tokens_of: Callable[[Tensor], Tensor]

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, W, mel bins, window frames) and (A, W)."""
        used = audio_frames > 0
        frames = audio_frames[used]
        lengths = self.tokens_of(frames).clamp(min=0)
        of_window = torch.zeros_like(audio_frames).masked_scatter(used, lengths)
        states = self.window_states(family, audio_features[used], frames, used)
        totals = of_window.sum(dim=1)
        of_utterance = torch.split(states[frame_mask(lengths, states.shape[1])], totals.tolist())
        return TowerOutput(pad_sequence(list(of_utterance), batch_first=True), totals)

    def window_states(self, family: Family, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """Output for N windows, (N, F, D), padding included; by default that of a tower which takes a mask.

        Args:
            family: the model
            features: (N, mel bins, window frames), utterance by utterance
            frames: (N,), mel frames of each that are not padding
            used: (A, W), true for those N windows
        """
        tower: Any = family.submodule("audio_tower")
        mask = frame_mask(frames, features.shape[-1])
        states: Tensor = tower(features.to(tower.dtype), input_features_mask=mask).last_hidden_state
        return states


def one_window_processor(family: type[Family], shape: TinyShape, tokenizer: PreTrainedTokenizerFast) -> Any:  # noqa: ANN401 each family's own class
    """A tiny model's processor of 128 mel bands that takes audio of one window."""
    return family.processor_class(
        WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s, return_attention_mask=True),
        tokenizer,
        chat_template=load_template(family.name),
        audio_token=family.audio_token,
        max_audio_len=shape.window_s,
    )
