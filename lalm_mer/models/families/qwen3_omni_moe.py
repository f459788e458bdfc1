"""Qwen3-Omni (Xu et al. 2025): its thinker, a tower over chunks, a projector, a mixture of experts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen3OmniMoeProcessor, Qwen3OmniMoeThinkerForConditionalGeneration

from lalm_mer.models.families.base import Family, TowerOutput
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor
from lalm_mer.models.families.parts.in_place import USUAL_TOWERS
from lalm_mer.models.families.parts.log_mel import PaddedToLongest, halved_thrice
from lalm_mer.models.families.parts.omni import OmniDecoder, OmniEncoder, save_tiny_thinker
from lalm_mer.models.families.parts.tiny_shape import TinyShape

__all__ = ["Qwen3OmniMoe"]

_TOKENS = {
    "audio_token_id": "<|audio_pad|>",
    "audio_start_token_id": "<|audio_start|>",
    "audio_end_token_id": "<|audio_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_CHUNK = 100
"""Mel frames, 1 s, that the tower's convolutions take at once; 13 placeholders"""
_tokens_of = partial(halved_thrice, chunk=_CHUNK)


class _Processor(AudioOnlyProcessor, Qwen3OmniMoeProcessor):  # type: ignore[misc]
    audio_token = "<|audio_pad|>"


class _ChunkEncoder(OmniEncoder):
    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output, encoded together with a full chunk of silence, whose output is dropped.

        The tower pads all chunks to the longest, and its convolutions and attention windows include that padding: the
        output of a clip shorter than a chunk would depend on the batch.
        """
        missing = max(0, _CHUNK - audio_features.shape[-1])
        features = torch.nn.functional.pad(audio_features, (0, missing, 0, 0, 0, 1))
        frames = torch.cat([audio_frames, audio_frames.new_tensor([_CHUNK])])
        output = super().encode(family, features, frames)
        return TowerOutput(output.states[:-1, : max(1, int(output.lengths[:-1].max()))], output.lengths[:-1])


class Qwen3OmniMoe(Family):
    """The thinker of Qwen3-Omni on transformers' own classes, extracted from the published model.

    Talker and codec are not loaded, the parts for images are not used. The projector is the second of the two
    layers after the tower's transformer. The experts are no linear layers, so LoRA is only added to attention.
    """

    name = "qwen3_omni_moe"
    model_class = Qwen3OmniMoeThinkerForConditionalGeneration
    processor_class = _Processor
    published = ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "Qwen/Qwen3-Omni-30B-A3B-Captioner")
    licence = "Apache-2.0"
    contamination = {}
    stop_token = "<|im_end|>"
    audio_token = "<|audio_pad|>"
    towers = {**USUAL_TOWERS, "projector": "model.audio_tower.proj2"}
    other_linear_modules = ("model.visual",)
    front_end = PaddedToLongest(_tokens_of)
    encoder = _ChunkEncoder(_tokens_of)
    decoder = OmniDecoder()
    adapter_targets = {"language_model": ("q_proj", "k_proj", "v_proj", "o_proj"), "projector": ("proj2",)}
    fsdp_layers = (
        "Qwen3OmniMoeAudioEncoderLayer",
        "Qwen3OmniMoeVisionBlock",
        "Qwen3OmniMoeThinkerTextDecoderLayer",
    )

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower with chunks of one second and four experts."""
        parts = {
            "audio_config": {"downsample_hidden_size": 8, "n_window": _CHUNK // 2, "n_window_infer": _CHUNK},
            "vision_config": {"num_position_embeddings": 4, "deepstack_visual_indexes": []},
            "text_config": {"moe_intermediate_size": shape.hidden_size, "num_experts": 4, "num_experts_per_tok": 2},
            "rope_parameters": {"mrope_interleaved": True},
        }
        save_tiny_thinker(cls, folder, shape, _TOKENS, parts)
