"""Voxtral (Liu et al. 2025): a Whisper encoder over full windows, a projector that joins frames by four, Mistral."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.models.families.base import AudioEncoder, Family, TowerOutput
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import LogMel, log_mel
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes, tower_sizes
from lalm_mer.models.loading import from_pretrained
from lalm_mer.prompting.conversation import Conversation

__all__ = ["Voxtral"]

_FRAMES_PER_TOKEN = 4
_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>"),
    *("<SPECIAL_22>", "<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"),
)
"""Control tokens by rank; transformers takes 24 as the audio token"""
_TURNS = {"system": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "user": ("[INST]", "[/INST]"), "assistant": ("", "</s>")}


class _FullWindow(LogMel):
    def token_count(self, family: Family, samples: int) -> int:
        """Placeholders of a full window."""
        window = torch.tensor(family.processor.feature_extractor.nb_max_frames)
        return int(self.tokens_of(window)) if samples > 0 else 0

    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Spectrograms: ``audio_features`` (A, mel bins, window frames)."""
        return {"audio_features": log_mel(family, waveforms)[0]}


class _JoinedFrames(AudioEncoder):
    def encode(self, family: Family, audio_features: Tensor) -> TowerOutput:
        """Tower output, four frames joined as the projector takes them."""
        tower: Any = family.submodule("audio_tower")
        frames = tower(audio_features).last_hidden_state
        states = frames.reshape(len(frames), -1, frames.shape[-1] * _FRAMES_PER_TOKEN)
        return TowerOutput(states, torch.full((len(states),), states.shape[1], device=states.device))


class Voxtral(Family):
    """Voxtral on transformers' own classes and mistral-common's tokenizer, which has no chat template.

    Published models take several windows of 30 s; here audio has one. The tower has no mask: audio is padded with
    silence to the full window, and all of it has placeholders. The published tokenizer refuses a system turn together
    with audio; the system message is put into the first user turn.
    """

    name = "voxtral"
    model_class = VoxtralForConditionalGeneration
    published = ("mistralai/Voxtral-Mini-3B-2507", "mistralai/Voxtral-Small-24B-2507")
    licence = "Apache-2.0"
    contamination = {}
    required_module = "mistral_common"
    stop_token = "</s>"
    audio_token = "[AUDIO]"
    towers = USUAL_TOWERS
    front_end = _FullWindow(lambda frames: frames // 2 // _FRAMES_PER_TOKEN)
    encoder = _JoinedFrames()
    decoder = InPlaceDecoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("linear_1", "linear_2")}
    fsdp_layers = ("VoxtralEncoderLayer", "LlamaDecoderLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A Whisper encoder of 128 mel bands, a Llama of the same width, and a tekken file of the words."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tekken.json").write_text(json.dumps(_tekken(shape)), encoding="utf-8")
        from transformers.tokenization_mistral_common import MistralCommonBackend  # here: the rest does without

        tokenizer = MistralCommonBackend(tokenizer_path=folder / "tekken.json")
        extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=shape.window_s)
        text = language_sizes(
            shape,
            tokenizer,
            head_dim=shape.hidden_size // shape.heads,
            bos_token_id=_SPECIAL.index("<s>"),
            eos_token_id=_SPECIAL.index(cls.stop_token),
            pad_token_id=_SPECIAL.index("<pad>"),
        )
        config = VoxtralConfig(
            audio_config=tower_sizes(shape, max_source_positions=shape.window_s * 50),
            text_config=LlamaConfig(**text).to_dict(),
            audio_token_id=_SPECIAL.index(cls.audio_token),
            initializer_range=shape.initializer_range,
        )
        cls.save_tiny(folder, config, VoxtralProcessor(extractor, tokenizer))

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> VoxtralProcessor:
        """Its processor; from a folder without a config, transformers would choose another tokenizer."""
        from transformers.tokenization_mistral_common import MistralCommonBackend  # here: the rest does without

        extractor = from_pretrained(WhisperFeatureExtractor, source, revision)
        return VoxtralProcessor(extractor, from_pretrained(MistralCommonBackend, source, revision))

    def prompt_ids(self, conversation: Conversation, audio_tokens: Sequence[int]) -> list[int]:
        """Token ids of a conversation up to the answer, placeholders expanded.

        The tokenizer never makes a control token of characters, so all control tokens are added here.

        Args:
            conversation: the messages
            audio_tokens: number of placeholders of each audio slot, in order

        Raises:
            ModelError: if slots and ``audio_tokens`` do not agree, or a turn has an unknown role
        """
        if conversation.audio_slots != len(audio_tokens):
            raise ModelError(
                f"{self.name}: {conversation.audio_slots} audio slots, as many placeholders and {len(audio_tokens)} "
                "waveforms; all three must agree"
            )
        counts = iter(audio_tokens)
        ids = [self._token_id("<s>")]
        system: list[int] = []  # the words of a system turn before audio
        for message in conversation.messages:
            if message.role not in _TURNS:
                raise ModelError(f"{self.name}: a turn of {message.role!r}; expected turns of {', '.join(_TURNS)}")
            content: list[int] = []
            for part in message.parts:
                if part.kind == "audio":
                    content += [self._token_id("[BEGIN_AUDIO]"), *[self.audio_token_id] * next(counts)]
                else:
                    content += self.word_ids(part.words)
            if message.role == "system" and audio_tokens:
                system += content + self.word_ids("\n\n")
                continue
            begin, end = _TURNS[message.role]
            ids += [*([self._token_id(begin)] if begin else []), *system, *content, self._token_id(end)]
            system = []
        return ids

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words; mistral-common never makes a control token of them."""
        ids: list[int] = self.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
        return ids


def _tekken(shape: TinyShape) -> dict[str, Any]:
    """A tekken file: all bytes, merged words by rank, control tokens, and the window of audio."""
    trained = byte_level_bpe(shape, ["<unk>"], eos="<unk>", pad="<unk>").get_vocab()
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    merged = [
        bytes(byte_of[character] for character in token)
        for token in sorted(trained, key=trained.__getitem__)
        if token != "<unk>" and len(token) > 1
    ]
    words = [bytes([byte]) for byte in range(256)] + merged
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": token.decode(errors="replace")}
        for rank, token in enumerate(words)
    ]
    return {
        "vocab": vocab,
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(_SPECIAL)
        ],
        "config": {
            "pattern": r" ?\S+|\s+",
            "num_vocab_tokens": len(vocab),
            "default_vocab_size": len(vocab) + len(_SPECIAL),
            "default_num_special_tokens": len(_SPECIAL),
            "version": "v7",
        },
        "version": 1,
        "type": "Tekken",
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
            "chunk_length_s": float(shape.window_s),
        },
    }
