"""Phi-4-multimodal (Abouelenin et al. 2025): a conformer, a projector of two layers, Phi-4-mini with speech adapter."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from lalm_mer.core.errors import ModelError
from lalm_mer.models.attention import FLASH
from lalm_mer.models.families.base import SPEECH_CORPORA, Family
from lalm_mer.models.families.parts.audio_only import open_processor_parts
from lalm_mer.models.families.parts.in_place import InPlaceDecoder
from lalm_mer.models.families.parts.merged_adapters import merge_published
from lalm_mer.models.families.parts.own_length import OwnLength, OwnLengthEncoder, halved
from lalm_mer.models.families.parts.templates import join_parts_before, load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Phi4Multimodal", "Phi4SpeechProcessor"]

_AUDIO_TOKEN = "<|audio|>"
_SPEECH_ADAPTER = "speech-lora"
_UNKNOWN = (
    "What speech it was trained on is not completely public (Abouelenin et al. 2025, arXiv:2503.01743), so that no "
    "corpus can be ruled out."
)


class Phi4SpeechProcessor(Phi4MultimodalProcessor):  # type: ignore[misc]
    """transformers' processor without images, whose constructor needs torchvision."""

    def __init__(
        self,
        audio_processor: Phi4MultimodalFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ) -> None:
        self.audio_token = _AUDIO_TOKEN
        self.audio_token_id = tokenizer.convert_tokens_to_ids(self.audio_token)
        ProcessorMixin.__init__(self, audio_processor, tokenizer, chat_template=chat_template)
        # before transformers 5.23, its processor reads both from the tokenizer
        tokenizer.audio_token, tokenizer.image_token = self.audio_token, "<|image|>"

    @property
    def unused_input_names(self) -> list[str]:
        """An empty list, since there are no images."""
        return []


class _View(nn.ModuleDict):
    """Modules of a tower that share their parent with other modules."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the floating-point weights."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())


class _FrontEnd(OwnLength):
    def token_count(self, family: Family, samples: int) -> int:
        """Complete analysis windows, divided by the conformer's subsampling and rounded up."""
        return -(-_mel_frames(family, samples) // _subsampling(family))

    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram."""
        extractor: Any = family.processor.feature_extractor
        if not _mel_frames(family, len(samples)):
            return torch.zeros((0, extractor.feature_size))
        batch = extractor([samples], sampling_rate=family.sampling_rate, return_tensors="pt")
        features: Tensor = batch["audio_input_features"][0]
        return features


def _tower_states(tower: Any, features: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401 transformers' own class
    """Output of the tower; its bias excludes padding, because its mask adds one to the scores of keys, and no more."""

    def exclude(_: nn.Module, __: tuple[Tensor], bias: Tensor) -> Tensor:
        padding = ~halved(mask, bias.shape[-1])
        return bias.masked_fill(padding[:, None, None], torch.finfo(bias.dtype).min)

    hook = tower.relative_attention_bias_layer.register_forward_hook(exclude)
    try:
        states: Tensor = tower(features, None)
    finally:
        hook.remove()
    return states


class _Decoder(InPlaceDecoder):
    def project(self, family: Family, states: Tensor) -> Tensor:
        projector: Any = family.submodule("projector")
        up, down = projector["up_proj_for_speech"], projector["down_proj_for_speech"]
        projected: Tensor = down(nn.functional.gelu(up(states)))
        return projected

    def language_model(self, family: Family) -> Any:  # noqa: ANN401 transformers' own class
        """The language model, which also contains the towers."""
        return family.model.model


class Phi4Multimodal(Family):
    """Phi-4-multimodal-instruct on transformers' own classes, without remote code: revision ``refs/pr/70`` on the Hub.

    The checkpoint has two adapters, which transformers does not load. The one for speech is merged into the language
    model, since its authors enable it for all inputs with audio; the one for images is not used. Padding is
    excluded from the tower: in the model's own forward, scores depend on it.
    """

    name = "phi4_multimodal"
    model_class = Phi4MultimodalForCausalLM
    published = ("microsoft/Phi-4-multimodal-instruct",)
    published_revision = "refs/pr/70"
    licence = "MIT"
    contamination = dict.fromkeys(SPEECH_CORPORA, _UNKNOWN)
    stop_token = "<|end|>"
    audio_token = _AUDIO_TOKEN
    towers = {
        "audio_tower": "model.embed_tokens_extend.audio_embed.encoder",
        "projector": "model.embed_tokens_extend.audio_embed",
        "language_model": "model.layers",
    }
    language_model_parts = ("model.embed_tokens", "model.norm")
    other_linear_modules = ("model.embed_tokens_extend.image_embed",)
    unusable_attention = MappingProxyType({"audio_tower": (FLASH,)})  # its relative bias is part of the mask
    front_end = _FrontEnd(longest_s=40.0)  # longer audio is cut into pieces of that length, encoded independently
    encoder = OwnLengthEncoder(
        _tower_states,
        lambda family, frames: -(-frames // _subsampling(family)),
        width="hidden_size",
        subsampling="embed",
    )
    decoder = _Decoder()
    adapter_targets = {
        "language_model": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        "projector": ("up_proj_for_speech", "down_proj_for_speech"),
    }
    fsdp_layers = ("Phi4MultimodalAudioConformerEncoderLayer", "Phi4MultimodalDecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A conformer with eightfold subsampling and a Phi-4 of the same width; the vision tower has one layer."""
        special = ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|image|>", cls.audio_token]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<|endoftext|>")
        processor = Phi4SpeechProcessor(
            Phi4MultimodalFeatureExtractor(), tokenizer, chat_template=load_template(cls.name)
        )
        end, pad = tokenizer.convert_tokens_to_ids([cls.stop_token, "<|endoftext|>"])
        config = Phi4MultimodalConfig(
            **language_sizes(shape, tokenizer, bos_token_id=pad, eos_token_id=[pad, end]),
            audio_config={
                "hidden_size": shape.hidden_size,
                "intermediate_size": 2 * shape.hidden_size,
                "num_blocks": shape.layers,
                "num_attention_heads": shape.heads,
                "ext_pw_out_channel": shape.hidden_size,
                "depthwise_separable_out_channel": shape.hidden_size,
                "nemo_conv_channels": shape.hidden_size,
                "initializer_range": shape.initializer_range,
                "audio_token_id": tokenizer.convert_tokens_to_ids(cls.audio_token),
            },
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "crop_size": 28,
                "feature_layer": -1,
                "image_token_id": tokenizer.convert_tokens_to_ids("<|image|>"),
            },
        )
        config.longest_audio_s = min(shape.window_s, cls.front_end.longest_s)
        cls.save_tiny(folder, config, processor)

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Phi4SpeechProcessor:
        """The processor without images, with a template that takes audio slots."""
        extractor, tokenizer, template = open_processor_parts(cls, Phi4MultimodalFeatureExtractor, source, revision)
        processor = Phi4SpeechProcessor(extractor, tokenizer, join_parts_before(template, cls.audio_token))
        processor.feature_extractor = extractor  # its name in other processors
        return processor

    def merge_published_adapter(self, source: str, revision: str | None) -> None:
        """Merge the adapter for speech.

        Raises:
            ModelError: if trained weights come without it
        """
        model: Any = self.model
        if self.randomly_initialised or getattr(model.config, "speech_adapter_merged", False):
            return
        if not merge_published(model, self.name, source, revision, subfolder=_SPEECH_ADAPTER):
            raise ModelError(
                f"model {source!r}: no adapter in its folder {_SPEECH_ADAPTER!r}; without it {self.name} is "
                "not trained to use audio"
            )
        model.config.speech_adapter_merged = True  # a saved copy contains it

    def submodule(self, tower: str) -> nn.Module:
        """The modules of a tower; the projector's two layers are siblings of the tower and of those for images."""
        module = super().submodule(tower)
        if tower == "audio_tower":
            return module
        children = dict(module.named_children())
        names = self.adapter_targets["projector"] if tower == "projector" else children
        return _View({name: children[name] for name in names})


def _subsampling(family: Family) -> int:
    return int(family.model.config.audio_config.time_reduction)


def _mel_frames(family: Family, samples: int) -> int:
    extractor: Any = family.processor.feature_extractor
    return max(0, (samples - int(extractor.win_length)) // int(extractor.hop_length) + 1)
