"""Tiny models of the real architectures, with processors, made without a download: random weights, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from lalm_mer.core.errors import ConfigError

__all__ = ["build_tiny"]

_QWEN2_AUDIO_TEMPLATE = (
    "{% set audio = namespace(count=0) %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}"
    "{% set audio.count = audio.count + 1 %}"
    "{{ 'Audio ' ~ audio.count ~ ': <|audio_bos|><|AUDIO|><|audio_eos|>\\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tiny(
    family: str,
    folder: Path,
    *,
    words: Iterable[str],
    window_s: int,
    hidden_size: int = 128,
    layers: int = 2,
    vocabulary: int = 600,
    initializer_range: float = 0.02,
    seed: int = 0,
) -> None:
    """Build a randomly initialised model of a family and save it with its processor, as ``from_pretrained`` expects.

    Args:
        family: name of the family
        folder: where to write
        words: lines on which the byte-level BPE tokenizer is trained
        window_s: the audio tower's window, in whole seconds; the published Qwen2-Audio has 30
        hidden_size: width of tower and language model
        layers: layers of each
        vocabulary: tokens at most
        initializer_range: standard deviation of the weights
        seed: of the weights

    Raises:
        ConfigError: if no tiny model of that family can be built
    """
    builders: dict[str, Callable[..., None]] = {"qwen2_audio": _qwen2_audio}
    if family not in builders:
        raise ConfigError(f"no tiny model of family {family!r}; expected one of {', '.join(builders)}")
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        builders[family](folder, words, window_s, hidden_size, layers, vocabulary, initializer_range)
    finally:
        torch.set_rng_state(state)


def _qwen2_audio(
    folder: Path,
    words: Iterable[str],
    window_s: int,
    hidden_size: int,
    layers: int,
    vocabulary: int,
    initializer_range: float,
) -> None:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer = _byte_level_bpe(words, vocabulary, special)
    extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=window_s)
    processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=_QWEN2_AUDIO_TEMPLATE)
    heads = max(2, hidden_size // 32)
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=64,
            encoder_layers=layers,
            encoder_attention_heads=heads,
            encoder_ffn_dim=4 * hidden_size,
            d_model=hidden_size,
            max_source_positions=window_s * 50,
        ).to_dict(),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            initializer_range=initializer_range,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
            pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        ).to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        initializer_range=initializer_range,
    )
    config.randomly_initialised = True
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def _byte_level_bpe(words: Iterable[str], vocabulary: int, special: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that can write any string: every byte is in its alphabet."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sorted(words), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=special[1:]
    )
