"""Gemma 4 with audio (Google 2026): a chunked conformer, a linear projector, a Gemma with embeddings in every layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4Processor,
)

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor, open_processor_parts
from lalm_mer.models.families.parts.gemma import CONTAMINATION, TARGETS, TOWERS, GemmaDecoder
from lalm_mer.models.families.parts.own_length import OwnLength, OwnLengthEncoder
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Gemma4"]

_BEFORE_AUDIO, _AFTER_AUDIO = "<|audio>", "<audio|>"


class _Processor(AudioOnlyProcessor, Gemma4Processor):  # type: ignore[misc]
    return_mm_token_type_ids = False
    audio_token, boa_token, eoa_token = "<|audio|>", _BEFORE_AUDIO, _AFTER_AUDIO


class _FrontEnd(OwnLength):
    def token_count(self, family: Family, samples: int) -> int:
        """Mel frames whose window ends in the waveform, halved twice and rounded up."""
        return -(-_mel_frames(family, samples) // 4)

    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram without frames of padding."""
        features = family.processor.feature_extractor([samples])["input_features"][0]
        return torch.from_numpy(features)[: _mel_frames(family, len(samples))]


class _Decoder(GemmaDecoder):
    def embed(self, family: Family, ids: Tensor, is_audio: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """A placeholder has the embeddings of padding in every layer, as in the model's own forward."""
        language_model = self.language_model(family)
        words = ids.masked_fill(is_audio, language_model.config.pad_token_id)
        embeddings = language_model.get_input_embeddings()(words)
        has_more = bool(language_model.config.hidden_size_per_layer_input)
        per_layer = language_model.get_per_layer_inputs(words, embeddings) if has_more else None
        return embeddings, {"per_layer_inputs": per_layer}


class Gemma4(Family):
    """Gemma 4 E2B and E4B on transformers' own classes; the larger ones have no audio tower."""

    name = "gemma4"
    model_class = Gemma4ForConditionalGeneration
    published = ("google/gemma-4-E2B-it", "google/gemma-4-E4B-it")
    licence = "Apache-2.0"
    contamination = CONTAMINATION
    stop_token = "<turn|>"
    audio_token = "<|audio|>"
    audio_marks = (_BEFORE_AUDIO, _AFTER_AUDIO)
    towers = TOWERS
    other_linear_modules = ("model.vision_tower", "model.embed_vision")
    front_end = _FrontEnd(longest_s=30.0)  # its processor cuts longer audio
    encoder = OwnLengthEncoder(
        lambda tower, features, mask: tower(features, mask).last_hidden_state,
        lambda _, frames: -(-frames // 4),
        width="output_proj_dims",
        subsampling="subsample_conv_projection",
    )
    decoder = _Decoder()
    alike_layers = False  # some use the keys of others
    adapter_targets = TARGETS
    fsdp_layers = ("Gemma4AudioLayer", "Gemma4TextDecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A conformer of 128 mel bands and a Gemma of the same width with a short sliding window; no vision tower."""
        special = ["<pad>", "<eos>", "<bos>", "<|turn>", cls.stop_token, cls.audio_token, _BEFORE_AUDIO, _AFTER_AUDIO]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<pad>")
        tokenizer.bos_token = "<bos>"
        processor = _Processor(Gemma4AudioFeatureExtractor(), tokenizer, chat_template=load_template(cls.name))
        token = tokenizer.convert_tokens_to_ids
        ends = [token("<eos>"), token(cls.stop_token)]
        text_shape = replace(shape, initializer_range=shape.initializer_range / 2)  # embeddings are scaled up
        config = Gemma4Config(
            audio_config={
                "hidden_size": shape.hidden_size,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "subsampling_conv_channels": [128, 8],
                "output_proj_dims": shape.hidden_size,
                "initializer_range": shape.initializer_range,
            },
            text_config=dict(
                **language_sizes(text_shape, tokenizer, bos_token_id=token("<bos>"), eos_token_id=ends),
                vocab_size_per_layer_input=len(tokenizer),
                hidden_size_per_layer_input=16,
                head_dim=shape.hidden_size // shape.heads,
                global_head_dim=2 * (shape.hidden_size // shape.heads),
                sliding_window=16,
                final_logit_softcapping=30.0,
            ),
            vision_config=None,
            audio_token_id=token(cls.audio_token),
            boa_token_id=token(_BEFORE_AUDIO),
            eoa_token_index=token(_AFTER_AUDIO),
            image_token_id=len(tokenizer),
            video_token_id=len(tokenizer) + 1,
            initializer_range=shape.initializer_range,
        )
        config.longest_audio_s = shape.window_s
        cls.save_tiny(folder, config, processor)

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> _Processor:
        """The processor without images and videos."""
        return _Processor(*open_processor_parts(cls, Gemma4AudioFeatureExtractor, source, revision))

    @classmethod
    def attention_setting(cls, implementation: str) -> Any:  # noqa: ANN401 by part
        """The audio tower has its own attention implementation, which no setting changes."""
        return {"": implementation, "text_config": implementation, "audio_config": "eager"}


def _mel_frames(family: Family, samples: int) -> int:
    extractor: Any = family.processor.feature_extractor
    beyond = int(extractor.frame_length) - int(extractor.frame_length) // 2
    return max(0, -(-(samples - beyond) // int(extractor.hop_length)))
