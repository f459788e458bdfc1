"""Shared parts of NVIDIA's Flamingo families: special tokens, training data, and tiny configs."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from lalm_mer.models.families.parts.tiny_shape import TinyShape, language_sizes, tower_sizes

__all__ = ["FILLER", "SPECIAL", "TRAINED_ON", "tiny_configs"]

FILLER = "<|endoftext|>"
SPECIAL = (FILLER, "<|im_start|>", "<|im_end|>", "<sound>")
TRAINED_ON = {
    corpus: f"{listed} is in the training mixture that its authors publish (llava/data/registry/mixtures.yaml of "
    "github.com/NVIDIA/audio-flamingo)"
    for corpus, listed in {
        "iemocap": "IEMOCAP-EmotionClassification",
        "msp_podcast": "MSP-PODCAST-Publish-1.9-EmotionClassification",
        "crema_d": "CREMA-D-EmotionClassification",
        "ravdess": "ravdess-EmotionClassification",
        "meld": "MELD-EmotionClassification",
    }.items()
}
"""Corpora of Audio Flamingo 3; the mixture does not name CMU-MOSEI and EMO-DB."""


def tiny_configs(shape: TinyShape, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Settings of a tiny model: a tower of 128 mel bands and a Qwen2 of the same width."""
    return {
        "audio_config": tower_sizes(
            shape, model_type="audioflamingo3_encoder", max_source_positions=shape.window_s * 50
        ),
        "text_config": language_sizes(shape, tokenizer),
        "audio_token_id": tokenizer.convert_tokens_to_ids("<sound>"),
        "initializer_range": shape.initializer_range,
    }
