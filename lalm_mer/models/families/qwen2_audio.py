"""Qwen2-Audio (Chu et al. 2024): a Whisper-like tower, a linear projector, Qwen2 as language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)
from transformers.masking_utils import create_bidirectional_mask

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.parts.in_place import InPlaceFamily
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Qwen2Audio"]

_TEMPLATE = (
    "{% set audio = namespace(count=0) %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}"
    "{% set audio.count = audio.count + 1 %}"
    "{{ 'Audio ' ~ audio.count ~ ': <|audio_bos|><|AUDIO|><|audio_eos|>\\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Qwen2Audio(InPlaceFamily):
    """Qwen2-Audio on transformers' own classes; published as Qwen/Qwen2-Audio-7B-Instruct (Apache-2.0)."""

    name = "qwen2_audio"
    stop_token = "<|im_end|>"
    audio_token = "<|AUDIO|>"

    model_class = Qwen2AudioForConditionalGeneration
    published = ("Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2-Audio-7B")
    licence = "Apache-2.0"
    contamination = {  # noqa: RUF012 constant
        "meld": "Its authors report its figure on MELD (Chu et al. 2024, arXiv:2407.10759) and do not name the corpora "
        "it was trained on, so that neither this one nor another public one can be ruled out.",
    }

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A Whisper-like tower of 64 mel bands over a Qwen2 of the same width."""
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<|endoftext|>")
        extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=shape.window_s)
        processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=_TEMPLATE)
        config = Qwen2AudioConfig(
            audio_config=Qwen2AudioEncoderConfig(
                num_mel_bins=64,
                encoder_layers=shape.layers,
                encoder_attention_heads=shape.heads,
                encoder_ffn_dim=4 * shape.hidden_size,
                d_model=shape.hidden_size,
                max_source_positions=shape.window_s * 50,
            ).to_dict(),
            text_config=Qwen2Config(
                **language_sizes(shape, len(tokenizer)),
                bos_token_id=None,
                eos_token_id=tokenizer.convert_tokens_to_ids(cls.stop_token),
                pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            ).to_dict(),
            audio_token_index=tokenizer.convert_tokens_to_ids(cls.audio_token),
            initializer_range=shape.initializer_range,
        )
        cls.save_tiny(folder, config, processor)

    def audio_token_count(self, samples: int) -> int:
        """Mel frames, halved by a strided convolution and again by pooling."""
        frames = -(-samples // int(self.processor.feature_extractor.hop_length))
        return max(0, ((frames - 1) // 2 + 1 - 2) // 2 + 1)

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Log-mel spectrograms padded to the tower's window.

        Returns:
            ``audio_features`` (A, mel bins, window frames) and ``audio_frames`` (A,)

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        features, frames = self.log_mel(waveforms)
        return {"audio_features": features, "audio_frames": frames}

    def encode_audio(self, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:  # type: ignore[override]
        """Step one: convolutions, transformer and pooling; padding is masked as the model's own forward does."""
        tower: Any = self.submodule("audio_tower")
        positions = (audio_features.shape[-1] - 1) // 2 + 1
        after_conv = (audio_frames - 1) // 2 + 1
        inside = torch.arange(positions, device=audio_frames.device)[None, :] < after_conv[:, None]
        mask = create_bidirectional_mask(
            config=tower.config,
            inputs_embeds=audio_features.new_zeros((len(audio_features), positions, 1), dtype=tower.dtype),
            attention_mask=inside.long(),
        )
        states = tower(audio_features, attention_mask=mask).last_hidden_state
        return TowerOutput(states, (after_conv - 2) // 2 + 1)
