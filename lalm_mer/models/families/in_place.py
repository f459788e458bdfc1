"""What families share whose projected tower output takes the place of placeholders, one frame a placeholder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lalm_mer.models.families.base import Family, LanguageInputs, TowerOutput, fill_placeholders
from lalm_mer.models.families.plain_words import plain_word_ids

__all__ = ["InPlaceFamily"]


class InPlaceFamily(Family):
    """A tower, a projector and a language model under the names that transformers gives them in its newer models."""

    towers = {  # noqa: RUF012 constant
        "audio_tower": "model.audio_tower",
        "projector": "model.multi_modal_projector",
        "language_model": "model.language_model",
    }

    @property
    def sampling_rate(self) -> int:
        """Rate of the audio it takes, in Hz."""
        return int(self.processor.feature_extractor.sampling_rate)

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

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words as plain characters: no token that was added to the vocabulary, special or not.

        Raises:
            ModelError: if the tokenizer turns any of them into an added token all the same
        """
        return plain_word_ids(self.tokenizer, words, self.name)
