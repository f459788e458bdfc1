"""Sizes and tokenizers of tiny models, without a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["TinyShape", "byte_level_bpe", "encoder_bpe", "language_sizes", "tower_sizes", "whisper_sizes"]


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a randomly initialised model.

    Args:
        words: lines on which the tokenizer is trained
        window_s: the audio tower's window, in seconds
        hidden_size: width of tower and language model
        layers: layers of each
        vocabulary: maximal number of tokens
        initializer_range: standard deviation of the weights
    """

    words: Sequence[str]
    window_s: int
    hidden_size: int = 128
    layers: int = 2
    vocabulary: int = 600
    initializer_range: float = 0.02

    @property
    def heads(self) -> int:
        """Attention heads, each of width 32 if the model is wide enough."""
        return max(2, self.hidden_size // 32)


def _byte_level_backend(shape: TinyShape, special: Sequence[str]) -> Tokenizer:
    """Byte-level BPE, which can encode any string, with special tokens at the first ids."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sorted(shape.words), trainer)
    return backend


def byte_level_bpe(shape: TinyShape, special: Sequence[str], *, eos: str, pad: str) -> PreTrainedTokenizerFast:
    """A tokenizer that can encode any string.

    Args:
        shape: words and size
        special: tokens that only a chat template writes, including the end and padding tokens
        eos: token that ends a turn
        pad: padding token
    """
    others = [token for token in special if token not in (eos, pad)]
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_backend(shape, special),
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=[*others, eos],
    )


def encoder_bpe(shape: TinyShape) -> PreTrainedTokenizerFast:
    """A tokenizer of a text encoder, with the ids of RoBERTa's special tokens."""
    backend = _byte_level_backend(shape, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def language_sizes(shape: TinyShape, tokenizer: PreTrainedTokenizerFast, **own: Any) -> dict[str, Any]:  # noqa: ANN401 any setting
    """Settings of a tiny language model, under the names in nearly all configs of transformers.

    Args:
        shape: its sizes
        tokenizer: its vocabulary, end and padding tokens
        own: further or different settings of an architecture
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden_size,
        "intermediate_size": 4 * shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads // 2,
        "initializer_range": shape.initializer_range,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **own,
    }


def tower_sizes(shape: TinyShape, **own: Any) -> dict[str, Any]:  # noqa: ANN401 any setting
    """Settings of a tiny audio tower of 128 mel bands, under the names in transformers' newer configs; and ``own``."""
    return {
        "num_mel_bins": 128,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.hidden_size,
        "hidden_size": shape.hidden_size,
        "initializer_range": shape.initializer_range,
        **own,
    }


def whisper_sizes(shape: TinyShape, **own: Any) -> dict[str, Any]:  # noqa: ANN401 any setting
    """Settings of a tiny audio tower, under the names in Whisper's config; and ``own``."""
    return {
        "encoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": 4 * shape.hidden_size,
        "d_model": shape.hidden_size,
        **own,
    }
