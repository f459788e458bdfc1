"""Shared parts of the Gemma families with audio: embeddings in every layer, sliding attention, capped logits."""

from __future__ import annotations

import torch
from torch import Tensor

from lalm_mer.models.families.base import SPEECH_CORPORA, Family, LanguageInputs
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder

__all__ = ["CONTAMINATION", "TARGETS", "TOWERS", "GemmaDecoder", "sliding_masks"]

TOWERS = {**USUAL_TOWERS, "projector": "model.embed_audio"}
TARGETS = {"language_model": LLAMA_LINEAR, "projector": ("embedding_projection",)}
CONTAMINATION = dict.fromkeys(
    SPEECH_CORPORA, "What audio it was trained on is not completely public, so that no corpus can be ruled out."
)


class GemmaDecoder(InPlaceDecoder):
    """Sliding attention, also for answers that share a prompt: each token attends to as many positions as without.

    A family's ``embed`` adds ``per_layer_inputs``: embeddings that go into every layer, or None.
    """

    def project(self, family: Family, states: Tensor) -> Tensor:
        """The projector, called with embeddings."""
        projected: Tensor = family.submodule("projector")(inputs_embeds=states)
        return projected

    def attention_mask(self, family: Family, inputs: LanguageInputs) -> Tensor | dict[str, Tensor]:
        """One for each kind of layer."""
        return sliding_masks(inputs, int(self.language_model(family).config.sliding_window))

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer with soft capping."""
        logits = super().logits(family, hidden)
        cap = family.model.config.text_config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap


def sliding_masks(inputs: LanguageInputs, window: int) -> Tensor | dict[str, Tensor]:
    """The mask of each kind of layer if answers share a prompt; else one mask, from which the model makes both."""
    mask = inputs.attention_mask
    if mask.ndim == 2:
        return mask
    positions = inputs.position_ids
    far = positions[:, :, None] - positions[:, None, :] >= window
    return {
        "full_attention": mask,
        "sliding_attention": mask.masked_fill(far[:, None], torch.finfo(mask.dtype).min),
    }
