"""Qwen2.5-Omni (Xu et al. 2025): its thinker, a Whisper-like tower in chunks, a linear projector, Qwen2.5 behind it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor
from lalm_mer.models.families.parts.omni import OmniFamily, chat_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape

__all__ = ["Qwen25Omni"]

_TOKENS = {
    "audio_token_index": "<|AUDIO|>",
    "audio_start_token_id": "<|audio_bos|>",
    "audio_end_token_id": "<|audio_eos|>",
    "image_token_index": "<|IMAGE|>",
    "video_token_index": "<|VIDEO|>",
    "vision_start_token_id": "<|vision_bos|>",
    "vision_end_token_id": "<|vision_eos|>",
}


class _Processor(AudioOnlyProcessor, Qwen2_5OmniProcessor):  # type: ignore[misc]
    audio_token = "<|AUDIO|>"


class Qwen25Omni(OmniFamily):
    """The thinker of Qwen2.5-Omni on transformers' own classes, taken out of the published whole model."""

    name = "qwen2_5_omni"
    audio_token = "<|AUDIO|>"
    towers = {  # noqa: RUF012 constant
        "audio_tower": "model.audio_tower",
        "projector": "model.audio_tower.proj",
        "language_model": "model.language_model",
    }

    model_class = Qwen2_5OmniThinkerForConditionalGeneration
    processor_class = _Processor
    published = ("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B")
    licence = "Apache-2.0 (7B); Qwen Research License, not for commercial use (3B)"
    contamination = {  # noqa: RUF012 constant
        "meld": "Its authors report its figure on MELD (README of github.com/QwenLM/Qwen2.5-Omni) and do not name the "
        "corpora it was trained on, so that neither this one nor another public one can be ruled out.",
    }

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower in chunks of one second over a Qwen2.5 of the same width."""
        template = chat_template("<|audio_bos|><|AUDIO|><|audio_eos|>", "You are a helpful assistant.")
        parts = {"audio_config": {"n_window": 50}, "vision_config": {}, "text_config": {}, "rope_parameters": {}}
        cls.save_tiny_thinker(folder, shape, template, _TOKENS, parts)

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Mel frames, halved by a strided convolution and again by pooling."""
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1
