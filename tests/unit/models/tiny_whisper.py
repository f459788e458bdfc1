"""A tiny Whisper with random weights, whose tokens are words."""

import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

WORDS = (
    "kids",
    "are",
    "talking",
    "by",
    "the",
    "door",
    "dogs",
    "sitting",
    "it",
    "is",
    "eleven",
    "would",
    "like",
    "clock",
)
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
           "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip
WINDOW_S = 2


def build_tiny_whisper(folder, *, multilingual=True, layers=2):
    """A Whisper of two layers, window 2 s, whose tokens are words; saved with its processor."""
    vocabulary = {f"\u0120{word}": number for number, word in enumerate(sorted(WORDS))}
    end = SPECIAL[0]
    tokenizer = WhisperTokenizer(vocabulary, merges=[], extra_special_tokens=list(SPECIAL[1:]), pad_token=end)
    timestamps = [f"<|{number * 0.02:.2f}|>" for number in range(WINDOW_S * 50 + 1)]
    tokenizer.add_tokens(timestamps)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL, *timestamps)}
    ends = {f"{name}_token_id": ids[end] for name in ("pad", "bos", "eos")}
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=16, d_model=32, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=WINDOW_S * 50, max_target_positions=48, init_std=0.6,  # wide enough for words to differ
        decoder_start_token_id=ids["<|startoftranscript|>"], begin_suppress_tokens=None, **ends,
    )  # fmt: skip
    languages = {"lang_to_id": {token: ids[token] for token in ("<|en|>", "<|de|>")}}
    tasks = {"task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"], no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=16, max_initial_timestamp_index=1, suppress_tokens=[ids[token] for token in SPECIAL[1:]],
        begin_suppress_tokens=[ids[end], *(ids[token] for token in timestamps)], is_multilingual=multilingual,
        **(languages | tasks if multilingual else {}), **ends,
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=WINDOW_S), tokenizer).save_pretrained(folder)
