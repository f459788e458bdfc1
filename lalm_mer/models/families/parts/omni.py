"""What the Qwen Omni families share: a thinker that is heard through its own projector, inside the audio tower."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import LanguageInputs, TowerOutput
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor
from lalm_mer.models.families.parts.in_place import InPlaceFamily
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["OmniFamily", "chat_template"]

_FILLER = "<|endoftext|>"


class OmniFamily(InPlaceFamily):
    """The thinker of a Qwen Omni model; talker and codec are not loaded.

    The projector is the last linear layer of the audio tower, so that the one stands within the other.
    """

    stop_token = "<|im_end|>"
    beside = ("model.visual",)
    processor_class: type[AudioOnlyProcessor]
    """The published processor's class behind ``AudioOnlyProcessor``"""

    @classmethod
    def save_tiny_thinker(
        cls, folder: Path, shape: TinyShape, template: str, tokens: Mapping[str, str], parts: Mapping[str, Any]
    ) -> None:
        """A tower of 128 mel bands over a Qwen of the same width; eyes are there, unused.

        Args:
            folder: where to write
            shape: of tower and language model
            template: for chats
            tokens: key of the config -> token, the audio's first
            parts: what this thinker's ``audio_config``, ``vision_config`` and ``text_config`` say besides
        """
        special = [_FILLER, "<|im_start|>", cls.stop_token, *tokens.values()]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad=_FILLER)
        tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
        head = shape.hidden_size // shape.heads
        rotary = {"mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6]}
        audio = {
            "num_mel_bins": 128,
            "encoder_layers": shape.layers,
            "encoder_attention_heads": shape.heads,
            "encoder_ffn_dim": 4 * shape.hidden_size,
            "d_model": shape.hidden_size,
            "output_dim": shape.hidden_size,
            "initializer_range": shape.initializer_range,
        }
        vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
        text = language_sizes(shape, len(tokenizer)) | {
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **rotary, **parts["rope_parameters"]},
        }
        config = cls.model_class.config_class(
            audio_config=audio | parts["audio_config"],
            vision_config=vision | {"out_hidden_size": shape.hidden_size} | parts["vision_config"],
            text_config=text | parts["text_config"],
            initializer_range=shape.initializer_range,
            **{key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()},
        )
        extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s)
        cls.save_tiny(folder, config, cls.processor_class(extractor, tokenizer, chat_template=template))

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Any:  # noqa: ANN401 each family's own class
        """Its processor without images and video, which need torchvision."""
        return cls.processor_class.from_pretrained(source, revision=revision)

    @abstractmethod
    def tokens_of(self, frames: Tensor) -> Tensor:
        """How many placeholders so many mel frames fill."""

    def audio_token_count(self, samples: int) -> int:
        """Those of the mel frames."""
        frames = -(-samples // int(self.processor.feature_extractor.hop_length))
        return int(self.tokens_of(torch.tensor(frames)))

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Log-mel spectrograms, padded to the longest and not to the processor's 300 s: the tower reads no padding.

        Returns:
            ``audio_features`` (A, mel bins, frames) and ``audio_frames`` (A,)

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        extractor = self.processor.feature_extractor
        hop = int(extractor.hop_length)
        # silence for the last analysis window to reach into, as far as the processor's own padding has it
        longest = max(len(waveform.samples) for waveform in waveforms) + int(extractor.n_fft)
        features, frames = self.log_mel(waveforms, min(-(-longest // hop) * hop, int(extractor.n_samples)))
        return {"audio_features": features, "audio_frames": frames}

    def encode_audio(self, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:  # type: ignore[override]
        """Step one: the tower's own forward, heard at the projector's door, for the tower returns projected states."""
        inside = torch.arange(audio_features.shape[-1], device=audio_frames.device)[None, :] < audio_frames[:, None]
        heard: list[Tensor] = []
        door = self.submodule("projector").register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
        try:
            self.submodule("audio_tower")(audio_features.permute(0, 2, 1)[inside].T, feature_lens=audio_frames)
        finally:
            door.remove()
        lengths = self.tokens_of(audio_frames)
        return TowerOutput(pad_sequence(list(torch.split(heard[0], lengths.tolist())), batch_first=True), lengths)

    def hidden_states(self, inputs: LanguageInputs, audio: TowerOutput | None) -> Tensor:
        """Step two: (B, T, H); without pictures, time, height and width are one and the same position."""
        return super().hidden_states(replace(inputs, position_ids=inputs.position_ids.expand(3, -1, -1)), audio)


def chat_template(audio: str, system: str = "") -> str:
    """Turns as published.

    Args:
        audio: what stands in an audio slot
        system: what stands in the first turn where the conversation begins without one of its own
    """
    first = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
    )
    return (
        (first if system else "")
        + "{% for message in messages %}"
        + "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        + "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        + "{% for part in message['content'] %}"
        + "{% if part['type'] == 'audio' %}{{ '"
        + audio
        + "' }}"
        + "{% else %}{{ part['text'] }}{% endif %}"
        + "{% endfor %}{% endif %}"
        + "{{ '<|im_end|>\\n' }}"
        + "{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
