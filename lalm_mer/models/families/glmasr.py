"""GLM-ASR (Z.ai 2025): a Whisper-like tower with rotary positions, a projector that joins four frames, Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration, GlmAsrProcessor, LlamaConfig

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import SeveralWindows
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes, tower_sizes
from lalm_mer.models.families.parts.whisper import WindowByWindow, one_window_processor

__all__ = ["GlmAsr"]

_FILLER = "<|endoftext|>"
_JOINED = 4
"""Tower frames that the projector joins"""


def _tokens_of(frames: Tensor) -> Tensor:
    """Mel frames, halved by a strided convolution and joined by four."""
    return ((frames - 1) // 2 + 1) // _JOINED


class _JoinedFrames(WindowByWindow):
    def window_states(self, family: Family, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """Tower output, four frames joined as the projector takes them."""
        tower: Any = family.submodule("audio_tower")
        states: Tensor = tower(features.to(tower.dtype)).last_hidden_state
        rows = states.shape[1] // _JOINED
        return states[:, : rows * _JOINED].reshape(len(states), rows, -1)


class GlmAsr(Family):
    """GLM-ASR on transformers' own classes (1.5 billion parameters); takes 21 windows of 30 s.

    It was trained to transcribe: fine-tune it before you use it for emotions. In its template the audio is a separate
    turn, and the words after it are another user turn. A turn ends where the next one begins, so the stop token is that
    of a user turn. The tower attends to the silence after the audio, up to the full window, as in the published model.
    """

    name = "glmasr"
    model_class = GlmAsrForConditionalGeneration
    processor_class = GlmAsrProcessor
    published = ("zai-org/GLM-ASR-Nano-2512",)
    licence = "MIT"
    contamination = {}
    stop_token = "<|user|>"
    audio_token = "<|pad|>"
    single_turn_reason = "its processor takes one waveform a conversation"
    towers = USUAL_TOWERS
    front_end = SeveralWindows(_tokens_of)
    encoder = _JoinedFrames(_tokens_of)
    decoder = InPlaceDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("linear_1", "linear_2")}
    fsdp_layers = ("GlmAsrEncoderLayer", "LlamaDecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands and a Llama of the same width; audio of one window."""
        roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
        special = [_FILLER, *roles, "<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>"]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad=_FILLER)
        config = GlmAsrConfig(
            audio_config=tower_sizes(shape, max_position_embeddings=shape.window_s * 50),
            text_config=LlamaConfig(**language_sizes(shape, tokenizer)).to_dict(),
            audio_token_id=tokenizer.convert_tokens_to_ids(cls.audio_token),
            initializer_range=shape.initializer_range,
        )
        cls.save_tiny(folder, config, one_window_processor(cls, shape, tokenizer))
