"""A model of Qwen2-Audio's class from a Whisper encoder, a new projector and a decoder-only language model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoder,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from lalm_mer.core.errors import ModelError
from lalm_mer.core.names import COMPOSED_OF
from lalm_mer.models.families.parts.templates import join_parts_before

__all__ = ["AUDIO_TOKENS", "WHISPERS_DATA", "composed_model", "composed_processor", "cut_layers", "layers_of"]

AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
"""Of Qwen2-Audio's processor: the placeholder, and what is before and after it"""
WHISPERS_DATA = "The training data of Whisper is not published (Radford et al. 2022, arXiv:2212.04356)"
_OF_ENCODER = (
    "num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layerdrop", "d_model",
    "dropout", "attention_dropout", "activation_function", "activation_dropout", "scale_embedding",
    "max_source_positions",
)  # fmt: skip
_PROBED = 16  # tokens


def composed_processor(extractor: Any, tokenizer: Any) -> Any:  # noqa: ANN401 of transformers
    """Qwen2-Audio's processor of a Whisper feature extractor, and a tokenizer to which the audio tokens are added.

    Raises:
        ModelError: if the tokenizer has no chat template
    """
    if not isinstance(tokenizer.chat_template, str):
        raise ModelError("the language model's tokenizer has no chat template; take a model that follows instructions")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in AUDIO_TOKENS])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    placeholder, before, after = AUDIO_TOKENS
    template = join_parts_before(tokenizer.chat_template, before + placeholder + after)
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=template)


def composed_model(
    encoder: Any,  # noqa: ANN401 of transformers
    language_model: Any,  # noqa: ANN401
    processor: Any,  # noqa: ANN401
    *,
    origin: Mapping[str, Any],
    seed: int,
) -> Any:  # noqa: ANN401
    """The model; its projector is random, all other weights are those of the parts, which it takes over.

    The vocabulary grows by the audio tokens, whose embeddings are the mean of the others. Qwen2-Audio's class never
    ties the output layer to the embeddings: where the language model does, the output layer is a copy.

    Args:
        encoder: of a Whisper model of transformers
        language_model: a causal language model of transformers
        processor: see ``composed_processor``
        origin: where the parts are from, for the config
        seed: seed of the projector

    Raises:
        ModelError: if the logits of the language model are more than an output layer without bias
    """
    output = language_model.get_output_embeddings()
    if not isinstance(output, nn.Linear) or getattr(output, "bias", None) is not None:
        raise ModelError(f"{type(language_model).__name__}: its output layer has a bias or is no matrix")
    _grow(language_model, len(processor.tokenizer))
    text = deepcopy(language_model.config)
    text.tie_word_embeddings = False
    config = Qwen2AudioConfig(
        audio_config=_encoder_config(encoder.config),
        text_config=text,
        audio_token_index=processor.tokenizer.convert_tokens_to_ids(AUDIO_TOKENS[0]),
        tie_word_embeddings=False,
        **{COMPOSED_OF: dict(origin)},
    )
    with torch.device("meta"):  # all its modules are replaced
        model = Qwen2AudioForConditionalGeneration(config)
    model.model.audio_tower = _tower(encoder, config.audio_config)
    model.model.language_model = language_model.base_model
    model.model.multi_modal_projector = _projector(model.model.multi_modal_projector, language_model, config, seed)
    weight = language_model.get_output_embeddings().weight.detach().clone()
    model.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    model.lm_head.weight = nn.Parameter(weight)
    model.generation_config = language_model.generation_config
    _compare(model, language_model)
    return model.eval()


def layers_of(model: Any) -> tuple[str, nn.ModuleList]:  # noqa: ANN401 of transformers
    """Name and layers of an encoder or a language model.

    Raises:
        ModelError: if they are not found
    """
    total = int(model.config.num_hidden_layers)
    found = [
        (name, one) for name, one in model.named_children() if isinstance(one, nn.ModuleList) and len(one) == total
    ]
    if len(found) != 1:
        raise ModelError(f"the layers of {type(model).__name__} are not found; take another model")
    return found[0]


def cut_layers(model: Any, count: int, argument: str) -> None:  # noqa: ANN401 of transformers
    """Keep the first layers of an encoder or of a language model, and the norm that follows the last one.

    Raises:
        ModelError: naming the argument, if there are not so many
    """
    name, layers = layers_of(model)
    if not 1 <= count <= len(layers):
        raise ModelError(f"argument '{argument}': {count}; {type(model).__name__} has {len(layers)} layers")
    setattr(model, name, layers[:count])
    model.config.num_hidden_layers = count
    if getattr(model.config, "layer_types", None) is not None:
        model.config.layer_types = model.config.layer_types[:count]


def _encoder_config(config: Any) -> Qwen2AudioEncoderConfig:  # noqa: ANN401 of Whisper
    return Qwen2AudioEncoderConfig(**{name: getattr(config, name) for name in _OF_ENCODER})


def _tower(encoder: Any, config: Qwen2AudioEncoderConfig) -> nn.Module:  # noqa: ANN401 of Whisper
    """The encoder in Qwen2-Audio's class, whose layers have the same names."""
    tower: nn.Module = Qwen2AudioEncoder(config).to(encoder.dtype)
    tower.load_state_dict(encoder.state_dict())
    return tower


def _grow(language_model: Any, count: int) -> None:  # noqa: ANN401 of transformers
    """Embeddings for ``count`` tokens, if there are fewer; the new ones are the mean of the others."""
    before = language_model.get_input_embeddings().weight.shape[0]
    if before >= count:
        return
    language_model.resize_token_embeddings(count, mean_resizing=False)
    with torch.no_grad():
        for layer in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
            layer.weight[before:] = layer.weight[:before].mean(dim=0)


def _projector(template: Any, language_model: Any, config: Qwen2AudioConfig, seed: int) -> Any:  # noqa: ANN401
    """A random projector, whose output for a normalised state is as large as the language model's embeddings."""
    embeddings = language_model.get_input_embeddings().weight.detach()
    projector = type(template)(config).to(embeddings.dtype)
    deviation = float(embeddings.float().square().mean().sqrt()) / config.audio_config.d_model**0.5
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        nn.init.normal_(projector.linear.weight, std=deviation, generator=generator)
        nn.init.zeros_(projector.linear.bias)
    return projector


def _compare(model: Any, language_model: Any) -> None:  # noqa: ANN401 of transformers
    """Check that the model is the language model where there is no audio."""
    ids = torch.arange(min(_PROBED, language_model.config.vocab_size))[None]
    with torch.no_grad():
        theirs = language_model.eval()(input_ids=ids).logits
        ours = model.lm_head(model.model.language_model(input_ids=ids).last_hidden_state)
    if float((ours - theirs).abs().max()) > 1e-3 * float(theirs.abs().max()):
        raise ModelError(
            f"{type(language_model).__name__}: its logits are more than an output layer, such as scaled or capped; "
            "take another language model"
        )
