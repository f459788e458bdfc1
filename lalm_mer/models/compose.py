"""Models of two others' parts, the encoder of a Whisper and a language model or a text encoder, not trained yet."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import metadata_load
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertModel,
    ClapProcessor,
    WhisperFeatureExtractor,
    WhisperModel,
)

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.locks import only_writer
from lalm_mer.core.output import atomic_folder, require_empty, write_text
from lalm_mer.models.composed_card import composed_card
from lalm_mer.models.composed_clap import composed_clap_model
from lalm_mer.models.digest import base_digest, read_model_config
from lalm_mer.models.families.parts.composing import composed_model, composed_processor, cut_layers
from lalm_mer.models.loading import find_file, from_pretrained, load_weights

__all__ = ["Part", "compose", "compose_clap"]

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+-]{0,60}")
_RANDOM_PROJECTIONS = (
    "The projections of both into one space are random: train them before you use the model (`recipes/finetune.py`)."
)
_RANDOM_PROJECTOR = "The projector between them is random: train it before you use the model (`recipes/align.py`)."


@dataclass(frozen=True)
class Part:
    """A model of which a part is taken.

    Args:
        model: Hub id or folder
        revision: branch, tag or commit on the Hub
        layers: number of its first layers that are kept; None for all
    """

    model: str
    revision: str | None = None
    layers: int | None = None


def compose(tower: Part, language_model: Part, out: Path, *, dtype: str = "float32", seed: int = 0) -> int:
    """Write a model of Qwen2-Audio's class with its processor and a card; returns its number of parameters.

    Args:
        tower: a Whisper, whose encoder becomes the audio tower
        language_model: a causal language model of transformers, whose tokenizer has a chat template
        out: a new or empty folder
        dtype: of the weights: float32, bfloat16 or float16
        seed: seed of the projector

    Raises:
        ModelError: naming the model, if it cannot be loaded or is of another kind, or has fewer layers
        ConfigError: if ``out`` is not empty
        OutputError: if it cannot be written
    """
    require_empty(out)
    kind = getattr(torch, dtype)
    encoder, extractor = _whisper(tower, kind)
    decoder, tokenizer = _language_model(language_model, kind)
    processor = composed_processor(extractor, tokenizer)
    origin = {"audio_tower": _origin(tower), "language_model": _origin(language_model)}
    model = composed_model(encoder, decoder, processor, origin=origin, seed=seed)
    return _write(out, model, processor, composed_card(origin, _RANDOM_PROJECTOR))


def compose_clap(tower: Part, text_encoder: Part, out: Path, *, dtype: str = "float32", seed: int = 0) -> int:
    """Write a model of the family composed_clap with its processor and a card; returns its number of parameters.

    Args:
        tower: a Whisper, whose encoder becomes the audio tower
        text_encoder: a BERT, such as a sentence encoder, whose embedding of a text is the mean over its tokens
        out: a new or empty folder
        dtype: of the weights: float32, bfloat16 or float16
        seed: seed of the projections

    Raises:
        ModelError, ConfigError, OutputError: as of ``compose``
    """
    require_empty(out)
    kind = getattr(torch, dtype)
    encoder, extractor = _whisper(tower, kind)
    text, tokenizer = _bert(text_encoder, kind)
    origin = {"audio_tower": _origin(tower), "text_encoder": _origin(text_encoder)}
    model = composed_clap_model(encoder, text, origin=origin, seed=seed)
    return _write(out, model, ClapProcessor(extractor, tokenizer), composed_card(origin, _RANDOM_PROJECTIONS))


def _write(out: Path, model: Any, processor: Any, card: str) -> int:  # noqa: ANN401 of transformers
    with only_writer(out), atomic_folder(out) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        write_text(partial / "README.md", card)
    return int(sum(parameter.numel() for parameter in model.parameters()))


def _whisper(part: Part, dtype: torch.dtype) -> tuple[Any, Any]:
    _require_type(part, "whisper", "a Whisper as the audio tower")
    model = _loaded(WhisperModel, part, dtype)
    if part.layers is not None:
        cut_layers(model.encoder, part.layers, "tower_layers")
    return model.encoder, _opened(WhisperFeatureExtractor, part)


def _language_model(part: Part, dtype: torch.dtype) -> tuple[Any, Any]:
    read_model_config(part.model, part.revision)  # the shorter error, if there is no such model
    tokenizer = _opened(AutoTokenizer, part)
    model = _loaded(AutoModelForCausalLM, part, dtype)
    if part.layers is not None:
        cut_layers(model.base_model, part.layers, "language_layers")
    return model, tokenizer


def _bert(part: Part, dtype: torch.dtype) -> tuple[Any, Any]:
    _require_type(part, "bert", "a BERT as the text encoder, as MiniLM, E5 and GTE are")
    tokenizer = _opened(AutoTokenizer, part)
    model = _loaded(BertModel, part, dtype, add_pooling_layer=False)
    if part.layers is not None:
        cut_layers(model.encoder, part.layers, "text_layers")
    return model, tokenizer


def _require_type(part: Part, expected: str, words: str) -> None:
    found = read_model_config(part.model, part.revision).get("model_type")
    if found != expected:
        raise ModelError(f"model {part.model!r}: is of type {found!r}; expected {words}")


def _opened(kind: Any, part: Part) -> Any:  # noqa: ANN401 of transformers
    try:
        return from_pretrained(kind, part.model, part.revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {part.model!r}: its {kind.__name__} cannot be opened: {one_line(error)}") from error


def _loaded(kind: Any, part: Part, dtype: torch.dtype, **options: Any) -> Any:  # noqa: ANN401 of transformers
    options |= {"dtype": dtype, "output_loading_info": True}
    try:
        model, report = load_weights(kind, part.model, part.revision, **options)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {part.model!r} cannot be loaded: {one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"model {part.model!r}: has no weights for {len(missing)} tensors of {type(model).__name__}, such as "
            f"{missing[0]}; expected a complete model of that class"
        )
    model.config.name_or_path = ""  # it would be written with the path of a folder; ``_origin`` has the name
    return model


def _origin(part: Part) -> dict[str, Any]:
    """What the config of the composed model says of a part: of a folder its name, not where it is."""
    local = Path(part.model).exists()
    name = Path(part.model).name if local else part.model
    digest, licence = base_digest(part.model, part.revision), _licence(part)
    return {**asdict(part), "model": name, "local": local, "digest": digest, "licence": licence}


def _licence(part: Part) -> str | None:
    """The licence in the metadata of a model's card; None if it has no card or names none."""
    try:
        card = find_file(part.model, "README.md", part.revision)
        found = (metadata_load(card) or {}).get("license") if card is not None else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, str) and _LICENCE.fullmatch(found) else None
