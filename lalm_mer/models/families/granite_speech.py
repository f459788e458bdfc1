"""Granite Speech (Saon et al. 2025): a conformer over blocks, a Q-Former over windows, Granite as language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
)

from lalm_mer.models.families.base import AudioEncoder, Family, TowerOutput
from lalm_mer.models.families.parts.audio_only import opened_parts
from lalm_mer.models.families.parts.granite_mel import extractor_class
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, InPlaceDecoder
from lalm_mer.models.families.parts.merged_adapters import merge_adapters, refuse_pickled
from lalm_mer.models.families.parts.own_length import OwnLength, encode_at_own_length
from lalm_mer.models.families.parts.templates import join_parts_before, load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["GraniteSpeech"]

# The published template writes the day of today where there is no system message: scores would change overnight.
# These are the words of the model card's example.
_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: April 9, 2025.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)


class _FrontEnd(OwnLength):
    def token_count(self, family: Family, samples: int) -> int:
        """Queries of all windows, the last one filled up; 0 where the extractor cannot pad by reflection."""
        config: Any = family.model.config
        return -(-_tower_frames(family, samples) // int(config.window_size)) * _queries(config)

    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram, normalised by itself, two mel frames stacked to one."""
        extractor = family.processor.feature_extractor
        if not _tower_frames(family, len(samples)):
            return torch.zeros((0, 2 * int(extractor.melspec_kwargs["n_mels"])))
        features: Tensor = extractor([samples])["input_features"][0]
        return features


class _Conformer(AudioEncoder):
    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of each waveform at its own length; as many frames as one placeholder needs are stacked.

        The projector fills its last window with zeros, and so do the rows here: one row is one placeholder.
        """
        tower: Any = family.submodule("audio_tower")
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()  # its running statistics are the weights'; no adapter would store others
        config: Any = family.model.config
        windows = -(-audio_frames // config.window_size)
        width = int(tower.config.hidden_dim)
        total = int(windows.max()) * int(config.window_size)
        states = encode_at_own_length(
            lambda features: tower(features).last_hidden_state,
            audio_features,
            audio_frames,
            (total, width),
            tower.dtype,
        )
        rows = states.reshape(len(states), total // config.downsample_rate, width * config.downsample_rate)
        return TowerOutput(rows, windows * _queries(config))


class _Decoder(InPlaceDecoder):
    def project(self, family: Family, states: Tensor) -> Tensor:
        """The Q-Former, on frames that are no longer stacked."""
        config: Any = family.model.config
        return super().project(family, states.reshape(len(states), states.shape[1] * config.downsample_rate, -1))

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer, scaled as the language model was trained."""
        config: Any = family.model.config
        return super().logits(family, hidden) / float(config.text_config.logits_scaling)


class GraniteSpeech(Family):
    """Granite Speech 3.3 on transformers' own classes.

    The weights' own LoRA adapter, which their authors enable for all inputs with audio, is merged into the language
    model; a prompt without audio is read by the merged model too. Each waveform is encoded at its own length, so that
    scores do not depend on the batch; the model's own forward lets padding leak into the shorter ones.
    It was trained on public corpora of speech recognition and translation, says its model card, and synthetic ones.
    Logits are divided by the language model's ``logits_scaling``, as Granite's own head does and as the weights were
    trained; the head in transformers 5.23 leaves that out.
    """

    name = "granite_speech"
    model_class = GraniteSpeechForConditionalGeneration
    published = ("ibm-granite/granite-speech-3.3-2b", "ibm-granite/granite-speech-3.3-8b")
    licence = "Apache-2.0"
    contamination = {}
    stop_token = "<|end_of_text|>"
    audio_token = "<|audio|>"
    towers = {
        "audio_tower": "model.encoder",
        "projector": "model.projector",
        "language_model": "model.language_model",
    }
    front_end = _FrontEnd(longest_s=300.0)  # the tower has no window; five minutes bound the cost of one forward
    encoder = _Conformer()
    decoder = _Decoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("query", "key", "value", "linear")}
    fsdp_layers = ("GraniteSpeechConformerBlock", "Blip2QFormerLayer", "GraniteDecoderLayer")

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 transformers' own class
        super().__init__(model, processor)
        model.supports_gradient_checkpointing = True  # its language model does; the outer class does not declare it

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """The published windows of 15 frames and 3 queries, over a Granite of the same width."""
        special = [cls.stop_token, "<|start_of_role|>", "<|end_of_role|>", cls.audio_token]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad=cls.stop_token)
        processor = GraniteSpeechProcessor(extractor_class()(), tokenizer, chat_template=load_template(cls.name))
        config = GraniteSpeechConfig(
            encoder_config={
                "num_layers": shape.layers,
                "hidden_dim": shape.hidden_size,
                "num_heads": shape.heads,
                "context_size": 20,
                "max_pos_emb": 32,
                "dropout": 0.0,
                "initializer_range": shape.initializer_range,
            },
            projector_config={
                "hidden_size": shape.hidden_size,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "intermediate_size": 4 * shape.hidden_size,
                "encoder_hidden_size": shape.hidden_size,
                "cross_attention_frequency": 1,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "initializer_range": shape.initializer_range,
            },
            text_config=dict(
                **language_sizes(shape, tokenizer, bos_token_id=tokenizer.convert_tokens_to_ids(cls.stop_token))
            ),
            audio_token_index=tokenizer.convert_tokens_to_ids(cls.audio_token),
            initializer_range=shape.initializer_range,
            has_lora_adapter=False,
            tie_word_embeddings=False,
        )
        config.longest_audio_s = shape.window_s
        cls.save_tiny(folder, config, processor)

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> GraniteSpeechProcessor:
        """transformers' processor, with a template that takes audio slots and writes no date."""
        refuse_pickled(Path(source))  # before transformers would read an adapter there
        extractor, tokenizer, template = opened_parts(extractor_class(), source, revision, load_template(cls.name))
        processor = GraniteSpeechProcessor(
            extractor, tokenizer, chat_template=join_parts_before(template, cls.audio_token, _SYSTEM)
        )
        processor.feature_extractor = extractor  # as the other families' processors call it
        return processor

    def merge_published_adapter(self, source: str, revision: str | None) -> None:
        """The one that transformers has opened with the weights."""
        merge_adapters(self.model, self.name)


def _queries(config: Any) -> int:  # noqa: ANN401 transformers' own
    """Placeholders of one window."""
    return int(config.window_size) // int(config.downsample_rate)


def _tower_frames(family: Family, samples: int) -> int:
    mel: dict[str, int] = family.processor.feature_extractor.melspec_kwargs
    if samples <= mel["n_fft"] // 2:
        return 0
    return (samples // mel["hop_length"] + 1) // 2
