"""What families share whose projected tower output takes the place of placeholders, one frame a placeholder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import Family, LanguageInputs, TowerOutput, fill_placeholders
from lalm_mer.models.families.parts.plain_words import plain_word_ids

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

    @property
    def longest_audio_s(self) -> float:
        """What a Whisper-like feature extractor takes at once, in seconds."""
        return float(self.processor.feature_extractor.n_samples / self.sampling_rate)

    def log_mel(self, waveforms: Sequence[Waveform], samples: int | None = None) -> tuple[Tensor, Tensor]:
        """Spectrograms by a Whisper-like feature extractor.

        Args:
            waveforms: A of them
            samples: length that all are padded to; None for the extractor's whole window

        Returns:
            (A, mel bins, frames), and how many frames of each (A,) are not padding

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        batch = self.processor.feature_extractor(
            [waveform.samples for waveform in waveforms],
            sampling_rate=self.sampling_rate,
            padding="max_length",
            max_length=samples,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return batch["input_features"], batch["attention_mask"].sum(-1)

    def project(self, states: Tensor) -> Tensor:
        """The projector: what the tower makes of A waveforms -> (A, F, H)."""
        projected: Tensor = self.submodule("projector")(states)
        return projected

    def decoder(self) -> Any:  # noqa: ANN401 each family's own class
        """The language model from embeddings to hidden states."""
        return self.submodule("language_model")

    def hidden_states(self, inputs: LanguageInputs, audio: TowerOutput | None) -> Tensor:
        """Step two: (B, T, H)."""
        decoder = self.decoder()
        is_audio = inputs.input_ids == self.audio_token_id
        # a placeholder's own embedding is never used, and its id may lie outside the language model's vocabulary
        embeddings = decoder.get_input_embeddings()(inputs.input_ids.masked_fill(is_audio, 0))
        if audio is not None:
            embeddings = fill_placeholders(embeddings, is_audio, self.project(audio.states), audio.lengths, self.name)
        hidden: Tensor = decoder(
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
