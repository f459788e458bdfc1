"""A model like CLAP of other models' parts: a Whisper encoder, a BERT sentence encoder, and new projections.

``recipes/compose_model.py --text-encoder`` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    ClapProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    initialization,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from lalm_mer.core.audio import Waveform
from lalm_mer.core.names import COMPOSED_OF
from lalm_mer.models.dual_encoder import DualEncoder
from lalm_mer.models.families import COMPOSED_CLAP
from lalm_mer.models.families.base import SPEECH_CORPORA
from lalm_mer.models.families.parts.composing import WHISPERS_DATA
from lalm_mer.models.families.parts.log_mel import log_mel, padded_samples
from lalm_mer.models.families.parts.tiny_shape import TinyShape, encoder_bpe, whisper_sizes
from lalm_mer.models.families.parts.whisper import transformer_states

__all__ = ["ComposedClap", "ComposedClapConfig", "ComposedClapModel", "composed_clap_model"]

_TEMPERATURE = 0.07  # that CLIP and CLAP begin with
_LARGEST_SCALE = 100.0  # that of CLIP


class ComposedClapConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is not followed
    """Configs of both encoders, and the width of the embeddings.

    Args:
        audio_config: of the Whisper, or its values
        text_config: of the BERT, or its values
        projection_dim: width of the embeddings
        others: of every config of transformers
    """

    model_type = COMPOSED_CLAP
    sub_configs: ClassVar[dict[str, type]] = {"audio_config": WhisperConfig, "text_config": BertConfig}

    def __init__(
        self,
        audio_config: Mapping[str, Any] | WhisperConfig | None = None,
        text_config: Mapping[str, Any] | BertConfig | None = None,
        projection_dim: int = 256,
        **others: Any,  # noqa: ANN401 of transformers
    ) -> None:
        for name, given in (("audio_config", audio_config), ("text_config", text_config)):
            kind = self.sub_configs[name]
            setattr(self, name, given if isinstance(given, kind) else kind(**(given or {})))
        self.projection_dim = projection_dim
        super().__init__(**others)


AutoConfig.register(COMPOSED_CLAP, ComposedClapConfig)  # AutoTokenizer looks it up


class _Projection(nn.Module):
    """An MLP with the names of CLAP's."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, size)
        self.linear2 = nn.Linear(size, size)

    def forward(self, pooled: Tensor) -> Tensor:
        projected: Tensor = self.linear2(nn.functional.gelu(self.linear1(pooled)))
        return projected


class _AudioProjection(_Projection):
    """With the temperature, which is so trained and saved whenever this projection is in full."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__(width, size)
        self.logit_scale = nn.Parameter(torch.full((1,), -math.log(_TEMPERATURE)))


class ComposedClapModel(PreTrainedModel):  # type: ignore[misc]
    """Both encoders, each with the mean over its frames or tokens and a projection."""

    config_class = ComposedClapConfig
    input_modalities = ("audio", "text")
    _supports_sdpa = True

    def __init__(self, config: ComposedClapConfig) -> None:
        super().__init__(config)
        audio, text = config.audio_config, config.text_config
        self.audio_model = WhisperEncoder(audio)
        self.audio_projection = _AudioProjection(audio.d_model, config.projection_dim)
        self.text_model = BertModel(text, add_pooling_layer=False)
        self.text_projection = _Projection(text.hidden_size, config.projection_dim)
        self.post_init()

    def get_audio_features(self, input_features: Tensor, audio_frames: Tensor) -> BaseModelOutputWithPooling:
        """Embeddings (B, D) as ``pooler_output``, and the Whisper's states (B, F, H).

        Args:
            input_features: (B, mel bins, frames)
            audio_frames: (B,), mel frames of each that are not padding
        """
        states, mask = transformer_states(self.audio_model, input_features, audio_frames)
        states = self.audio_model.layer_norm(states)
        return BaseModelOutputWithPooling(states, self.audio_projection(_mean(states, mask)))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutputWithPooling:
        """Embeddings (B, D) as ``pooler_output``, and the BERT's states (B, T, H).

        Args:
            input_ids: (B, T)
            attention_mask: (B, T), ones for tokens that are not padding; the mean is over these, as in
                sentence-transformers
        """
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return BaseModelOutputWithPooling(states, self.text_projection(_mean(states, attention_mask)))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, _AudioProjection):
            initialization.constant_(module.logit_scale, -math.log(_TEMPERATURE))


class ComposedClap(DualEncoder):
    """A composed model, with a Whisper feature extractor and the text encoder's tokenizer; both encode true lengths."""

    name = COMPOSED_CLAP
    model_class = ComposedClapModel
    processor_class = ClapProcessor  # any feature extractor and tokenizer
    published: ClassVar[Sequence[str]] = ()
    source_help = "a folder that recipes/compose_model.py wrote, or such a model on the Hub"
    licence = "those of its parts"
    contamination = dict.fromkeys(SPEECH_CORPORA, f"{WHISPERS_DATA}, so that no corpus can be ruled out.")
    adapter_targets: ClassVar[Mapping[str, Sequence[str]]] = {
        "audio_tower": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "audio_projector": ("linear1", "linear2"),
    }
    fsdp_layers = ("WhisperEncoderLayer", "BertLayer")

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A Whisper encoder of 64 mel bands and a BERT, composed."""
        tokenizer = encoder_bpe(shape)
        ids = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "decoder_start")}
        audio = whisper_sizes(shape, num_mel_bins=64, max_source_positions=shape.window_s * 50, vocab_size=8,
                              init_std=shape.initializer_range, **ids)  # fmt: skip
        text = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.hidden_size,
            max_position_embeddings=130,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=shape.initializer_range,
            pad_token_id=tokenizer.pad_token_id,
        )
        size = shape.hidden_size
        config = ComposedClapConfig(WhisperConfig(**audio), text, projection_dim=size, randomly_initialised=True)
        ComposedClapModel(config).save_pretrained(folder)
        extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=shape.window_s)
        ClapProcessor(extractor, tokenizer).save_pretrained(folder)

    def refuses(self, duration_s: float) -> str | None:
        """Why it cannot take audio of this duration, in seconds; None if it can."""
        longest_s = self.processor.feature_extractor.n_samples / self.sampling_rate
        if duration_s > longest_s:
            return f"{duration_s:.2f} s long; {self.name} takes {longest_s:g} s at most"
        return None if round(duration_s * self.sampling_rate) >= 1 else f"{duration_s:.6f} s has no sample"

    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Log-mel spectrograms, padded to the longest.

        Returns:
            ``input_features`` (B, mel bins, frames) and ``audio_frames`` (B,)

        Raises:
            AudioError: if a waveform has another rate
        """
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        features, frames = log_mel(self, waveforms, padded_samples(self, waveforms))
        return {"input_features": features, "audio_frames": frames}

    def scales(self) -> tuple[Tensor, Tensor]:
        """The same factor in both directions, 100 at most, as in CLIP."""
        model: Any = self.model
        scale = model.audio_projection.logit_scale.float().exp().clamp(max=_LARGEST_SCALE)
        return scale, scale

    @property
    def longest_description(self) -> int:
        """Longest text that the text encoder reads, in tokens, special ones included."""
        model: Any = self.model
        return min(int(model.config.text_config.max_position_embeddings), int(self.tokenizer.model_max_length))


def composed_clap_model(
    encoder: Any,  # noqa: ANN401 of transformers
    text_encoder: Any,  # noqa: ANN401
    *,
    origin: Mapping[str, Any],
    seed: int,
) -> Any:  # noqa: ANN401
    """The model; its projections are random, all other weights are those of the parts.

    Args:
        encoder: of a Whisper model of transformers
        text_encoder: a BERT of transformers without its pooling layer
        origin: where the parts are from, for the config
        seed: seed of the projections
    """
    named: dict[str, Any] = {COMPOSED_OF: dict(origin)}
    config = ComposedClapConfig(encoder.config, text_encoder.config, **named)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ComposedClapModel(config).to(encoder.dtype)
    model.audio_model.load_state_dict(encoder.state_dict())
    model.text_model.load_state_dict(text_encoder.state_dict())
    return model.eval()


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames or tokens that are not padding, (B, H)."""
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
