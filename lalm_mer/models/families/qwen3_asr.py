"""Qwen3-ASR (Qwen team 2026): a tower that attends in windows of 8 s, a two-layer projector, Qwen3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import AddedToken
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3ASRConfig,
    Qwen3ASREncoderConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Qwen3Config,
)

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.parts.in_place import InPlaceFamily
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Qwen3Asr"]

_LONGEST_S = 1200.0
"""MAX_ASR_INPUT_SECONDS of the authors' qwen_asr/inference/utils.py: longer audio is cut before it is transcribed."""
_FILLER = "<|endoftext|>"
_NAMED = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}


def _template(words_from: str) -> str:
    """One system turn with words, one user's turn with audio, whatever the conversation is made of.

    Args:
        words_from: condition on ``message`` under which its words are written into the system turn
    """
    return (
        "{% set said = namespace(words='', audio='') %}"
        "{% for message in messages %}"
        "{% set own = namespace(words='') %}"
        "{% if message['content'] is string %}{% set own.words = message['content'] %}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'audio' %}"
        "{% set said.audio = said.audio + '<|audio_start|><|audio_pad|><|audio_end|>' %}"
        "{% else %}{% set own.words = own.words + part['text'] %}{% endif %}"
        "{% endfor %}{% endif %}"
        "{% if own.words and " + words_from + " %}"
        "{% set said.words = said.words + ('\\n' if said.words else '') + own.words %}"
        "{% endif %}"
        "{% endfor %}"
        "{{ '<|im_start|>system\\n' + said.words + '<|im_end|>\\n' }}"
        "{{ '<|im_start|>user\\n' + said.audio + '<|im_end|>\\n' }}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


class Qwen3Asr(InPlaceFamily):
    """Qwen3-ASR on transformers' own classes; published as Qwen/Qwen3-ASR-1.7B-hf and -0.6B-hf (Apache-2.0).

    It was made to transcribe: fine-tune it before you ask it for emotions. Its published template drops what a user
    says and keeps the system's words, as context of the transcription, so this family writes all words there, the
    system's first: each prompt is then one that the published template makes too. The authors pad audio below 0.5 s
    with silence, so none is too short. Each utterance goes through the front end alone: in a batch, transformers'
    own extractor makes the last frame of the longest one depend on its neighbours.
    """

    name = "qwen3_asr"
    stop_token = "<|im_end|>"
    audio_token = _NAMED["audio_token"]
    model_class = Qwen3ASRForConditionalGeneration
    published = ("Qwen/Qwen3-ASR-1.7B-hf", "Qwen/Qwen3-ASR-0.6B-hf")
    licence = "Apache-2.0"
    contamination = {}  # noqa: RUF012 constant
    one_turn = "its processor takes one waveform a conversation, and its template has one user's turn"
    pads_short_audio: ClassVar[bool] = True
    """Its front end fills what is shorter than 0.5 s with silence"""

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands over a Qwen3 of the same width; the longest audio is written into its config."""
        special = [_FILLER, "<|im_start|>", "<|im_end|>", *_NAMED.values()]
        plain = byte_level_bpe(shape, special, eos=cls.stop_token, pad=_FILLER)
        plain.add_tokens([AddedToken("<asr_text>", special=False, normalized=False)])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=plain.backend_tokenizer,
            eos_token=cls.stop_token,
            pad_token=_FILLER,
            extra_special_tokens=["<|im_start|>"],
            **_NAMED,
        )
        processor = Qwen3ASRProcessor(
            Qwen3ASRFeatureExtractor(), tokenizer, chat_template=_template("message['role'] == 'system'")
        )
        config = Qwen3ASRConfig(
            audio_config=Qwen3ASREncoderConfig(
                encoder_layers=shape.layers,
                encoder_attention_heads=shape.heads,
                encoder_ffn_dim=4 * shape.hidden_size,
                d_model=shape.hidden_size,
                output_dim=shape.hidden_size,
                downsample_hidden_size=8,
                initializer_range=shape.initializer_range,
            ).to_dict(),
            text_config=Qwen3Config(
                **language_sizes(shape, len(tokenizer)),
                head_dim=shape.hidden_size // shape.heads,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ).to_dict(),
            audio_token_id=tokenizer.convert_tokens_to_ids(cls.audio_token),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=shape.initializer_range,
        )
        config.longest_audio_s = float(shape.window_s)
        cls.save_tiny(folder, config, processor)

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Any:  # noqa: ANN401 transformers' own
        """The published processor, with a template that keeps what a user says."""
        processor = super().load_processor(source, revision)
        processor.chat_template = _template("true")
        return processor

    @property
    def longest_audio_s(self) -> float:
        """20 minutes, as the authors allow, or what the model's config says."""
        return float(getattr(self.model.config, "longest_audio_s", _LONGEST_S))

    def audio_token_count(self, samples: int) -> int:
        """13 for each whole second and, for the rest, its mel frames halved three times; 0.5 s at least."""
        if samples < 1:
            return 0
        extractor = self.processor.feature_extractor
        frames = max(samples, int(extractor.min_length)) // int(extractor.hop_length)
        return int(_tokens_of(torch.tensor(frames), int(extractor.n_window)))

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Log-mel spectrograms, each made alone and then padded with nothing to whole seconds.

        Returns:
            ``audio_features`` (A, mel bins, frames) and ``audio_frames`` (A,)

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        features, frames = [], []
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
            alone = self.processor.feature_extractor(
                [waveform.samples],
                sampling_rate=self.sampling_rate,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
            features.append(alone["input_features"][0])
            frames.append(alone["attention_mask"].sum())
        width = max(each.shape[1] for each in features)
        padded = [pad(each, (0, width - each.shape[1])) for each in features]
        return {"audio_features": torch.stack(padded), "audio_frames": torch.stack(frames)}

    def encode_audio(self, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:  # type: ignore[override]
        """Step one; the tower itself packs the utterances, so that none sees another or any padding."""
        tower: Any = self.submodule("audio_tower")
        inside = torch.arange(audio_features.shape[-1], device=audio_frames.device)[None, :] < audio_frames[:, None]
        packed = tower(audio_features.to(tower.dtype), input_features_mask=inside.long()).last_hidden_state
        lengths = _tokens_of(audio_frames, int(tower.config.n_window))
        return TowerOutput(pad_sequence(list(packed.split(lengths.tolist())), batch_first=True), lengths)


def _tokens_of(frames: Tensor, n_window: int) -> Tensor:
    """Three convolutions of stride 2 on chunks of ``2 * n_window`` mel frames, of which only the last is shorter."""
    rest, whole = frames % (2 * n_window), torch.full_like(frames, 2 * n_window)
    for _ in range(3):
        rest, whole = (rest - 1) // 2 + 1, (whole - 1) // 2 + 1
    return rest + frames // (2 * n_window) * whole
