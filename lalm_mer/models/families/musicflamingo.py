"""Music Flamingo (Ghosh et al. 2025): Audio Flamingo 3 whose tower output is rotated by its time in the audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.musicflamingo.modeling_musicflamingo import apply_rotary_time_emb

from lalm_mer.models.families.parts.flamingo import SPECIAL, TRAINED_ON, FlamingoFamily, chat_template, tiny_configs
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe

__all__ = ["MusicFlamingo"]

_BEGIN, _END = "<|sound_bos|>", "<|sound_eos|>"
_SYSTEM = (
    "You are Music Flamingo, a multimodal assistant for language and music. On each turn you receive an audio clip "
    "which contains music and optional text, you will receive at least one or both; use your world knowledge and "
    "reasoning to help the user with any task. Interpret the entirety of the content any input music--regardlenss of "
    "whether the user calls it audio, music, or sound."
)
"""Letter by letter as published, for conversations without a system turn."""


class MusicFlamingo(FlamingoFamily):
    """Music Flamingo on transformers' own classes; published as nvidia/music-flamingo-2601-hf, for research alone.

    Takes 40 windows of 30 s as published. The older nvidia/music-flamingo-hf has the architecture of Audio Flamingo 3.
    """

    name = "musicflamingo"
    model_class = MusicFlamingoForConditionalGeneration
    published = ("nvidia/music-flamingo-2601-hf",)
    licence = "NVIDIA OneWay Noncommercial License"
    contamination = {  # noqa: RUF012 constant
        corpus: f"Made from Audio Flamingo 3 (Ghosh et al. 2025, arXiv:2511.10289): {said}."
        for corpus, said in TRAINED_ON.items()
    }
    audio_marks = (_BEGIN, _END)

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands over a Qwen2 of the same width; audio of one window."""
        tokenizer = byte_level_bpe(shape, [*SPECIAL, _BEGIN, _END], eos=cls.stop_token, pad=SPECIAL[0])
        processor = MusicFlamingoProcessor(
            WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s, return_attention_mask=True),
            tokenizer,
            chat_template=chat_template(_SYSTEM),
            audio_token=cls.audio_token,
            max_audio_len=shape.window_s,
        )
        config = MusicFlamingoConfig(
            **tiny_configs(shape, tokenizer),
            audio_bos_token_id=tokenizer.convert_tokens_to_ids(_BEGIN),
            audio_eos_token_id=tokenizer.convert_tokens_to_ids(_END),
            rope_parameters={"rope_type": "default", "rope_theta": 1200.0},
        )
        cls.save_tiny(folder, config, processor)

    def encode_windows(self, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """The tower, and its output rotated by the window's number and by the time inside it, which learns nothing."""
        states = super().encode_windows(features, frames, used)
        rotary: Any = self.model.get_submodule("model.pos_emb")
        step_s = 4 * float(rotary.config.audio_frame_step)  # the tower quarters the mel frames
        window = (used.cumsum(dim=1) - 1)[used]
        inside_s = torch.arange(states.shape[1], device=states.device, dtype=torch.float32) * step_s
        cos, sin = rotary(window[:, None] * states.shape[1] * step_s + inside_s, seq_len=states.shape[1])
        rotated: Tensor = apply_rotary_time_emb(states, cos, sin)
        return rotated
