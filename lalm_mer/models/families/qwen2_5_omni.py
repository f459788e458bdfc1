"""Qwen2.5-Omni (Xu et al. 2025): its thinker, a Whisper-like tower in chunks, a linear projector, Qwen2.5 behind it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from lalm_mer.models.families.omni import AudioOnlyProcessor, OmniFamily, chat_template
from lalm_mer.models.families.tiny_shape import TinyShape, byte_level_bpe

__all__ = ["Qwen25Omni"]

_FILLER = "<|endoftext|>"
_SPECIAL = (_FILLER, "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
_PICTURES = ("<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>")


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
        """A tower of 128 mel bands in chunks of one second over a Qwen2.5 of the same width; eyes are there, unused."""
        tokenizer = byte_level_bpe(shape, [*_SPECIAL, *_PICTURES], eos=cls.stop_token, pad=_FILLER)
        tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
        extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s)
        processor = _Processor(
            extractor,
            tokenizer,
            chat_template=chat_template("<|audio_bos|><|AUDIO|><|audio_eos|>", "You are a helpful assistant."),
        )
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*_SPECIAL, *_PICTURES)}
        head = shape.hidden_size // shape.heads
        config = Qwen2_5OmniThinkerConfig(
            audio_config={
                "num_mel_bins": 128,
                "encoder_layers": shape.layers,
                "encoder_attention_heads": shape.heads,
                "encoder_ffn_dim": 4 * shape.hidden_size,
                "d_model": shape.hidden_size,
                "n_window": 50,
                "output_dim": shape.hidden_size,
                "initializer_range": shape.initializer_range,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": shape.hidden_size,
            },
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": shape.hidden_size,
                "intermediate_size": 4 * shape.hidden_size,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.heads // 2,
                "initializer_range": shape.initializer_range,
                "eos_token_id": ids[cls.stop_token],
                "pad_token_id": ids[_FILLER],
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
                },
            },
            audio_token_index=ids["<|AUDIO|>"],
            image_token_index=ids["<|IMAGE|>"],
            video_token_index=ids["<|VIDEO|>"],
            audio_start_token_id=ids["<|audio_bos|>"],
            audio_end_token_id=ids["<|audio_eos|>"],
            vision_start_token_id=ids["<|vision_bos|>"],
            vision_end_token_id=ids["<|vision_eos|>"],
            initializer_range=shape.initializer_range,
        )
        config.randomly_initialised = True
        Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(folder)
        processor.save_pretrained(folder)

    def tokens_of(self, frames: Tensor) -> Tensor:
        """Mel frames, halved by a strided convolution and again by pooling."""
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1
