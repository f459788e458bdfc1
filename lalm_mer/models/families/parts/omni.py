"""Shared parts of the Qwen Omni families: the thinker of a model with its projector in the audio tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from lalm_mer.models.families.base import AudioEncoder, Family, LanguageInputs, TowerOutput
from lalm_mer.models.families.parts.in_place import InPlaceDecoder
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.models.families.parts.log_mel import frame_mask
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes, whisper_sizes

__all__ = ["OmniDecoder", "OmniEncoder", "save_tiny_thinker"]

_FILLER = "<|endoftext|>"


@dataclass(frozen=True)
class OmniEncoder(AudioEncoder):
    """The tower's own forward, in which the input of the projector is captured.

    Args:
        tokens_of: number of mel frames -> number of placeholders
    """

    tokens_of: Callable[[Tensor], Tensor]

    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output of A waveforms, from (A, mel bins, frames) and (A,)."""
        before_projector: list[Tensor] = []
        hook = family.submodule("projector").register_forward_pre_hook(
            lambda _, inputs: before_projector.append(inputs[0])
        )
        packed = audio_features.permute(0, 2, 1)[frame_mask(audio_frames, audio_features.shape[-1])].T
        try:
            family.submodule("audio_tower")(packed, feature_lens=audio_frames)
        finally:
            hook.remove()
        lengths = self.tokens_of(audio_frames)
        states = torch.split(before_projector[0], lengths.tolist())
        return TowerOutput(pad_sequence(list(states), batch_first=True), lengths)


class OmniDecoder(InPlaceDecoder):
    """A language model whose positions have three axes."""

    def hidden_states(
        self, family: Family, inputs: LanguageInputs, audio: TowerOutput | None, cache: KeysValues | None = None
    ) -> Tensor:
        """Step two: (B, T, H); without images, time, height and width are the same position."""
        positions = inputs.position_ids.expand(3, -1, -1)
        return super().hidden_states(family, replace(inputs, position_ids=positions), audio, cache)


def save_tiny_thinker(
    family: type[Family], folder: Path, shape: TinyShape, tokens: Mapping[str, str], parts: Mapping[str, Any]
) -> None:
    """Save a tower of 128 mel bands, a Qwen of the same width and an unused vision tower.

    Args:
        family: one of the two
        folder: where to write
        shape: sizes of tower and language model
        tokens: key of the config -> token, that of audio first
        parts: further settings of ``audio_config``, ``vision_config``, ``text_config`` and ``rope_parameters``
    """
    special = [_FILLER, "<|im_start|>", family.stop_token, *tokens.values()]
    tokenizer = byte_level_bpe(shape, special, eos=family.stop_token, pad=_FILLER)
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    head = shape.hidden_size // shape.heads
    rotary = {"mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6]}
    sizes = {"output_dim": shape.hidden_size, "initializer_range": shape.initializer_range}
    audio = whisper_sizes(shape, num_mel_bins=128, **sizes)
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e6, **rotary, **parts["rope_parameters"]}
    config = family.model_class.config_class(
        audio_config=audio | parts["audio_config"],
        vision_config=vision | {"out_hidden_size": shape.hidden_size} | parts["vision_config"],
        text_config=language_sizes(shape, tokenizer, rope_parameters=rope, **parts["text_config"]),
        initializer_range=shape.initializer_range,
        **{key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()},
    )
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s)
    processor = family.processor_class(extractor, tokenizer, chat_template=load_template(family.name))
    family.save_tiny(folder, config, processor)
