"""Qwen2-Audio (Chu et al. 2024): a Whisper-like tower, a linear projector, Qwen2 as language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
from transformers.masking_utils import create_bidirectional_mask

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.models.families.base import Family, LanguageInputs, TowerOutput, fill_placeholders

__all__ = ["Qwen2Audio"]


class Qwen2Audio(Family):
    """Qwen2-Audio on transformers' own classes; published as Qwen/Qwen2-Audio-7B-Instruct (Apache-2.0)."""

    name = "qwen2_audio"
    stop_token = "<|im_end|>"
    audio_token = "<|AUDIO|>"
    towers = {  # noqa: RUF012 constant
        "audio_tower": "model.audio_tower",
        "projector": "model.multi_modal_projector",
        "language_model": "model.language_model",
    }

    @classmethod
    def load(cls, model_id: str | Path, *, revision: str | None, dtype: str, attn_implementation: str) -> Qwen2Audio:
        """Load model and processor.

        Raises:
            ModelError: naming the id, if it cannot be found or is no Qwen2-Audio
        """
        source = str(model_id)
        try:
            processor = AutoProcessor.from_pretrained(source, revision=revision)
            model = Qwen2AudioForConditionalGeneration.from_pretrained(
                source,
                revision=revision,
                dtype=getattr(torch, dtype),
                attn_implementation=attn_implementation,
                use_safetensors=True,
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"model {source!r} cannot be loaded as {cls.name}: {reason}; model.id is a Hub id or a local folder"
            ) from error
        return cls(model, processor)

    @property
    def sampling_rate(self) -> int:
        """Rate of the audio it takes, in Hz."""
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def longest_audio_s(self) -> float:
        """The tower's window, in seconds: 30 for the published model."""
        return float(self.processor.feature_extractor.n_samples / self.sampling_rate)

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
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        batch = self.processor.feature_extractor(
            [waveform.samples for waveform in waveforms],
            sampling_rate=self.sampling_rate,
            padding="max_length",
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"audio_features": batch["input_features"], "audio_frames": batch["attention_mask"].sum(-1)}

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

    def hidden_states(self, inputs: LanguageInputs, audio: TowerOutput | None) -> Tensor:
        """Step two: (B, T, H)."""
        language_model: Any = self.submodule("language_model")
        embeddings = language_model.get_input_embeddings()(inputs.input_ids)
        if audio is not None:
            projected = self.submodule("projector")(audio.states)
            is_audio = inputs.input_ids == self.audio_token_id
            embeddings = fill_placeholders(embeddings, is_audio, projected, audio.lengths, self.name)
        hidden: Tensor = language_model(
            inputs_embeds=embeddings,
            position_ids=inputs.position_ids,
            attention_mask=inputs.attention_mask,
            use_cache=False,
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """The output layer."""
        logits: Tensor = self.model.get_submodule("lm_head")(hidden)
        return logits
