"""Whisper-like towers: one window at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask

from lalm_mer.models.families.base import AudioEncoder, Family, TowerOutput
from lalm_mer.models.families.parts.log_mel import frame_mask, halved_and_pooled
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape

__all__ = ["PooledWhisper", "WindowByWindow", "one_window_processor", "pooled_states", "transformer_states"]


class PooledWhisper(AudioEncoder):
    """Qwen2-Audio's tower: convolutions, transformer and pooling; padding is masked as in the model's own forward."""

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, mel bins, frames) and (A,)."""
        tower: Any = family.submodule("audio_tower")
        if family.full_window:
            states = tower(audio_features, attention_mask=_attention_mask(tower, audio_features, audio_frames))
            states = states.last_hidden_state
        else:
            states = pooled_states(tower, audio_features, audio_frames)
        return TowerOutput(states, halved_and_pooled(audio_frames))


def pooled_states(tower: Any, features: Tensor, frames: Tensor) -> Tensor:  # noqa: ANN401 each family's own class
    """Output (N, F, D) of a tower of convolutions, transformer and pooling, over fewer frames than its window.

    Args:
        tower: the audio tower
        features: (N, mel bins, frames), with two frames of padding after the longest audio, or the full window
        frames: (N,), mel frames of each that are not padding
    """
    states, _ = transformer_states(tower, features, frames)
    normed: Tensor = tower.layer_norm(tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1))
    return normed


def transformer_states(
    tower: Any,  # noqa: ANN401 each family's own class
    features: Tensor,
    frames: Tensor,
) -> tuple[Tensor, Tensor]:
    """States (N, F, D) after the layers of a Whisper-like tower, and a mask (N, F), true for frames of audio.

    The steps are those of the tower's own forward, which requires or assumes the full window::

        frames of audio    | a a a a a a a | s s | . . . . . . . . . . . . . . . . . |
                           '-- true length --'
                           '-------------- window of 3000 frames --------------------'

    The last frame of audio depends on two frames of silence (s), the reach of both convolutions. The other frames of
    the window (.) are masked in the attention, so that leaving them out changes no output of a frame of audio, except
    for rounding.

    Args:
        tower: the audio tower
        features: as of ``pooled_states``
        frames: as of ``pooled_states``
    """
    mask = _attention_mask(tower, features, frames)
    states = nn.functional.gelu(tower.conv1(features.to(tower.conv1.weight.dtype)))
    states = nn.functional.gelu(tower.conv2(states)).permute(0, 2, 1)
    states = states + tower.embed_positions(torch.arange(states.shape[1], device=states.device))
    states = nn.functional.dropout(states, p=tower.dropout, training=tower.training)
    for layer in tower.layers:
        if not (tower.training and tower.layerdrop > 0 and torch.rand([]) < tower.layerdrop):
            states = layer(states, mask)
    return states, _audio_mask(features, frames)


def _audio_mask(features: Tensor, frames: Tensor) -> Tensor:
    """True for the frames of audio after the convolution of stride two, (N, F)."""
    return frame_mask((frames - 1) // 2 + 1, (features.shape[-1] - 1) // 2 + 1)


def _attention_mask(tower: Any, features: Tensor, frames: Tensor) -> Tensor | None:  # noqa: ANN401
    """Mask of the transformer: padding is no key."""
    of_audio = _audio_mask(features, frames)
    mask: Tensor | None = create_bidirectional_mask(
        config=tower.config,
        inputs_embeds=features.new_zeros((*of_audio.shape, 1), dtype=tower.dtype),
        attention_mask=of_audio.long(),
    )
    return mask


@dataclass(frozen=True)
class WindowByWindow(AudioEncoder):
    """A tower that takes one window at a time; the windows of an utterance are concatenated without padding.

    Args:
        tokens_of: number of mel frames -> number of placeholders
    """

    tokens_of: Callable[[Tensor], Tensor]

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, W, mel bins, frames) and (A, W)."""
        used = audio_frames > 0
        frames = audio_frames[used]
        lengths = self.tokens_of(frames).clamp(min=0)
        of_window = torch.zeros_like(audio_frames).masked_scatter(used, lengths)
        states = self.window_states(family, audio_features[used], frames, used)
        totals = of_window.sum(dim=1)
        of_utterance = torch.split(states[frame_mask(lengths, states.shape[1])], totals.tolist())
        return TowerOutput(pad_sequence(list(of_utterance), batch_first=True), totals)

    def window_states(self, family: Family, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """Output for N windows, (N, F, D), padding included; by default that of a tower with pooling and a mask.

        Args:
            family: the model
            features: (N, mel bins, frames), utterance by utterance
            frames: (N,), mel frames of each that are not padding
            used: (A, W), true for those N windows
        """
        tower: Any = family.submodule("audio_tower")
        if not family.full_window:
            return pooled_states(tower, features, frames)
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
