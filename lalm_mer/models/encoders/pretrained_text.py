"""Contextual embeddings of the tokens of a transcript, from a frozen pretrained encoder."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames, text_hash
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer
from lalm_mer.models.loading import from_pretrained, load_weights

__all__ = ["PretrainedText"]


class PretrainedText:
    """Last hidden states of a pretrained BERT-like encoder; a ``FeatureExtractor`` of transcripts.

    Weights are read from safetensors only, and no code of the repository is executed.

    Args:
        name: Hub id or local folder
        revision: branch, tag or commit on the Hub

    Raises:
        ModelError: if it cannot be loaded, or its tokenizer is not a fast one
    """

    layers: int = 1
    """L, number of layers whose features are side by side in a frame."""
    stored: bool = True
    """Whether its features are worth storing."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        try:
            tokenizer = from_pretrained(AutoTokenizer, name, revision)
            self._model = load_weights(AutoModel, name, revision)
        except ModelError:
            raise
        except (OSError, ValueError) as error:
            raise ModelError(
                f"text encoder {name!r} cannot be loaded ({one_line(error)}); give a Hub id or a folder with "
                "safetensors weights and a tokenizer, or kind scratch"
            ) from error
        if not tokenizer.is_fast:
            raise ModelError(f"text encoder {name!r}: not a fast tokenizer, which is needed to keep special tokens out")
        self._model.eval().requires_grad_(False)
        # RoBERTa-like models reserve positions for padding, so that the tokenizer's limit may be lower
        limit = min(int(self._model.config.max_position_embeddings), int(tokenizer.model_max_length))
        self._transcripts = TranscriptTokenizer(tokenizer, limit)
        self.size = int(self._model.config.hidden_size)
        self._weights_hash = _hash_weights(self._model)

    def __reduce__(self) -> tuple[type[PretrainedText], tuple[str, str | None]]:
        return PretrainedText, (self.name, self.revision)

    def settings(self) -> dict[str, Any]:
        """Name, revision and a hash of the weights."""
        return {"name": "pretrained_text", "model": self.name, "revision": self.revision, "weights": self._weights_hash}

    def source_hash(self, given: Input) -> str | None:
        """Hash of the transcript; None if the input has none."""
        return None if given.transcript is None else text_hash(given.transcript)

    @torch.no_grad()
    def extract(self, given: Input) -> Frames:
        """Contextual embeddings of an input's tokens, special ones included, (T, D).

        Raises:
            CorpusError: naming the utterance, if it has no transcript, or one that is too long
        """
        ids = torch.tensor([self._transcripts.ids(given)])
        states = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return np.asarray(states[0].float().numpy(), dtype=np.float32)


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
