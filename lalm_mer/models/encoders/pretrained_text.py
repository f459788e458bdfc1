"""Contextual embeddings of the tokens of a transcript, from a frozen pretrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames, text_hash
from lalm_mer.models.encoders.audio import pooled_frames
from lalm_mer.models.encoders.hidden_layers import ChosenLayers, side_by_side, weights_hash
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer
from lalm_mer.models.loading import from_pretrained, load_weights

__all__ = ["PretrainedText", "TextModel", "hidden_states", "load_text_model"]


@dataclass(frozen=True)
class TextModel:
    """A pretrained BERT-like encoder in evaluation mode, with its tokenizer.

    Args:
        model: of transformers
        transcripts: its tokenizer
        weights: hash of its weights
        layers: number of layers of hidden states, the input of the first layer included
        width: of each
    """

    model: Any
    transcripts: TranscriptTokenizer
    weights: str
    layers: int
    width: int

    @property
    def vocabulary(self) -> str:
        """Hash of the tokenizer."""
        return text_hash(self.transcripts.tokenizer.backend_tokenizer.to_str())


def load_text_model(name: str, revision: str | None = None) -> TextModel:
    """Load a BERT-like encoder from safetensors; no code of its repository is executed.

    Args:
        name: Hub id or local folder of a BERT, RoBERTa, DistilBERT, sentence encoder or similar
        revision: branch, tag or commit on the Hub

    Raises:
        ModelError: if it cannot be loaded, or its tokenizer is not a fast one
    """
    try:
        tokenizer = from_pretrained(AutoTokenizer, name, revision)
        model, report = load_weights(AutoModel, name, revision, output_loading_info=True)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(
            f"text encoder {name!r} cannot be loaded ({one_line(error)}); give a Hub id or a folder with "
            "safetensors weights and a tokenizer, or kind scratch"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(f"text encoder {name!r}: not a fast tokenizer, which is needed to keep special tokens out")
    # RoBERTa-like models reserve positions for padding, so that the tokenizer's limit may be lower
    limit = min(int(model.config.max_position_embeddings), int(tokenizer.model_max_length))
    weights = weights_hash(model, report["missing_keys"], name)
    with torch.no_grad():
        batch = torch.tensor([[int(tokenizer.cls_token_id or tokenizer.bos_token_id or 0)]])
        states = hidden_states(model.eval(), batch, torch.ones_like(batch))
    return TextModel(model, TranscriptTokenizer(tokenizer, limit), weights, len(states), int(states[-1].shape[-1]))


def hidden_states(model: Any, ids: Tensor, mask: Tensor) -> list[Tensor]:  # noqa: ANN401 of transformers
    """Hidden states of a padded batch, (B, T, D) of each layer.

    Args:
        model: of ``TextModel``
        ids: token ids, (B, T)
        mask: 1 for a token, 0 for padding, (B, T)
    """
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]


class PretrainedText(ChosenLayers):
    """Hidden states of a pretrained BERT-like encoder; a ``FeatureExtractor`` of transcripts.

    The mean of ``pooled`` features of a sentence encoder, such as all-MiniLM-L6-v2, is its sentence embedding before
    normalisation.

    Args:
        name: as of ``load_text_model``
        revision: likewise
        layers: ``last``, ``all``, or numbers, 0 for the input of the first layer; the frames of several are float16,
            unless they are pooled
        pooled: whether mean and standard deviation over the tokens are the only frame

    Raises:
        ModelError: as ``load_text_model``
        ConfigError: if it has no layer of a number
    """

    stored: bool = True
    """Whether its features are worth storing."""

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        layers: str | Sequence[int] = "last",
        *,
        pooled: bool = False,
    ) -> None:
        self._source = (name, revision)
        self.pooled = pooled
        self._loaded = load_text_model(name, revision)
        self._loaded.model.requires_grad_(False)
        self._transcripts = self._loaded.transcripts
        width = self._loaded.width * (2 if pooled else 1)
        self._open_layers(layers, name, total=self._loaded.layers, width=width)

    def __reduce__(self) -> tuple[Callable[..., PretrainedText], tuple[Any, ...]]:
        return _open, (*self._source, self.chosen.wanted, self.pooled)

    def settings(self) -> dict[str, Any]:
        """A hash of the weights, layers and pooling."""
        return {
            "name": "pretrained_text",
            "weights": self._loaded.weights,
            "layers": self.chosen.wanted,
            **({"dtype": "float32"} if self.pooled and self.layers > 1 else {}),
            "vocabulary": self._loaded.vocabulary,
            **({"pooled": True} if self.pooled else {}),
        }

    def source_hash(self, given: Input) -> str | None:
        """Hash of the transcript; None if the input has none."""
        return None if given.transcript is None else text_hash(given.transcript)

    def extract(self, given: Input) -> Frames:
        """Contextual embeddings of an input's tokens, special ones included, (T, L * D).

        Raises:
            CorpusError: naming the utterance, if it has no transcript, or one that is too long
        """
        frames = side_by_side(self._encode(self._transcripts.ids(given)), self.chosen, pooled=self.pooled)
        return pooled_frames(frames, self.layers) if self.pooled else frames

    @torch.no_grad()
    def _encode(self, ids: list[int]) -> list[Tensor]:
        """Hidden states of token ids, (T, D) of each layer."""
        batch = torch.tensor([ids])
        return [states[0] for states in hidden_states(self._loaded.model, batch, torch.ones_like(batch))]

    def save(self, folder: Path) -> None:
        """Write what was fitted; nothing."""


def _open(name: str, revision: str | None, layers: str | Sequence[int], pooled: bool) -> PretrainedText:
    return PretrainedText(name, revision, layers, pooled=pooled)
