"""Shared parts of the Gemma families with audio: embeddings in every layer, sliding attention, capped logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks, create_block_mask

from lalm_mer.models.families.base import SPEECH_CORPORA, Family, LanguageInputs
from lalm_mer.models.families.parts.in_place import LLAMA_LINEAR, USUAL_TOWERS, InPlaceDecoder
from lalm_mer.models.families.parts.keys_values import KeysValues

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

    def attention_mask(
        self, family: Family, inputs: LanguageInputs, cache: KeysValues | None
    ) -> Tensor | BlockMask | dict[str, Tensor] | dict[str, BlockMask] | None:
        """One for each kind of layer."""
        language_model = self.language_model(family)
        return sliding_masks(inputs, cache, int(language_model.config.sliding_window), language_model.dtype)

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer with soft capping."""
        logits = super().logits(family, hidden)
        cap = family.model.config.text_config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap


def sliding_masks(
    inputs: LanguageInputs, cache: KeysValues | None, window: int, dtype: torch.dtype
) -> Tensor | dict[str, Tensor] | dict[str, BlockMask] | None:
    """The mask of each kind of layer; without earlier tokens a single mask, from which the model makes both."""
    mask, positions = inputs.attention_mask, inputs.position_ids
    if mask is None:  # of sequences that begin where FlashAttention is told
        return None
    keys = positions if cache is None else cache.positions_with(positions)
    if isinstance(mask, BlockMask):
        return {"full_attention": mask, "sliding_attention": _sliding_block_mask(mask, positions, keys, window)}
    if mask.ndim == 2 and (cache is None or cache.position_ids is None):
        return mask
    distance = (positions[:, :, None] - keys[:, None, :])[:, None]
    smallest = torch.finfo(dtype).min
    if mask.ndim == 2:  # padding between earlier and later tokens: the model would count it in the window
        excluded = (distance < 0) | (mask[:, None, None, :] == 0)
        mask = torch.zeros(excluded.shape, dtype=dtype, device=mask.device).masked_fill(excluded, smallest)
    return {"full_attention": mask, "sliding_attention": mask.masked_fill(distance >= window, smallest)}


def _sliding_block_mask(mask: BlockMask, positions: Tensor, keys: Tensor, window: int) -> BlockMask:
    """The tokens of a block mask that are less than ``window`` positions before; positions (B, T), keys (B, S + T)."""

    def near(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return positions[row, query] - keys[row, key] < window

    rows, _, queries, width = mask.shape
    mod = and_masks(mask.mask_mod, near)
    return create_block_mask(mod, rows, None, queries, width, device=str(positions.device))
