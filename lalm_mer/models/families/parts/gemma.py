"""What the Gemma families with audio share: embeddings in every layer, sliding attention, capped logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lalm_mer.models.families.base import SPEECH_CORPORA, Family, LanguageInputs
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, InPlaceDecoder

__all__ = ["CONTAMINATION", "TARGETS", "TOWERS", "GemmaDecoder", "sliding_masks"]

TOWERS = {
    "audio_tower": "model.audio_tower",
    "projector": "model.embed_audio",
    "language_model": "model.language_model",
}
TARGETS = {"language_model": LLAMA_LINEAR, "projector": ("embedding_projection",)}
CONTAMINATION = dict.fromkeys(
    SPEECH_CORPORA, "What audio it was trained on is not completely public, so that no corpus can be ruled out."
)


class GemmaDecoder(InPlaceDecoder):
    """Sliding attention is kept for answers that share a prompt: each token attends to as many positions as by itself.

    A family's own ``embed`` adds ``per_layer_inputs``: embeddings that go into every layer, or None.
    """

    def project(self, family: Family, states: Tensor) -> Tensor:
        """The projector, which could take token ids instead."""
        projected: Tensor = family.submodule("projector")(inputs_embeds=states)
        return projected

    def attention_mask(self, family: Family, inputs: LanguageInputs) -> Tensor | dict[str, Tensor]:
        """One for each kind of layer."""
        return sliding_masks(inputs, int(self.language_model(family).config.sliding_window))

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer, softly capped."""
        config: Any = family.model.config
        logits = super().logits(family, hidden)
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
