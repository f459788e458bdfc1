"""Embeddings of transcripts that are learnt together with the network, and their vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from lalm_mer.core.errors import CorpusError
from lalm_mer.models.encoders.settings import ScratchSettings
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer

__all__ = ["ScratchBert", "train_tokenizer"]


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
        self._word_dropout = settings.word_dropout
        self._unknown = int(tokenizer.tokenizer.unk_token_id)
        self._special = [int(token) for token in tokenizer.tokenizer.all_special_ids]

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Embed a padded batch; ``mask`` (B, T) is False at padding."""
        if self.training and self._word_dropout:
            is_word = ~torch.isin(input_ids, torch.tensor(self._special, device=input_ids.device))
            dropped = torch.rand(input_ids.shape, device=input_ids.device) < self._word_dropout
            input_ids = input_ids.masked_fill(is_word & dropped, self._unknown)
        return cast(Tensor, self.bert(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state)


def train_tokenizer(transcripts: Iterable[str], settings: ScratchSettings) -> TranscriptTokenizer:
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
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordLevelTrainer(
        vocab_size=settings.vocabulary_size + len(special), special_tokens=special, show_progress=False
    )
    words.train_from_iterator(transcripts, trainer)
    if words.get_vocab_size() == len(special):
        raise CorpusError("no transcript to train the scratch tokenizer on; does the train split have transcripts?")
    return TranscriptTokenizer(BertTokenizerFast(vocab=words.get_vocab()), settings.max_tokens)
