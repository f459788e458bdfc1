"""Gemma 4 with audio (Google 2026): a chunked conformer, a linear projector, a Gemma that embeds in every layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    Gemma4AudioConfig,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4Processor,
    Gemma4TextConfig,
)

from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor, opened_parts
from lalm_mer.models.families.parts.gemma import GemmaFamily
from lalm_mer.models.families.parts.own_length import at_own_length
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Gemma4"]

_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{{ '<|audio|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<turn|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}"
)
_BEFORE_AUDIO, _AFTER_AUDIO = "<|audio>", "<audio|>"


class _Processor(AudioOnlyProcessor, Gemma4Processor):  # type: ignore[misc]
    return_mm_token_type_ids = False
    audio_token, boa_token, eoa_token = "<|audio|>", _BEFORE_AUDIO, _AFTER_AUDIO


class Gemma4(GemmaFamily):
    """Gemma 4 E2B and E4B on transformers' own classes; the larger ones have no audio tower."""

    name = "gemma4"
    stop_token = "<turn|>"
    audio_token = "<|audio|>"
    model_class = Gemma4ForConditionalGeneration
    published = ("google/gemma-4-E2B-it", "google/gemma-4-E4B-it")
    licence = "Apache-2.0"
    longest_s = 30.0
    """After which its processor cuts audio off"""
    audio_marks = (_BEFORE_AUDIO, _AFTER_AUDIO)
    beside = ("model.vision_tower", "model.embed_vision")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A conformer of 128 mel bands over a Gemma of the same width with a short sliding window; no vision tower."""
        special = ["<pad>", "<eos>", "<bos>", "<|turn>", cls.stop_token, cls.audio_token, _BEFORE_AUDIO, _AFTER_AUDIO]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<pad>")
        tokenizer.bos_token = "<bos>"
        processor = _Processor(Gemma4AudioFeatureExtractor(), tokenizer, chat_template=_TEMPLATE)
        token = tokenizer.convert_tokens_to_ids
        text_shape = replace(shape, initializer_range=shape.initializer_range / 2)  # embeddings are scaled up
        config = Gemma4Config(
            audio_config=Gemma4AudioConfig(
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                subsampling_conv_channels=[128, 8],
                output_proj_dims=shape.hidden_size,
                initializer_range=shape.initializer_range,
            ).to_dict(),
            text_config=Gemma4TextConfig(
                **language_sizes(text_shape, len(tokenizer)),
                vocab_size_per_layer_input=len(tokenizer),
                hidden_size_per_layer_input=16,
                head_dim=shape.hidden_size // shape.heads,
                global_head_dim=2 * (shape.hidden_size // shape.heads),
                sliding_window=16,
                final_logit_softcapping=30.0,
                bos_token_id=token("<bos>"),
                eos_token_id=[token("<eos>"), token(cls.stop_token)],
                pad_token_id=token("<pad>"),
            ).to_dict(),
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
        return _Processor(*opened_parts(Gemma4AudioFeatureExtractor, source, revision, _TEMPLATE))

    @classmethod
    def attention(cls, asked: str) -> Any:  # noqa: ANN401 by part
        """The audio tower has one attention of its own, whatever is asked for."""
        return {"": asked, "text_config": asked, "audio_config": "eager"}

    def audio_token_count(self, samples: int) -> int:
        """Mel frames whose window ends within the waveform, halved twice and rounded up."""
        return -(-self._mel_frames(samples) // 4)

    def features_of(self, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram without the frames that only padding fills."""
        features = self.processor.feature_extractor([samples])["input_features"][0]
        return torch.from_numpy(features)[: self._mel_frames(len(samples))]

    def encode_audio(self, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:  # type: ignore[override]
        """Step one, each waveform at its own length."""
        tower: Any = self.submodule("audio_tower")
        lengths = -(-audio_frames // 4)

        def encode(features: Tensor) -> Tensor:
            inside = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
            states: Tensor = tower(features, inside).last_hidden_state
            return states

        shape = (int(lengths.max()), int(tower.config.output_proj_dims))
        return TowerOutput(at_own_length(encode, audio_features, audio_frames, shape, tower.dtype), lengths)

    def embedded(self, ids: Tensor, is_audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """As in the model's own forward, a placeholder has the embeddings of padding in every layer."""
        decoder = self.decoder()
        words = ids.masked_fill(is_audio, decoder.config.pad_token_id)
        embeddings = decoder.get_input_embeddings()(words)
        if not decoder.config.hidden_size_per_layer_input:
            return embeddings, None
        return embeddings, decoder.get_per_layer_inputs(words, embeddings)

    def _mel_frames(self, samples: int) -> int:
        extractor: Any = self.processor.feature_extractor
        beyond = int(extractor.frame_length) - int(extractor.frame_length) // 2
        return max(0, -(-(samples - beyond) // int(extractor.hop_length)))
