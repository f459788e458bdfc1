"""Qwen2.5-Omni (Xu et al. 2025): its thinker, a Whisper-like tower in chunks, a linear projector, Qwen2.5."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS
from lalm_mer.models.families.parts.log_mel import PaddedToLongest, halved_and_pooled
from lalm_mer.models.families.parts.omni import OmniDecoder, OmniEncoder, save_tiny_thinker
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


class Qwen25Omni(Family):
    """The thinker of Qwen2.5-Omni on transformers' own classes, extracted from the published model.

    Talker and codec are not loaded, the parts for images are not used. The projector is the tower's last linear layer.
    """

    name = "qwen2_5_omni"
    model_class = Qwen2_5OmniThinkerForConditionalGeneration
    processor_class = _Processor
    published = ("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B")
    licence = "Apache-2.0 (7B); Qwen Research License, not for commercial use (3B)"
    contamination = {
        "meld": "Its authors report its figure on MELD (README of github.com/QwenLM/Qwen2.5-Omni) and do not name the "
        "corpora it was trained on, so that neither this one nor another public one can be ruled out.",
    }
    stop_token = "<|im_end|>"
    audio_token = "<|AUDIO|>"
    towers = {**USUAL_TOWERS, "projector": "model.audio_tower.proj"}
    other_linear_modules = ("model.visual",)
    front_end = PaddedToLongest(halved_and_pooled)
    encoder = OmniEncoder(halved_and_pooled)
    decoder = OmniDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("proj",)}
    fsdp_layers = ("Qwen2_5OmniAudioEncoderLayer", "Qwen2_5OmniVisionBlock", "Qwen2_5OmniDecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower with chunks of one second and a Qwen2.5 of the same width."""
        parts = {"audio_config": {"n_window": 50}, "vision_config": {}, "text_config": {}, "rope_parameters": {}}
        save_tiny_thinker(cls, folder, shape, _TOKENS, parts)
