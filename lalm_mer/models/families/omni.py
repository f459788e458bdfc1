"""What the Qwen Omni families share: a thinker that is heard through its own projector, inside the audio tower."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import LanguageInputs, TowerOutput
from lalm_mer.models.families.in_place import InPlaceFamily
from lalm_mer.models.families.plain_words import plain_word_ids

__all__ = ["AudioOnlyProcessor", "OmniFamily", "chat_template"]


class AudioOnlyProcessor(ProcessorMixin):  # type: ignore[misc]
    """Goes before a published processor, whose constructor asks for torchvision for the sake of pictures.

    Args:
        feature_extractor: of log-mel spectrograms
        tokenizer: with the audio token among its special tokens
        chat_template: as published
    """

    audio_token: str
    image_token = video_token = None

    def __init__(
        self,
        feature_extractor: Any = None,  # noqa: ANN401 transformers builds it by name
        tokenizer: PreTrainedTokenizerFast | None = None,
        chat_template: str | None = None,
    ) -> None:
        ProcessorMixin.__init__(self, feature_extractor, tokenizer, chat_template=chat_template)
        self.audio_token_id = self.tokenizer.convert_tokens_to_ids(self.audio_token)


class OmniFamily(InPlaceFamily):
    """The thinker of a Qwen Omni model; talker and codec are not loaded.

    The projector is the last linear layer of the audio tower, so that the one stands within the other.
    """

    stop_token = "<|im_end|>"
    beside = ("model.visual",)
    processor_class: type[AudioOnlyProcessor]
    """The published processor's class behind ``AudioOnlyProcessor``"""

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Any:  # noqa: ANN401 each family's own class
        """Its processor without images and video, which need torchvision."""
        return cls.processor_class.from_pretrained(source, revision=revision)

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words as plain characters, ``<tool_call>`` and the like too, which are added but not special."""
        return plain_word_ids(self.tokenizer, words, self.name)

    @abstractmethod
    def tokens_of(self, frames: Tensor) -> Tensor:
        """How many placeholders so many mel frames fill."""

    @property
    def longest_audio_s(self) -> float:
        """What the processor takes, in seconds: 300 for the published models; the tower itself works in chunks."""
        return float(self.processor.feature_extractor.n_samples / self.sampling_rate)

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
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        hop = int(extractor.hop_length)
        # silence for the last analysis window to reach into, as far as the processor's own padding has it
        longest = max(len(waveform.samples) for waveform in waveforms) + int(extractor.n_fft)
        batch = extractor(
            [waveform.samples for waveform in waveforms],
            sampling_rate=self.sampling_rate,
            padding="max_length",
            max_length=min(-(-longest // hop) * hop, int(extractor.n_samples)),
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"audio_features": batch["input_features"], "audio_frames": batch["attention_mask"].sum(-1)}

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
