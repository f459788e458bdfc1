"""Audio Flamingo 3 (Goel et al. 2025): a Whisper-like tower with pooling, a two-layer projector, Qwen2.5 behind it."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    WhisperFeatureExtractor,
)

from lalm_mer.models.families.parts.flamingo import SPECIAL, TRAINED_ON, FlamingoFamily, chat_template, tiny_configs
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe

__all__ = ["AudioFlamingo3"]


class AudioFlamingo3(FlamingoFamily):
    """Audio Flamingo 3 on transformers' own classes; published as nvidia/audio-flamingo-3-hf, for research alone.

    Takes 20 windows of 30 s as published.
    """

    name = "audioflamingo3"
    model_class = AudioFlamingo3ForConditionalGeneration
    published = ("nvidia/audio-flamingo-3-hf",)
    licence = "NVIDIA OneWay Noncommercial License"
    contamination = {corpus: f"{said}." for corpus, said in TRAINED_ON.items()}  # noqa: RUF012 constant

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands over a Qwen2 of the same width; audio of one window."""
        tokenizer = byte_level_bpe(shape, SPECIAL, eos=cls.stop_token, pad=SPECIAL[0])
        processor = AudioFlamingo3Processor(
            WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s, return_attention_mask=True),
            tokenizer,
            chat_template=chat_template("You are a helpful assistant."),
            audio_token=cls.audio_token,
            max_audio_len=shape.window_s,
        )
        config = AudioFlamingo3Config(**tiny_configs(shape, tokenizer))
        cls.save_tiny(folder, config, processor)
