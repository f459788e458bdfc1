"""Qwen3-ASR (Qwen team 2026): a tower that attends in windows of 8 s, a two-layer projector, Qwen3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from lalm_mer.models.families.base import AudioEncoder, Family, TowerOutput
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import frame_mask, halved_thrice
from lalm_mer.models.families.parts.own_length import OwnLength
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes, whisper_sizes

__all__ = ["Qwen3Asr"]

_FILLER = "<|endoftext|>"
_NAMED = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}


class _FrontEnd(OwnLength):
    """Each utterance by itself: in a batch, the extractor makes the last frame of the longest depend on the others."""

    def token_count(self, family: Family, samples: int) -> int:
        """13 for each full second and, for the rest, its mel frames halved three times; at least those of 0.5 s."""
        if samples < 1:
            return 0
        extractor = family.processor.feature_extractor
        frames = max(samples, int(extractor.min_length)) // int(extractor.hop_length)
        return int(halved_thrice(torch.tensor(frames), 2 * int(extractor.n_window)))

    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram."""
        batch = family.processor.feature_extractor(
            [samples],
            sampling_rate=family.sampling_rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return torch.as_tensor(batch["input_features"][0, :, : int(batch["attention_mask"].sum())]).T


class _PackingTower(AudioEncoder):
    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output; the tower packs the utterances, so that none depends on another or on padding."""
        tower: Any = family.submodule("audio_tower")
        chunk = 2 * int(tower.config.n_window)
        features = nn.functional.pad(audio_features.mT, (0, -audio_features.shape[1] % chunk)).to(tower.dtype)
        mask = frame_mask(audio_frames, features.shape[-1]).long()
        packed = tower(features.contiguous(), input_features_mask=mask).last_hidden_state
        lengths = halved_thrice(audio_frames, chunk)
        return TowerOutput(pad_sequence(list(packed.split(lengths.tolist())), batch_first=True), lengths)


class Qwen3Asr(Family):
    """Qwen3-ASR on transformers' own classes.

    It was trained to transcribe: fine-tune it before you use it for emotions. Its published template drops the user's
    words and keeps the system's, as context of the transcription, so this family writes all words into the system turn.
    The authors pad audio shorter than 0.5 s with silence, so none is too short.
    """

    name = "qwen3_asr"
    model_class = Qwen3ASRForConditionalGeneration
    published = ("Qwen/Qwen3-ASR-1.7B-hf", "Qwen/Qwen3-ASR-0.6B-hf")
    licence = "Apache-2.0"
    contamination = {}
    stop_token = "<|im_end|>"
    audio_token = _NAMED["audio_token"]
    single_turn_reason = "its processor takes one waveform a conversation, and its template has one user turn"
    towers = USUAL_TOWERS
    front_end = _FrontEnd(longest_s=1200.0)  # the authors' qwen_asr/inference/utils.py cuts longer audio
    encoder = _PackingTower()
    decoder = InPlaceDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("linear_1", "linear_2")}
    fsdp_layers = ("Qwen3ASRAudioEncoderLayer", "Qwen3DecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A tower of 128 mel bands and a Qwen3 of the same width."""
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
        processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=load_template(cls.name))
        sizes = {"output_dim": shape.hidden_size, "initializer_range": shape.initializer_range}
        head_dim = shape.hidden_size // shape.heads
        config = Qwen3ASRConfig(
            audio_config=whisper_sizes(shape, downsample_hidden_size=8, **sizes),
            text_config=language_sizes(shape, tokenizer, head_dim=head_dim, tie_word_embeddings=True),
            audio_token_id=tokenizer.convert_tokens_to_ids(cls.audio_token),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=shape.initializer_range,
        )
        config.longest_audio_s = float(shape.window_s)
        cls.save_tiny(folder, config, processor)

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Any:  # noqa: ANN401 transformers' own
        """The published processor, with a template that keeps the user's words."""
        processor = super().load_processor(source, revision)
        processor.chat_template = load_template(cls.name).replace("message['role'] == 'system'", "true")
        return processor
