"""CLAP (Wu et al. 2023, LAION's)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    ClapTextConfig,
)

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models.dual_encoder import DualEncoder
from lalm_mer.models.families import CLAP
from lalm_mer.models.families.parts.tiny_shape import TinyShape, encoder_bpe
from lalm_mer.models.laion_checkpoint import DERIVED_BUFFERS

__all__ = ["Clap"]

_MEL_BANDS = 64  # ClapFeatureExtractor can fuse no other number
_FRAMES_PER_S = 100
_SOURCES = (
    "the sources of LAION-Audio-630K and the other corpora of the paper (Wu et al. 2023, arXiv:2211.06687; lists in "
    "LAION-AI/audio-dataset, laion-audio-630k/)"
)
_LISTED = (
    f"not named among {_SOURCES}, but in the project's list of collected data (data_collection/README.md, as "
    "{status}), and which of that list's speech larger_clap_music_and_speech learned from is not published."
)
_NOT_LISTED = (
    f"not named among {_SOURCES}, nor in the project's list of collected data (data_collection/README.md); which "
    "speech larger_clap_music_and_speech learned from is not published."
)


class Clap(DualEncoder):
    """A CLAP on transformers' own classes, with its processor.

    Raises:
        ModelError: if the feature extractor fuses long audio and the model does not, or the reverse
    """

    name = CLAP
    model_class = ClapModel
    processor_class = ClapProcessor
    published = (
        "laion/clap-htsat-unfused",
        "laion/clap-htsat-fused",
        "laion/larger_clap_general",
        "laion/larger_clap_music_and_speech",
    )
    source_help = "a Hub id or a local folder (a .pt file of laion-clap is converted first)"
    licence = "Apache-2.0"
    contamination: ClassVar[Mapping[str, str]] = {
        "ravdess": _LISTED.format(status="processed"),
        "crema_d": _LISTED.format(status="processed"),
        "iemocap": _LISTED.format(status="assigned"),
        "msp_podcast": _NOT_LISTED,
        "meld": _NOT_LISTED,
        "mosei": f"{_NOT_LISTED} Its videos are YouTube's, as AudioSet's are, which the paper trains on.",
        "emodb": _NOT_LISTED,
    }
    adapter_targets: ClassVar[Mapping[str, Sequence[str]]] = {
        "audio_tower": ("query", "key", "value", "dense"),
        "audio_projector": ("linear1", "linear2"),
    }
    fsdp_layers = ("ClapAudioLayer", "ClapTextLayer")
    derived_buffers = DERIVED_BUFFERS

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 transformers is not followed
        super().__init__(model, processor)
        self.extractor = processor.feature_extractor
        self.fuses = bool(model.config.audio_config.enable_fusion)
        if self.fuses != (self.extractor.truncation == "fusion"):
            raise ModelError(
                f"clap: the model has enable_fusion={self.fuses}, but its feature extractor has "
                f"truncation={self.extractor.truncation!r}; expected fusion with the one, rand_trunc without"
            )

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape, *, fuses: bool = False) -> None:
        """Save a randomly initialised CLAP: an HTS-AT of two stages, a RoBERTa, and a processor; no download.

        Raises:
            ConfigError: if the window is longer than the 10 s that HTS-AT takes
        """
        frames = shape.window_s * _FRAMES_PER_S + 1
        spec_size = next((size for size in (128, 256) if frames <= size * size // _MEL_BANDS), None)
        if spec_size is None:
            raise ConfigError(f"a window of {shape.window_s} s: clap takes 10 s at most")
        tokenizer = encoder_bpe(shape)
        factor = shape.initializer_range / 0.02
        config = ClapConfig(
            text_config=ClapTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=4 * shape.hidden_size,
                max_position_embeddings=130,
                layer_norm_eps=1e-5,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_factor=factor,
            ).to_dict(),
            audio_config=ClapAudioConfig(
                spec_size=spec_size,
                patch_embeds_hidden_size=shape.hidden_size // 2,
                hidden_size=shape.hidden_size,
                depths=[shape.layers] * 2,
                num_attention_heads=[shape.heads] * 2,
                hidden_dropout_prob=0.0,
                enable_fusion=fuses,
                fusion_type="aff_2d" if fuses else None,
                initializer_factor=factor,
            ).to_dict(),
            projection_dim=shape.hidden_size,
            initializer_factor=factor,
            randomly_initialised=True,
        )
        extractor = ClapFeatureExtractor(
            max_length_s=shape.window_s, frequency_min=50, truncation="fusion" if fuses else "rand_trunc"
        )
        model = ClapModel(config)
        # the input is in decibels, which a random tower cannot distinguish without normalisation
        norm = model.audio_model.audio_encoder.batch_norm
        nn.init.constant_(norm.running_mean, -40.0)
        nn.init.constant_(norm.running_var, 400.0)
        model.save_pretrained(folder)
        ClapProcessor(extractor, tokenizer).save_pretrained(folder)

    def refuses(self, duration_s: float) -> str | None:
        """Why it cannot take audio of this duration, in seconds; None if it can."""
        return None if round(duration_s * self.sampling_rate) >= 1 else f"{duration_s:.6f} s has no sample"

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Log-mel spectrograms as ClapFeatureExtractor makes them, without its random choices.

        Audio shorter than the window is repeated and padded by the extractor. Of longer audio the extractor takes a
        random crop: here it is the middle one. With fusion it adds three random crops, one from each third of their
        possible starts: here each is the middle of its third. With fusion and no longer audio in a batch, it marks a
        random clip as longer: here none is. So the score of a clip is the same in any batch and any run.

        Returns:
            ``input_features`` (B, 1, F, 64), or (B, 4, F, 64) with fusion; ``is_longer`` (B, 1)

        Raises:
            AudioError: if a waveform has another rate
        """
        rows = []
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
            rows.append(self._log_mel(waveform))
        return {
            "input_features": torch.stack([mel for mel, _ in rows]),
            "is_longer": torch.tensor([[longer] for _, longer in rows]),
        }

    def scales(self) -> tuple[Tensor, Tensor]:
        """Factors of the cosines of an audio with texts, and of a text with audio."""
        model: Any = self.model
        return model.logit_scale_a.float().exp(), model.logit_scale_t.float().exp()

    @property
    def longest_description(self) -> int:
        """Longest text that the text encoder reads, in tokens, special ones included."""
        model: Any = self.model
        return int(model.config.text_config.max_position_embeddings) - 2  # positions begin after that of padding

    def _log_mel(self, waveform: Waveform) -> tuple[Tensor, bool]:
        """A spectrogram (1 or 4, F, 64), and whether it has three crops of longer audio."""
        samples, window = waveform.samples, int(self.extractor.nb_max_samples)
        over = len(samples) - window
        if over > 0 and self.fuses:
            return self._fused(self._extracted(samples, max_length=len(samples))[0], window)
        start = max(over, 0) // 2
        return self._extracted(samples[start : start + window], max_length=window), False

    def _fused(self, mel: Tensor, window: int) -> tuple[Tensor, bool]:
        """The complete spectrogram resized to the window, and its three crops, each of F frames."""
        frames = window // int(self.extractor.hop_length) + 1
        if len(mel) == frames:  # longer by less than a frame
            return mel.expand(4, -1, -1), False
        thirds = torch.arange(len(mel) - frames + 1).tensor_split(3)
        starts = [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]
        resized = nn.functional.interpolate(mel[None, None], size=[frames, _MEL_BANDS], mode="bilinear")[0, 0]
        return torch.stack([resized, *(mel[start : start + frames] for start in starts)]), True

    def _extracted(self, samples: Any, max_length: int) -> Tensor:  # noqa: ANN401 an array
        inputs = self.extractor(samples, sampling_rate=self.sampling_rate, max_length=max_length, return_tensors="pt")
        features: Tensor = inputs["input_features"][0].float()
        return features
