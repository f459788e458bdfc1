"""Qwen2-Audio (Chu et al. 2024): a Whisper-like tower, a linear projector, Qwen2 as language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import PaddedToLongest, halved_and_pooled
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes, whisper_sizes
from lalm_mer.models.families.parts.whisper import PooledWhisper

__all__ = ["Qwen2Audio"]


class Qwen2Audio(Family):
    """Qwen2-Audio on transformers' own classes."""

    name = "qwen2_audio"
    model_class = Qwen2AudioForConditionalGeneration
    published: ClassVar[Sequence[str]] = ("Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2-Audio-7B")
    licence = "Apache-2.0"
    contamination = {
        "meld": "Its authors report its figure on MELD (Chu et al. 2024, arXiv:2407.10759) and do not name the corpora "
        "it was trained on, so that neither this one nor another public one can be ruled out.",
    }
    stop_token = "<|im_end|>"
    audio_token = "<|AUDIO|>"
    towers = USUAL_TOWERS
    takes_full_window = True
    front_end = PaddedToLongest(halved_and_pooled)
    encoder = PooledWhisper()
    decoder = InPlaceDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("linear",)}
    fsdp_layers = ("Qwen2AudioEncoderLayer", "Qwen2DecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A Whisper-like tower of 64 mel bands over a Qwen2 of the same width."""
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<|endoftext|>")
        extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=shape.window_s)
        processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=load_template(cls.name))
        config = Qwen2AudioConfig(
            audio_config=whisper_sizes(shape, num_mel_bins=64, max_source_positions=shape.window_s * 50),
            text_config=language_sizes(shape, tokenizer),
            audio_token_index=tokenizer.convert_tokens_to_ids(cls.audio_token),
            initializer_range=shape.initializer_range,
        )
        cls.save_tiny(folder, config, processor)
