"""The kinds of frozen encoders, by their settings."""

from __future__ import annotations

from typing import Any, Protocol

from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.open_smile import PepinoFrames
from lalm_mer.models.encoders.pretrained_text import PretrainedText
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.models.encoders.spectra import LogMel

__all__ = ["Encoder", "open_audio_encoder", "open_text_encoder"]


class Encoder(Protocol):
    """A frozen encoder; also a ``FeatureExtractor``.

    Attributes:
        size: width of the frames: features per frame, times ``layers``
        layers: L, number of layers whose features are side by side in a frame
        stored: whether its features are worth storing
    """

    size: int
    layers: int
    stored: bool

    def settings(self) -> dict[str, Any]:
        """Name, versions and parameters, as plain data."""

    def source_hash(self, given: Input) -> str | None:
        """Hash of what is used of an input; None if its features are not stored."""

    def extract(self, given: Input) -> Frames:
        """Features of an input, (F, ``size``)."""


def open_audio_encoder(settings: AudioEncoderSettings) -> AudioEncoder:
    """The encoder of audio that the settings describe.

    Raises:
        ModelError: if its package is not installed
    """
    if settings.kind == "opensmile":
        return PepinoFrames(settings.trim_db)
    return LogMel(settings.trim_db, settings.bands)


def open_text_encoder(settings: TextEncoderSettings) -> Encoder:
    """The frozen encoder of transcripts that the settings describe; not for those that are learnt.

    Raises:
        ModelError: if it cannot be loaded
    """
    return PretrainedText(settings.model, settings.revision)
