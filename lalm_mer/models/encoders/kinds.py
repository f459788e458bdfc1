"""The kinds of frozen encoders, by their settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lalm_mer.core.errors import ConfigError, ModelError, shown
from lalm_mer.core.names import AUDIO, TRANSCRIPT
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import FeatureStore, Frames
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.open_smile import OpenSmileSet, PepinoFrames
from lalm_mer.models.encoders.pretrained_audio import PretrainedAudio
from lalm_mer.models.encoders.pretrained_text import PretrainedText
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.models.encoders.spectra import LogMel, Mfcc, WaveformBlocks
from lalm_mer.models.encoders.tfidf import TfidfText
from lalm_mer.models.encoders.word_vectors import StaticText

__all__ = [
    "FITTED", "Encoder", "hashed", "load_encoder", "open_audio_encoder", "open_feature_store", "open_text_encoder",
]  # fmt: skip

FITTED = "encoder"
"""Folder of a saved model with what its encoders were fitted to"""


class Encoder(Protocol):
    """A frozen encoder; also a ``FeatureExtractor``."""

    @property
    def size(self) -> int:
        """Width of the frames: features per frame, times ``layers``."""

    @property
    def layers(self) -> int:
        """L, number of layers whose features are side by side in a frame."""

    @property
    def stored(self) -> bool:
        """Whether its features are worth storing."""

    def settings(self) -> dict[str, Any]:
        """Name, versions and parameters, as plain data; ``weights`` is a hash of what was trained or fitted."""

    def source_hash(self, given: Input) -> str | None:
        """Hash of what is used of an input; None if its features are not stored."""

    def extract(self, given: Input) -> Frames:
        """Features of an input, (F, ``size``)."""

    def save(self, folder: Path) -> None:
        """Write what was fitted."""


_AUDIO: dict[str, Callable[[AudioEncoderSettings], AudioEncoder]] = {
    "log_mel": lambda settings: LogMel(
        settings.trim_db, settings.bands, hop_ms=settings.hop_ms, pooled=settings.pooled
    ),
    "mfcc": lambda settings: Mfcc(
        settings.trim_db, settings.bands, settings.coefficients, hop_ms=settings.hop_ms, pooled=settings.pooled
    ),
    "waveform": lambda settings: WaveformBlocks(settings.trim_db, pooled=settings.pooled),
    "pretrained": lambda settings: PretrainedAudio(
        settings.model, settings.revision, settings.layers, settings.trim_db, pooled=settings.pooled
    ),
}


def open_audio_encoder(settings: AudioEncoderSettings) -> AudioEncoder:
    """The encoder of audio that the settings describe.

    Raises:
        ModelError: if its package is not installed, or its model cannot be loaded
        ConfigError: if the model has no layer of a number
    """
    if settings.kind != "opensmile":
        return _AUDIO[settings.kind](settings)
    if settings.feature_set == "pepino":
        return PepinoFrames(settings.trim_db, pooled=settings.pooled)
    return OpenSmileSet(settings.feature_set, settings.level, settings.trim_db, pooled=settings.pooled)


def open_text_encoder(settings: TextEncoderSettings, train: Iterable[str] = (), others: Iterable[str] = ()) -> Encoder:
    """The frozen encoder of transcripts that the settings describe; not for those that are learnt.

    Args:
        settings: its kind and parameters
        train: transcripts of train, on which TF-IDF is fitted
        others: those of dev and test, whose words static vectors are read for

    Raises:
        ModelError: if its model cannot be loaded
        ConfigError: if the model has no layer of a number, or a file cannot be read
    """
    if settings.kind == "pretrained":
        return PretrainedText(settings.model, settings.revision, settings.layers, pooled=settings.pooled)
    if settings.kind == "tfidf":
        return TfidfText.fit(train, settings.tfidf)
    if settings.file is None:
        raise ConfigError("argument 'file': null; kind static needs a file of word vectors")
    return StaticText.read(Path(settings.file), [*train, *others], pooled=settings.pooled)


def open_feature_store(cache_dir: Path, encoder: Encoder) -> FeatureStore:
    """The store of an encoder's features.

    Pooled features of all layers of a pretrained model are in one store, whichever layers are chosen, so that a choice
    encodes nothing again. Frames are stored layer by layer as they are chosen, since those of all would be large.

    Args:
        cache_dir: folder of all stores
        encoder: one whose features are ``stored``
    """
    if isinstance(encoder, PretrainedAudio | PretrainedText) and encoder.pooled:
        return FeatureStore(cache_dir, encoder.with_all_layers(), encoder.columns)
    return FeatureStore(cache_dir, encoder)


_VERSIONS = {"version", "transformers"}
"""Keys of ``Encoder.settings()`` with the versions of installed libraries."""


def load_encoder(
    settings: AudioEncoderSettings | TextEncoderSettings, folder: Path, known: Mapping[str, Any]
) -> Encoder:
    """The frozen encoder of a saved model; warn of another version of its library.

    Args:
        settings: its kind and parameters
        folder: of the model, with what ``save`` wrote in its folder ``FITTED``
        known: its ``settings()`` in training, where ``hashed`` may stand for a value

    Raises:
        ModelError: if it cannot be opened, or its weights or parameters are not those of training
    """
    encoder: Encoder
    if isinstance(settings, AudioEncoderSettings):
        modality, encoder = AUDIO, open_audio_encoder(settings)
    else:
        modality, encoder = TRANSCRIPT, _load_text_encoder(settings, folder / FITTED)
    found = encoder.settings()
    if found.get("weights") != known.get("weights"):
        raise ModelError(f"{folder}: the weights of the {modality} encoder are not those of training; pin a revision")
    keys = sorted({*found, *known})
    if other := [key for key in keys if known.get(key) not in (found.get(key), hashed(found.get(key)))]:
        then, now = (shown({key: each.get(key) for key in other}, 300) for each in (known, found))
        if not set(other) <= _VERSIONS:
            raise ModelError(
                f"{folder}: its settings give the {modality} encoder {now}, but it was trained with {then}; use the "
                "files that training saved"
            )
        warnings.warn(f"{folder}: trained with the {modality} encoder {then}, found {now}", stacklevel=3)
    return encoder


def hashed(value: object) -> dict[str, str]:
    """The hash of a value of ``Encoder.settings()``, in place of the value in a model that is shared."""
    return {"sha256": hash_json(value)}


def _load_text_encoder(settings: TextEncoderSettings, folder: Path) -> Encoder:
    if settings.kind == "tfidf":
        return TfidfText.load(folder, settings.tfidf)
    if settings.kind == "static":
        return StaticText.load(folder, pooled=settings.pooled)
    return open_text_encoder(settings)
