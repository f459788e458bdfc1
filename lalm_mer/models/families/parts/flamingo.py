"""What NVIDIA's Flamingo families share: a pooled Whisper-like tower, ChatML turns, and what they were trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AudioFlamingo3EncoderConfig, PreTrainedTokenizerFast, Qwen2Config

from lalm_mer.models.families.parts.tiny_shape import TinyShape, language_sizes
from lalm_mer.models.families.parts.windows import WindowedFamily

__all__ = ["SPECIAL", "TRAINED_ON", "FlamingoFamily", "chat_template", "tiny_configs"]

_FILLER = "<|endoftext|>"
SPECIAL = (_FILLER, "<|im_start|>", "<|im_end|>", "<sound>")
TRAINED_ON = {
    corpus: f"{said} is in the training mixture that its authors publish (llava/data/registry/mixtures.yaml of "
    "github.com/NVIDIA/audio-flamingo)"
    for corpus, said in {
        "iemocap": "IEMOCAP-EmotionClassification",
        "msp_podcast": "MSP-PODCAST-Publish-1.9-EmotionClassification",
        "crema_d": "CREMA-D-EmotionClassification",
        "ravdess": "ravdess-EmotionClassification",
        "meld": "MELD-EmotionClassification",
    }.items()
}
"""Of Audio Flamingo 3. CMU-MOSEI and EMO-DB are not named there."""


class FlamingoFamily(WindowedFamily):
    """Audio Flamingo 3 and what was made from it."""

    stop_token = "<|im_end|>"
    audio_token = "<sound>"
    one_turn = "its processor takes one waveform a conversation"

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Mel frames, halved by a strided convolution and again by pooling."""
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1

    def encode_windows(self, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """Convolutions, transformer and pooling; the tower masks the padding itself."""
        tower: Any = self.submodule("audio_tower")
        inside = torch.arange(features.shape[-1], device=frames.device)[None, :] < frames[:, None]
        states: Tensor = tower(features.to(tower.dtype), input_features_mask=inside).last_hidden_state
        return states


def chat_template(system: str) -> str:
    """Turns as published: the sound stands before all words of its turn, and a turn has one at most.

    Args:
        system: what stands in the first turn where the conversation begins without one of its own
    """
    return (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}"
        "{% endif %}"
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% set said = namespace(audio='', words='') %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'audio' %}{% set said.audio = '<sound>' %}"
        "{% else %}{% set said.words = said.words + part['text'] %}{% endif %}"
        "{% endfor %}"
        "{{ said.audio + said.words }}"
        "{% endif %}"
        "{{ '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def tiny_configs(shape: TinyShape, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Sizes of a tiny model of either: a tower of 128 mel bands under a Qwen2 of the same width."""
    tower = AudioFlamingo3EncoderConfig(
        num_mel_bins=128,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden_size,
        hidden_size=shape.hidden_size,
        initializer_range=shape.initializer_range,
        max_source_positions=shape.window_s * 50,
    )
    language_model = Qwen2Config(
        **language_sizes(shape, len(tokenizer)),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {
        "audio_config": tower.to_dict(),
        "text_config": language_model.to_dict(),
        "audio_token_id": tokenizer.convert_tokens_to_ids("<sound>"),
        "initializer_range": shape.initializer_range,
    }
