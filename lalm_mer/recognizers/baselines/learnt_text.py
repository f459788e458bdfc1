"""Embeddings of transcripts that are learnt together with the network, and their vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizerFast, PreTrainedTokenizerFast

from lalm_mer.core.errors import CorpusError, ModelError, PredictionError
from lalm_mer.core.strict_json import read_object
from lalm_mer.models.encoders.finetuned_text import FinetunedText, FinetunedTokenizer
from lalm_mer.models.encoders.settings import EmbeddingsSettings, ScratchSettings, TextEncoderSettings
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer

__all__ = [
    "LearntEmbeddings", "ScratchBert", "learnt_embedder", "learnt_size", "learnt_tokenizer", "load_tokenizer",
    "train_tokenizer",
]  # fmt: skip

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class _WordDropout(nn.Module):
    """Replaces ids that are not special by that of the unknown token, in training only.

    Args:
        probability: of each replacement
        tokenizer: has the special tokens
    """

    def __init__(self, probability: float, tokenizer: TranscriptTokenizer) -> None:
        super().__init__()
        self._probability = probability
        self._unknown = int(tokenizer.tokenizer.unk_token_id)
        self._special = [int(token) for token in tokenizer.tokenizer.all_special_ids]

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids (B, T) with some replaced."""
        if not (self.training and self._probability):
            return input_ids
        is_word = ~torch.isin(input_ids, torch.tensor(self._special, device=input_ids.device))
        dropped = torch.rand(input_ids.shape, device=input_ids.device) < self._probability
        return input_ids.masked_fill(is_word & dropped, self._unknown)


class ScratchBert(nn.Module):
    """A randomly initialised BERT encoder for the vocabulary of ``tokenizer``: (B, T) token ids -> (B, T, D)."""

    def __init__(self, settings: ScratchSettings, tokenizer: TranscriptTokenizer) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=len(tokenizer.tokenizer),
            hidden_size=settings.size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=2 * settings.size,
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=settings.dropout,
            max_position_embeddings=settings.max_tokens,
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self._dropout = _WordDropout(settings.word_dropout, tokenizer)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Embed a padded batch; ``mask`` (B, T) is False at padding."""
        input_ids = self._dropout(input_ids)
        return cast(Tensor, self.bert(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state)


class LearntEmbeddings(nn.Module):
    """An embedding for each word or character of ``tokenizer``: (B, T) token ids -> (B, T, D)."""

    def __init__(self, settings: EmbeddingsSettings, tokenizer: TranscriptTokenizer) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(len(tokenizer.tokenizer), settings.size)
        self._dropout = _WordDropout(settings.word_dropout, tokenizer)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Embed a padded batch; ``mask`` (B, T) is False at padding, which is not masked here."""
        return cast(Tensor, self.embeddings(self._dropout(input_ids)))


def learnt_embedder(settings: TextEncoderSettings, tokenizer: TranscriptTokenizer) -> nn.Module:
    """The embedder that the settings describe, with random weights."""
    if isinstance(tokenizer, FinetunedTokenizer):
        return FinetunedText.untrained(tokenizer)
    if settings.kind == "scratch":
        return ScratchBert(settings.scratch, tokenizer)
    return LearntEmbeddings(settings.embeddings, tokenizer)


def learnt_size(settings: TextEncoderSettings) -> int:
    """Width of the embeddings."""
    return settings.scratch.size if settings.kind == "scratch" else settings.embeddings.size


def learnt_tokenizer(transcripts: Iterable[str], settings: TextEncoderSettings) -> TranscriptTokenizer:
    """Train the tokenizer that the settings describe.

    Raises:
        CorpusError: if the transcripts contain no word
    """
    if _by_character(settings):
        return _train_character_tokenizer(transcripts, settings.embeddings)
    return train_tokenizer(transcripts, settings.scratch if settings.kind == "scratch" else settings.embeddings)


def load_tokenizer(folder: Path, settings: TextEncoderSettings) -> TranscriptTokenizer:
    """Make the tokenizer that the settings describe of a saved vocabulary; nothing else is read of its files.

    Raises:
        ModelError: if the folder has no vocabulary with the special tokens first
    """
    file = folder / "tokenizer.json"
    try:
        model = read_object(file).get("model")
    except PredictionError as error:
        raise ModelError(f"{folder}: cannot read a tokenizer ({error})") from error
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or any(type(number) is not int for number in vocabulary.values()):
        raise ModelError(f"{file}: key 'model.vocab' is no vocabulary; expected the number of each token")
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if tokens[: len(_SPECIAL)] != _SPECIAL or sorted(vocabulary.values()) != list(range(len(tokens))):
        raise ModelError(f"{file}: key 'model.vocab': expected the numbers from 0, for {', '.join(_SPECIAL)} first")
    if _by_character(settings):
        return _character_tokenizer(vocabulary, settings.embeddings)
    max_tokens = settings.scratch.max_tokens if settings.kind == "scratch" else settings.embeddings.max_tokens
    return _word_tokenizer(vocabulary, max_tokens)


def _by_character(settings: TextEncoderSettings) -> bool:
    return settings.kind == "embeddings" and settings.embeddings.unit == "character"


def _train_character_tokenizer(transcripts: Iterable[str], settings: EmbeddingsSettings) -> TranscriptTokenizer:
    counts = Counter(character for text in transcripts for character in text)
    if not counts:
        raise CorpusError("no transcript to train the tokenizer on; does the train split have transcripts?")
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[: settings.vocabulary_size]
    return _character_tokenizer({token: number for number, token in enumerate([*_SPECIAL, *frequent])}, settings)


def _character_tokenizer(vocabulary: Mapping[str, int], settings: EmbeddingsSettings) -> TranscriptTokenizer:
    """A tokenizer of single characters, white space included; others are one unknown token."""
    characters = Tokenizer(models.WordLevel(dict(vocabulary), unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = PreTrainedTokenizerFast(tokenizer_object=characters, **dict(zip(names, _SPECIAL, strict=True)))
    return TranscriptTokenizer(fast, settings.max_tokens)


def train_tokenizer(transcripts: Iterable[str], settings: ScratchSettings | EmbeddingsSettings) -> TranscriptTokenizer:
    """Train a lower-casing tokenizer of complete words; a word outside the transcripts is one unknown token.

    Raises:
        CorpusError: if the transcripts contain no word

    Example:
        >>> tokenizer = train_tokenizer(["it is fine", "it was fine"], ScratchSettings()).tokenizer
        >>> tokenizer.tokenize("It is terrific!")
        ['it', 'is', '[UNK]', '[UNK]']
    """
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=settings.vocabulary_size + len(_SPECIAL), special_tokens=_SPECIAL, show_progress=False
    )
    words.train_from_iterator(transcripts, trainer)
    if words.get_vocab_size() == len(_SPECIAL):
        raise CorpusError("no transcript to train the tokenizer on; does the train split have transcripts?")
    return _word_tokenizer(words.get_vocab(), settings.max_tokens)


def _word_tokenizer(vocabulary: Mapping[str, int], max_tokens: int) -> TranscriptTokenizer:
    return TranscriptTokenizer(BertTokenizerFast(vocab=dict(vocabulary)), max_tokens)
