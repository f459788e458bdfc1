"""Contextual word embeddings of a transcript: from a frozen BERT, or from a small one trained from scratch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from lalm_mer.core.errors import CorpusError, ModelError, one_line
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.loading import from_pretrained, load_weights
from lalm_mer.recognizers.baselines.settings import ScratchSettings

__all__ = ["FrozenBert", "ScratchBert", "TranscriptTokenizer", "train_tokenizer"]


def transcript_of(given: Input) -> str:
    """The transcript of an input.

    Raises:
        CorpusError: naming the utterance, if it has none
    """
    if given.transcript is None:
        raise CorpusError(
            f"utterance {given.utterance_id}: no transcript, which modality 'transcript' needs; add transcripts to "
            "the corpus or choose modalities: audio"
        )
    return given.transcript


class TranscriptTokenizer:
    """Token ids of a transcript; "[SEP]" in a transcript does not become a special token.

    Args:
        tokenizer: a fast tokenizer
        max_tokens: largest number of tokens that the model takes, special ones included
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:  # noqa: ANN401 transformers is untyped here
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def ids(self, given: Input) -> list[int]:
        """T token ids, with the special tokens at both ends.

        Raises:
            CorpusError: naming the utterance, if it has no transcript, or one that is too long
        """
        ids = self.tokenizer(transcript_of(given), split_special_tokens=True).input_ids
        if len(ids) > self.max_tokens:
            raise CorpusError(
                f"utterance {given.utterance_id}: its transcript has {len(ids)} tokens, the model takes "
                f"{self.max_tokens}; cut the utterance into shorter ones"
            )
        return cast(list[int], ids)

    def save(self, folder: Path) -> None:
        """Write the tokenizer to a folder."""
        # the padding of the last call would be saved too
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: Path, max_tokens: int) -> TranscriptTokenizer:
        """Read what ``save`` wrote.

        Raises:
            ModelError: if the folder has no tokenizer
        """
        try:
            return cls(from_pretrained(AutoTokenizer, folder), max_tokens)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: cannot read a tokenizer ({one_line(error)})") from error


class FrozenBert:
    """Last hidden states of a pretrained BERT-like encoder; a ``FeatureExtractor`` of transcripts.

    Weights are read from safetensors only, and no code of the repository is executed.

    Args:
        name: Hub id or local folder
        revision: branch, tag or commit on the Hub

    Raises:
        ModelError: if it cannot be loaded, or its tokenizer is not a fast one
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        try:
            tokenizer = from_pretrained(AutoTokenizer, name, revision)
            self._model = load_weights(AutoModel, name, revision)
        except ModelError:
            raise
        except (OSError, ValueError) as error:
            raise ModelError(
                f"bert {name!r} cannot be loaded ({one_line(error)}); give a Hub id or a folder with safetensors "
                "weights and a tokenizer, or 'scratch'"
            ) from error
        if not tokenizer.is_fast:
            raise ModelError(f"bert {name!r}: not a fast tokenizer, which is needed to keep special tokens out")
        self._model.eval().requires_grad_(False)
        # RoBERTa-like models reserve positions for padding, so that the tokenizer's limit may be lower
        limit = min(int(self._model.config.max_position_embeddings), int(tokenizer.model_max_length))
        self._transcripts = TranscriptTokenizer(tokenizer, limit)
        self.size = int(self._model.config.hidden_size)
        self._weights_hash = _hash_weights(self._model)

    def __reduce__(self) -> tuple[type[FrozenBert], tuple[str, str | None]]:
        return FrozenBert, (self.name, self.revision)

    def settings(self) -> dict[str, Any]:
        """Name, revision and a hash of the weights."""
        return {"name": "frozen_bert", "model": self.name, "revision": self.revision, "weights": self._weights_hash}

    def source_hash(self, given: Input) -> str | None:
        """Hash of the transcript; None if the input has none."""
        if given.transcript is None:
            return None
        return hashlib.blake2b(given.transcript.encode(), digest_size=16).hexdigest()

    @torch.no_grad()
    def extract(self, given: Input) -> Frames:
        """Contextual embeddings of an input's tokens, special ones included, (T, D).

        Raises:
            CorpusError: naming the utterance, if it has no transcript, or one that is too long
        """
        ids = torch.tensor([self._transcripts.ids(given)])
        states = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return np.asarray(states[0].float().numpy(), dtype=np.float32)


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


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
