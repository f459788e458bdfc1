"""GLM-ASR (Z.ai 2025): a Whisper-like tower with rotary positions, a projector that joins four frames, Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    GlmAsrConfig,
    GlmAsrEncoderConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    LlamaConfig,
    WhisperFeatureExtractor,
)

from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes
from lalm_mer.models.families.parts.windows import WindowedFamily

__all__ = ["GlmAsr"]

_FILLER = "<|endoftext|>"
_JOINED = 4
"""Frames of the tower that the projector takes as one."""
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% set said = namespace(words='') %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}"
    "{% set said.words = said.words + '<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\\n' %}"
    "{% else %}{% set said.words = said.words + part['text'] %}{% endif %}"
    "{% endfor %}"
    "{{ said.words | trim }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""As published: the audio is a turn of its own, and the words that follow it begin another of the user's."""


class GlmAsr(WindowedFamily):
    """GLM-ASR on transformers' own classes; published as zai-org/GLM-ASR-Nano-2512 (1.5 billion parameters).

    It was made to transcribe: fine-tune it before you ask it for emotions. A turn ends where the next one begins, so
    the stop token is that of a user's turn. The tower sees the silence after the audio, up to the whole window: it
    was published so. Takes 21 windows of 30 s.
    """

    name = "glmasr"
    stop_token = "<|user|>"
    audio_token = "<|pad|>"
    model_class = GlmAsrForConditionalGeneration
    published = ("zai-org/GLM-ASR-Nano-2512",)
    licence = "MIT"
    contamination = {}  # noqa: RUF012 constant
    one_turn = "its processor takes one waveform a conversation"

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands over a Llama of the same width; audio of one window."""
        roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
        special = [_FILLER, *roles, "<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>"]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad=_FILLER)
        processor = GlmAsrProcessor(
            WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s, return_attention_mask=True),
            tokenizer,
            chat_template=_TEMPLATE,
            audio_token=cls.audio_token,
            max_audio_len=shape.window_s,
        )
        config = GlmAsrConfig(
            audio_config=GlmAsrEncoderConfig(
                num_mel_bins=128,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                hidden_size=shape.hidden_size,
                intermediate_size=_JOINED * shape.hidden_size,
                max_position_embeddings=shape.window_s * 50,
                initializer_range=shape.initializer_range,
            ).to_dict(),
            text_config=LlamaConfig(
                **language_sizes(shape, len(tokenizer)),
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ).to_dict(),
            audio_token_id=tokenizer.convert_tokens_to_ids(cls.audio_token),
            initializer_range=shape.initializer_range,
        )
        cls.save_tiny(folder, config, processor)

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Mel frames, halved by a strided convolution and taken four by four."""
        return ((frames - 1) // 2 + 1) // _JOINED

    def encode_windows(self, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """Convolutions and transformer, then four frames side by side, as the projector takes them."""
        tower: Any = self.submodule("audio_tower")
        states: Tensor = tower(features.to(tower.dtype)).last_hidden_state
        whole = states.shape[1] // _JOINED * _JOINED
        return states[:, :whole].reshape(len(states), whole // _JOINED, -1)
