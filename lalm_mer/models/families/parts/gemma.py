"""What the Gemma families with audio share: embeddings in every layer, sliding attention, capped logits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lalm_mer.models.families.base import SPEECH_CORPORA, LanguageInputs, TowerOutput, fill_placeholders
from lalm_mer.models.families.parts.own_length import OwnLengthFamily

__all__ = ["GemmaFamily", "sliding_masks"]

_UNKNOWN = "What audio it was trained on is not public as a whole, so that no corpus can be ruled out."


class GemmaFamily(OwnLengthFamily):
    """Gemma with an audio tower of its own.

    Sliding attention is kept where answers share a prompt: a token sees as far back, in positions, as it would alone.
    """

    towers = {  # noqa: RUF012 constant
        "audio_tower": "model.audio_tower",
        "projector": "model.embed_audio",
        "language_model": "model.language_model",
    }
    contamination = dict.fromkeys(SPEECH_CORPORA, _UNKNOWN)

    @abstractmethod
    def embedded(self, ids: Tensor, is_audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, T, H) of token ids, and those that go into every layer, where there are such."""

    def project(self, states: Tensor) -> Tensor:
        """The projector, which takes token ids too and wants to be told."""
        projected: Tensor = self.submodule("projector")(inputs_embeds=states)
        return projected

    def hidden_states(self, inputs: LanguageInputs, audio: TowerOutput | None) -> Tensor:
        """Step two: (B, T, H)."""
        decoder = self.decoder()
        is_audio = inputs.input_ids == self.audio_token_id
        embeddings, every_layer = self.embedded(inputs.input_ids, is_audio)
        if audio is not None:
            embeddings = fill_placeholders(embeddings, is_audio, self.project(audio.states), audio.lengths, self.name)
        hidden: Tensor = decoder(
            inputs_embeds=embeddings,
            per_layer_inputs=every_layer,
            position_ids=inputs.position_ids,
            attention_mask=sliding_masks(inputs, int(decoder.config.sliding_window)),
            use_cache=False,
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """The output layer, softly capped."""
        config: Any = self.model.config
        logits = super().logits(hidden)
        cap = config.text_config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap


def sliding_masks(inputs: LanguageInputs, window: int) -> Tensor | dict[str, Tensor]:
    """The mask of each kind of layer where answers share a prompt; else the mask, of which the model makes both."""
    mask = inputs.attention_mask
    if mask.ndim == 2:
        return mask
    positions = inputs.position_ids
    far = positions[:, :, None] - positions[:, None, :] >= window
    return {
        "full_attention": mask,
        "sliding_attention": mask.masked_fill(far[:, None], torch.finfo(mask.dtype).min),
    }
