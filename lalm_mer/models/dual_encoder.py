"""What CLAP and composed models of its kind share: an audio and a text encoder with one embedding space.

They take no transcript and generate no answers, so they are no families; their recognizer is
``lalm_mer.recognizers.clap``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.prompting.ensembles import Ensemble, load_ensemble

__all__ = ["DualEncoder"]


class DualEncoder(PretrainedModel):
    """All that ``ClapRecognizer`` and its builder need of a model, besides loading, towers and tokenizer.

    The model has two methods of transformers' ``ClapModel``, whose ``pooler_output`` (B, D) is an embedding,
    normalised or not: ``get_audio_features``, which takes the ``audio_inputs``, and ``get_text_features``, which takes
    ``input_ids`` and ``attention_mask``.
    """

    towers: ClassVar[Mapping[str, str]] = {
        "audio_tower": "audio_model",
        "audio_projector": "audio_projection",
        "text_tower": "text_model",
        "text_projector": "text_projection",
    }
    quantised_tower = "text_tower"
    has_language_model = False

    @classmethod
    def default_prompt(cls, modalities: str) -> str:
        """Descriptions of emotions.

        Raises:
            ConfigError: if the modalities are others than audio
        """
        if modalities != AUDIO:
            raise ConfigError(f"key 'prompt.modalities': {modalities!r}; {cls.name} only uses audio; set it to audio")
        return "prompts/ensembles/emotion.yaml"

    @classmethod
    def load_prompt(cls, path: Path) -> Ensemble:
        """Read descriptions of labels."""
        return load_ensemble(path)

    @classmethod
    @abstractmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """Save a randomly initialised model and its processor; no download."""

    @abstractmethod
    def audio_inputs(self, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Arguments of the model's ``get_audio_features``, first axis B; those of a waveform alone are the same.

        Raises:
            AudioError: if a waveform has another rate
        """

    @abstractmethod
    def scales(self) -> tuple[Tensor, Tensor]:
        """Factors of the cosines, 1 / temperature: of an audio with texts, and of a text with audio."""

    @property
    @abstractmethod
    def longest_description(self) -> int:
        """Longest text that the text encoder reads, in tokens, special ones included."""
