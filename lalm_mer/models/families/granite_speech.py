"""Granite Speech (Saon et al. 2025): a conformer over blocks, a Q-Former over windows, Granite as language model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import (
    BatchFeature,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
    SequenceFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank
from transformers.utils import is_torchaudio_available

from lalm_mer.models.families.base import Family, TowerOutput
from lalm_mer.models.families.parts.audio_only import open_processor_parts
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, InPlaceDecoder
from lalm_mer.models.families.parts.log_mel import frame_mask
from lalm_mer.models.families.parts.merged_adapters import merge_published
from lalm_mer.models.families.parts.own_length import OwnLength, OwnLengthEncoder
from lalm_mer.models.families.parts.templates import join_parts_before, load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["GraniteSpeech", "TorchMelExtractor"]

# Without a system message the published template writes today's date: scores would change every day.
# These are the words of the model card's example.
_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: April 9, 2025.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)


class TorchMelExtractor(GraniteSpeechFeatureExtractor):  # type: ignore[misc]
    """transformers' extractor without torchaudio.

    The parent's three methods that require torchaudio are replaced: power spectrogram, HTK mel bands, log10 limited to
    8 below the clip's maximum, two frames stacked to one. The arguments and the count of placeholders are the parent's.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        n_fft: int = 512,
        win_length: int = 400,
        hop_length: int = 160,
        n_mels: int = 80,
        projector_window_size: int = 15,
        projector_downsample_rate: int = 5,
        padding_value: float = 0.0,
        **kwargs: Any,  # noqa: ANN401 the parent's
    ) -> None:
        bands = kwargs.pop("feature_size", None) or n_mels
        # skips the parent's constructor, which requires torchaudio
        SequenceFeatureExtractor.__init__(self, bands, sampling_rate, padding_value, **kwargs)
        self.melspec_kwargs = {
            "sample_rate": sampling_rate,
            "n_fft": n_fft,
            "win_length": win_length,
            "hop_length": hop_length,
            "n_mels": n_mels,
        }
        self.mel_filters = mel_filter_bank(
            n_fft // 2 + 1, n_mels, 0.0, sampling_rate / 2, sampling_rate, norm=None, mel_scale="htk"
        )  # under a name that is not saved, as the parent's
        self.projector_window_size = projector_window_size
        self.projector_downsample_rate = projector_downsample_rate

    def __call__(self, audios: Tensor | Sequence[npt.NDArray[np.float32]], device: str | None = "cpu") -> BatchFeature:
        """Features, counts of placeholders and their mask."""
        counts = self._get_num_audio_features([len(samples) for samples in audios])
        padded = nn.utils.rnn.pad_sequence([torch.as_tensor(samples) for samples in audios], batch_first=True)
        return BatchFeature(
            {
                "input_features": self._extract_mel_spectrograms(padded, device),
                "audio_embed_sizes": counts,
                "input_features_mask": frame_mask(torch.tensor(counts), max(counts)),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Settings under the parent's name, so that transformers can open them without this library."""
        return {**super().to_dict(), "feature_extractor_type": GraniteSpeechFeatureExtractor.__name__}

    def _extract_mel_spectrograms(self, audio: Tensor, device: str | None = "cpu") -> Tensor:
        """(A, samples) -> (A, frames, 2 * mel bins)."""
        settings = self.melspec_kwargs
        audio = audio.float().to(device)
        spectrum = torch.stft(
            audio,
            settings["n_fft"],
            settings["hop_length"],
            settings["win_length"],
            window=torch.hann_window(settings["win_length"], device=audio.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        filters = torch.from_numpy(self.mel_filters).to(audio)
        mel = (spectrum.abs() ** 2).transpose(-1, -2) @ filters
        log_mel = mel.clamp(min=1e-10).log10()
        loudest = log_mel.amax(dim=(-2, -1), keepdim=True)
        log_mel = torch.maximum(log_mel, loudest - 8.0) / 4 + 1
        even = log_mel.shape[1] // 2 * 2  # an odd last frame is dropped
        return log_mel[:, :even].reshape(len(audio), -1, 2 * settings["n_mels"])


_EXTRACTOR: type[Any] = GraniteSpeechFeatureExtractor if is_torchaudio_available() else TorchMelExtractor


class _FrontEnd(OwnLength):
    def token_count(self, family: Family, samples: int) -> int:
        """Queries of all windows, the last one padded; 0 if the extractor cannot pad by reflection."""
        config = family.model.config
        windows = -(-_tower_frames(family, samples) // int(config.window_size))
        return windows * (int(config.window_size) // int(config.downsample_rate))

    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """A normalised log-mel spectrogram, two mel frames stacked to one."""
        extractor = family.processor.feature_extractor
        if not _tower_frames(family, len(samples)):
            return torch.zeros((0, 2 * int(extractor.melspec_kwargs["n_mels"])))
        features: Tensor = extractor([samples])["input_features"][0]
        return features


class _Conformer(OwnLengthEncoder):
    def encode(self, family: Family, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:
        """Tower output, in which the frames of one placeholder are stacked; the last window is padded with zeros."""
        for module in family.submodule("audio_tower").modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()  # keeps the running statistics of the weights: an adapter would not store others
        stacked = int(family.model.config.downsample_rate)
        output = super().encode(family, audio_features, audio_frames)
        count, frames, width = output.states.shape
        return TowerOutput(output.states.reshape(count, frames // stacked, width * stacked), output.lengths // stacked)


class _NoPaddingAsKey(TorchFunctionMode):
    """Excludes padding as keys of transformers' attention within blocks, which has no argument for a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self._padding = ~mask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            bias = kwargs["attn_mask"]  # (N * blocks, heads, block, block)
            size = bias.shape[-1]
            padding = nn.functional.pad(self._padding, (0, -self._padding.shape[1] % size), value=True)
            blocks = padding.view(-1, size)
            blocks = blocks & ~blocks.all(dim=1, keepdim=True)  # what is in a block of padding does not matter
            bias = bias.masked_fill(blocks[:, None, None], torch.finfo(bias.dtype).min)
            kwargs = {**kwargs, "attn_mask": bias}
        return func(*args, **kwargs)


def _tower_states(tower: Any, features: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401 transformers' own class
    """Output of the tower, whose convolutions and attention have no mask: padding is zero before each, and no key."""

    def zero(_: nn.Module, args: tuple[Tensor]) -> Tensor:
        return args[0].masked_fill(~mask[:, None], 0)

    with ExitStack() as changes:
        for layer in tower.layers:
            changes.callback(layer.conv.depth_conv.register_forward_pre_hook(zero).remove)
        changes.enter_context(_NoPaddingAsKey(mask))
        states: Tensor = tower(features).last_hidden_state
    return states


def _window_frames(family: Family, frames: Tensor) -> Tensor:
    """Tower frames in full windows of the projector."""
    size = int(family.model.config.window_size)
    return -(-frames // size) * size


class _Decoder(InPlaceDecoder):
    def project(self, family: Family, states: Tensor) -> Tensor:
        """The Q-Former on unstacked frames."""
        frames = states.shape[1] * family.model.config.downsample_rate
        return super().project(family, states.reshape(len(states), frames, -1))

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer, scaled as the language model was trained."""
        return super().logits(family, hidden) / float(family.model.config.text_config.logits_scaling)


class GraniteSpeech(Family):
    """Granite Speech 3.3 on transformers' own classes.

    The LoRA adapter of the weights, which their authors enable for all inputs with audio, is merged into the language
    model, for prompts without audio too. Padding is excluded from the tower, so that scores do not depend on the
    batch; in the model's own forward, it changes the shorter ones.
    According to its model card it was trained on public corpora of speech recognition and translation, and synthetic
    ones. Logits are divided by the language model's ``logits_scaling``, as in Granite's own head and in training;
    transformers 5.23 does not do so.
    """

    name = "granite_speech"
    model_class = GraniteSpeechForConditionalGeneration
    has_published_adapter = True
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
    encoder = _Conformer(_tower_states, _window_frames, width="hidden_dim")
    decoder = _Decoder()
    adapter_targets = {"language_model": LLAMA_LINEAR, "projector": ("query", "key", "value", "linear")}
    fsdp_layers = ("GraniteSpeechConformerBlock", "Blip2QFormerLayer", "GraniteDecoderLayer")

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 transformers' own class
        super().__init__(model, processor)
        model.supports_gradient_checkpointing = True  # its language model does; the outer class does not declare it

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """The published windows of 15 frames and 3 queries, and a Granite of the same width."""
        special = [cls.stop_token, "<|start_of_role|>", "<|end_of_role|>", cls.audio_token]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad=cls.stop_token)
        processor = GraniteSpeechProcessor(_EXTRACTOR(), tokenizer, chat_template=load_template(cls.name))
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
            text_config=language_sizes(shape, tokenizer, bos_token_id=tokenizer.eos_token_id),
            audio_token_index=tokenizer.convert_tokens_to_ids(cls.audio_token),
            initializer_range=shape.initializer_range,
            has_lora_adapter=False,
            tie_word_embeddings=False,
        )
        config.longest_audio_s = shape.window_s
        cls.save_tiny(folder, config, processor)

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> GraniteSpeechProcessor:
        """The processor, with a template that takes audio slots and writes no date."""
        extractor, tokenizer, template = open_processor_parts(cls, _EXTRACTOR, source, revision)
        processor = GraniteSpeechProcessor(
            extractor, tokenizer, chat_template=join_parts_before(template, cls.audio_token, _SYSTEM)
        )
        processor.feature_extractor = extractor  # its name in other processors
        return processor

    def merge_published_adapter(self, source: str, revision: str | None) -> None:
        """Merge the adapter that is published with the weights."""
        merge_published(self.model, self.name, source, revision, dtype=self.model.dtype)


def _tower_frames(family: Family, samples: int) -> int:
    mel: dict[str, int] = family.processor.feature_extractor.melspec_kwargs
    if samples <= mel["n_fft"] // 2:
        return 0
    return (samples // mel["hop_length"] + 1) // 2
