"""Step two of the usual architecture: projected tower output replaces placeholders, one frame each."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from lalm_mer.core.errors import ModelError
from lalm_mer.models.families.base import Decoder, Family, LanguageInputs, TowerOutput
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.models.families.parts.log_mel import frame_mask

__all__ = ["LLAMA_LINEAR", "USUAL_TOWERS", "InPlaceDecoder", "fill_placeholders"]

USUAL_TOWERS = {
    "audio_tower": "model.audio_tower",
    "projector": "model.multi_modal_projector",
    "language_model": "model.language_model",
}
"""Module paths in transformers' newer audio-language models"""
LLAMA_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Last names of the linear layers in Llama and similar language models"""


class InPlaceDecoder(Decoder):
    """A projector, a language model that takes embeddings, and ``lm_head``."""

    def project(self, family: Family, states: Tensor) -> Tensor:
        """The projector: tower output (A, F, D) -> (A, F, H)."""
        projected: Tensor = family.submodule("projector")(states)
        return projected

    def language_model(self, family: Family) -> Any:  # noqa: ANN401 each family's own class
        """The language model from embeddings to hidden states."""
        return family.submodule("language_model")

    def embed(self, family: Family, ids: Tensor, is_audio: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Embeddings (B, T, H) of token ids (B, T), and further arguments of the language model.

        A placeholder's own embedding is never used, and its id may be outside the vocabulary.
        """
        return self.language_model(family).get_input_embeddings()(ids.masked_fill(is_audio, 0)), {}

    def attention_mask(
        self, family: Family, inputs: LanguageInputs, cache: KeysValues | None
    ) -> Tensor | BlockMask | dict[str, Tensor] | dict[str, BlockMask] | None:
        """The mask, or one for each kind of layer."""
        return inputs.attention_mask

    def hidden_states(
        self, family: Family, inputs: LanguageInputs, audio: TowerOutput | None, cache: KeysValues | None = None
    ) -> Tensor:
        """Step two: (B, T, H)."""
        is_audio = inputs.input_ids == family.audio_token_id
        embeddings, more = self.embed(family, inputs.input_ids, is_audio)
        if audio is not None:
            projected = self.project(family, audio.states)
            embeddings = fill_placeholders(embeddings, is_audio, projected, audio.lengths, family.name)
        hidden: Tensor = self.language_model(family)(
            inputs_embeds=embeddings,
            **more,
            position_ids=inputs.position_ids,
            attention_mask=self.attention_mask(family, inputs, cache),
            past_key_values=cache,
            use_cache=cache is not None,
            **_sequences(inputs.sequence_starts),
        ).last_hidden_state
        return hidden

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer."""
        logits: Tensor = family.model.lm_head(hidden)
        return logits


def _sequences(starts: Tensor | None) -> dict[str, Any]:
    """Arguments of FlashAttention for rows of several sequences; transformers finds these itself in a single row."""
    if starts is None:
        return {}
    longest = int(starts.diff().max())
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def fill_placeholders(embeddings: Tensor, is_audio: Tensor, projected: Tensor, lengths: Tensor, name: str) -> Tensor:
    """Replace the embeddings of placeholders by projected tower outputs, in order.

    Args:
        embeddings: (B, T, H) token embeddings
        is_audio: (B, T), true at placeholders
        projected: (A, F, H), padded at the end
        lengths: (A,), frames of each
        name: name of the family, for the error

    Raises:
        ModelError: if the numbers of placeholders and of frames differ
    """
    frames = projected[frame_mask(lengths, projected.shape[1])]
    if int(is_audio.sum()) != len(frames):
        raise ModelError(f"{name}: {int(is_audio.sum())} placeholders for {len(frames)} frames of audio")
    return embeddings.masked_scatter(is_audio[..., None], frames.to(embeddings.dtype))
