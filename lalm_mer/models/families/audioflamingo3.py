"""Audio Flamingo 3 (Goel et al. 2025): a Whisper-like tower with pooling, a two-layer projector, Qwen2.5."""

from __future__ import annotations

from pathlib import Path

from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Processor

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.flamingo import FILLER, SPECIAL, TRAINED_ON, tiny_configs
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import SeveralWindows, halved_and_pooled
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe
from lalm_mer.models.families.parts.whisper import WindowByWindow, one_window_processor

__all__ = ["AudioFlamingo3"]


class AudioFlamingo3(Family):
    """Audio Flamingo 3 on transformers' own classes; takes 20 windows of 30 s as published, for research only."""

    name = "audioflamingo3"
    model_class = AudioFlamingo3ForConditionalGeneration
    processor_class = AudioFlamingo3Processor
    published = ("nvidia/audio-flamingo-3-hf",)
    licence = "NVIDIA OneWay Noncommercial License"
    contamination = {corpus: f"{listed}." for corpus, listed in TRAINED_ON.items()}
    stop_token = "<|im_end|>"
    audio_token = "<sound>"
    single_turn_reason = "its processor takes one waveform a conversation"
    towers = USUAL_TOWERS
    takes_full_window = True
    front_end = SeveralWindows(halved_and_pooled, true_length=True)
    encoder = WindowByWindow(halved_and_pooled)
    decoder = InPlaceDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("linear_1", "linear_2")}
    fsdp_layers = ("AudioFlamingo3EncoderLayer", "Qwen2DecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands and a Qwen2 of the same width; audio of one window."""
        tokenizer = byte_level_bpe(shape, SPECIAL, eos=cls.stop_token, pad=FILLER)
        config = AudioFlamingo3Config(**tiny_configs(shape, tokenizer))
        cls.save_tiny(folder, config, one_window_processor(cls, shape, tokenizer))
