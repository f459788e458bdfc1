"""Music Flamingo (Ghosh et al. 2025): Audio Flamingo 3 whose tower output is rotated by its time in the audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MusicFlamingoConfig, MusicFlamingoForConditionalGeneration, MusicFlamingoProcessor
from transformers.models.musicflamingo.modeling_musicflamingo import apply_rotary_time_emb

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.flamingo import FILLER, SPECIAL, TRAINED_ON, tiny_configs
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import SeveralWindows, halved_and_pooled
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe
from lalm_mer.models.families.parts.whisper import WindowByWindow, one_window_processor

__all__ = ["MusicFlamingo"]

_BEGIN, _END = "<|sound_bos|>", "<|sound_eos|>"


class _RotatedWindows(WindowByWindow):
    def window_states(self, family: Family, features: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """Tower output, rotated by the window's number and by the time within it; the rotation has no weights."""
        states = super().window_states(family, features, frames, used)
        rotary: Any = family.model.get_submodule("model.pos_emb")
        step_s = 4 * float(rotary.config.audio_frame_step)  # the tower quarters the mel frames
        tower: Any = family.submodule("audio_tower")
        size = int(tower.config.max_source_positions) // 2  # of a full window, after pooling
        window = (used.cumsum(dim=1) - 1)[used]
        within_s = torch.arange(size, device=states.device, dtype=torch.float32) * step_s
        cos, sin = (each[:, : states.shape[1]] for each in rotary(window[:, None] * size * step_s + within_s, size))
        rotated: Tensor = apply_rotary_time_emb(states, cos, sin)
        return rotated


class MusicFlamingo(Family):
    """Music Flamingo on transformers' own classes; takes 40 windows of 30 s as published, for research only.

    The older nvidia/music-flamingo-hf has the architecture of Audio Flamingo 3. The system message of the template is
    misspelt as published.
    """

    name = "musicflamingo"
    model_class = MusicFlamingoForConditionalGeneration
    processor_class = MusicFlamingoProcessor
    published = ("nvidia/music-flamingo-2601-hf",)
    licence = "NVIDIA OneWay Noncommercial License"
    contamination = {
        corpus: f"Made from Audio Flamingo 3 (Ghosh et al. 2025, arXiv:2511.10289): {listed}."
        for corpus, listed in TRAINED_ON.items()
    }
    stop_token = "<|im_end|>"
    audio_token = "<sound>"
    audio_marks = (_BEGIN, _END)
    single_turn_reason = "its processor takes one waveform a conversation"
    towers = USUAL_TOWERS
    takes_full_window = True
    front_end = SeveralWindows(halved_and_pooled, true_length=True)
    encoder = _RotatedWindows(halved_and_pooled)
    decoder = InPlaceDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("linear_1", "linear_2")}
    fsdp_layers = ("AudioFlamingo3EncoderLayer", "Qwen2DecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands and a Qwen2 of the same width; audio of one window."""
        tokenizer = byte_level_bpe(shape, [*SPECIAL, _BEGIN, _END], eos=cls.stop_token, pad=FILLER)
        config = MusicFlamingoConfig(
            **tiny_configs(shape, tokenizer),
            audio_bos_token_id=tokenizer.convert_tokens_to_ids(_BEGIN),
            audio_eos_token_id=tokenizer.convert_tokens_to_ids(_END),
            rope_parameters={"rope_type": "default", "rope_theta": 1200.0},
        )
        cls.save_tiny(folder, config, one_window_processor(cls, shape, tokenizer))
