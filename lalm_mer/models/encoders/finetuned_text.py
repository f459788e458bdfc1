"""A pretrained encoder of transcripts that is trained together with a network.

The saved network has its weights; tokenizer and architecture are saved beside it, so that neither the folder nor the
repository of the pretrained encoder is needed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedTokenizerFast

from lalm_mer.core.errors import ModelError, PredictionError, one_line
from lalm_mer.core.output import write_json
from lalm_mer.core.strict_json import read_object
from lalm_mer.models.encoders.hidden_layers import ChosenLayers, LayersOf, concatenated
from lalm_mer.models.encoders.pretrained_text import hidden_states, load_text_model
from lalm_mer.models.encoders.settings import TextEncoderSettings
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer
from lalm_mer.models.loading import from_pretrained

__all__ = ["ARCHITECTURE", "FinetunedText", "FinetunedTokenizer", "architecture_of", "open_finetuned"]

ARCHITECTURE = "config.json"
"""File that ``FinetunedTokenizer.save`` writes besides those of the tokenizer"""
_MOST_LAYERS = 1000  # of an architecture that may come from anyone
_NOT_ARCHITECTURE = {
    *PreTrainedConfig().to_dict(), "attn_implementation", "auto_map", "finetuning_task", "quantization_config",
    "task_specific_params", "tokenizer_class",
} - {"model_type"}  # fmt: skip
"""Keys of a config on which no hidden state depends, or that choose code"""


class FinetunedTokenizer(TranscriptTokenizer, ChosenLayers):
    """Token ids for an encoder that is trained, and the architecture of the encoder.

    Args:
        tokenizer: of the library tokenizers
        config: architecture of the encoder
        settings: which layers are used
        start: hash of the weights before training
        max_tokens: largest number of tokens that the encoder takes, special ones included

    Raises:
        ConfigError: if the encoder has no layer of a number
    """

    def __init__(
        self, tokenizer: Tokenizer, config: PreTrainedConfig, settings: TextEncoderSettings, start: str, max_tokens: int
    ) -> None:
        super().__init__(PreTrainedTokenizerFast(tokenizer_object=tokenizer), max_tokens)
        self.config, self._start = config, start
        self._open_layers(settings.layers, settings.model, total=config.num_hidden_layers + 1, width=config.hidden_size)

    def settings(self) -> dict[str, Any]:
        """What a saved model records of it; ``weights`` is the hash of those before training."""
        return {
            "name": "finetuned_text", "weights": self._start, "layers": self.chosen.wanted,
            "max_tokens": self.max_tokens,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write tokenizer and architecture to a folder."""
        super().save(folder)
        write_json(folder / ARCHITECTURE, architecture_of(self.config))

    @classmethod
    def load(cls, folder: Path, settings: TextEncoderSettings, known: Mapping[str, Any]) -> FinetunedTokenizer:
        """Read what ``save`` wrote; nothing else is read of the files.

        Args:
            folder: with the files
            settings: which layers are used
            known: its ``settings()`` in training

        Raises:
            ModelError: if a file is missing or malformed, or ``known`` has no number of tokens
            ConfigError: if the encoder has no layer of a number
        """
        max_tokens = known.get("max_tokens")
        if type(max_tokens) is not int or max_tokens < 1:
            raise ModelError(f"{folder}: max_tokens of the transcript encoder is {max_tokens!r}; expected 1 or more")
        return cls(_read_tokenizer(folder), _read_architecture(folder), settings, str(known.get("weights")), max_tokens)


class FinetunedText(nn.Module):
    """A BERT-like encoder that is trained: (B, T) token ids -> (B, T, L * D), chosen layers side by side.

    Args:
        model: of transformers
        layers: which are used
    """

    def __init__(self, model: Any, layers: LayersOf) -> None:  # noqa: ANN401 of transformers
        super().__init__()
        if getattr(model, "pooler", None) is not None:  # no hidden state depends on it
            model.pooler = nn.Identity()
        self.model = model
        self._layers = layers

    @classmethod
    def untrained(cls, tokenizer: FinetunedTokenizer) -> FinetunedText:
        """With random weights, for those of a saved network."""
        return cls(AutoModel.from_config(tokenizer.config, dtype=torch.float32), tokenizer.chosen)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Embed a padded batch; ``mask`` (B, T) is False at padding."""
        return concatenated(hidden_states(self.model, input_ids, mask.long()), self._layers)


def open_finetuned(settings: TextEncoderSettings) -> tuple[FinetunedTokenizer, FinetunedText]:
    """The pretrained encoder that the settings name, in training mode and float32, and its tokenizer.

    Raises:
        ModelError: if it cannot be loaded, or its hidden states are not those that its config states
        ConfigError: if it has no layer of a number
    """
    found = load_text_model(settings.model, settings.revision)
    config = found.model.config
    if (found.layers, found.width) != (config.num_hidden_layers + 1, config.hidden_size):
        raise ModelError(
            f"text encoder {settings.model!r}: has {found.layers} layers of hidden states of width {found.width}, but "
            f"its config states {config.num_hidden_layers + 1} of {config.hidden_size}; choose kind pretrained"
        )
    backend = found.transcripts.tokenizer.backend_tokenizer
    backend.no_padding()  # those of the file of a sentence encoder, which no call here uses
    backend.no_truncation()
    tokenizer = FinetunedTokenizer(backend, config, settings, found.weights, found.transcripts.max_tokens)
    return tokenizer, FinetunedText(found.model.float().train(), tokenizer.chosen)


def architecture_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The values of a config that say what the network is, without names, labels, data types and choices of code."""
    return {key: value for key, value in sorted(config.to_dict().items()) if key not in _NOT_ARCHITECTURE}


def _read_architecture(folder: Path) -> PreTrainedConfig:
    try:
        config = from_pretrained(AutoConfig, folder)
        config = type(config)(**architecture_of(config))
        layers, width = config.num_hidden_layers, config.hidden_size
    except (OSError, ValueError, TypeError, AttributeError, LookupError, StrictDataclassError) as error:
        raise ModelError(f"{folder / ARCHITECTURE}: no config of a text encoder ({one_line(error)})") from error
    for name, value in (("num_hidden_layers", layers), ("hidden_size", width)):
        if type(value) is not int or value < 1:
            raise ModelError(f"{folder / ARCHITECTURE}: key {name!r} is {value!r}; expected 1 or more")
    if layers > _MOST_LAYERS:
        raise ModelError(f"{folder / ARCHITECTURE}: has {layers} layers; expected at most {_MOST_LAYERS}")
    return config


def _read_tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    try:
        read_object(file)
        return Tokenizer.from_file(str(file))
    except PredictionError as error:
        raise ModelError(f"{folder}: cannot read a tokenizer ({error})") from error
    except Exception as error:  # the library raises no other class
        raise ModelError(f"{file}: is no tokenizer ({one_line(error)})") from error
