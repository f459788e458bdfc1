"""The vectors of a linear model: one per utterance and modality, from frozen encoders and their stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO, TRANSCRIPT, uses_audio, uses_transcript
from lalm_mer.core.schema import Input
from lalm_mer.evaluation.metrics import Floats
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.kinds import Encoder, open_feature_store, open_text_encoder
from lalm_mer.models.encoders.tfidf import TfidfText
from lalm_mer.models.encoders.transcript_tokens import transcript_of
from lalm_mer.recognizers.linear.fitting import Blocks
from lalm_mer.recognizers.linear.settings import LinearModelSettings
from lalm_mer.recognizers.normalisation import SpeakerNormalisation

__all__ = ["Vectors", "open_vectors"]


class Vectors:
    """Vectors of inputs.

    Args:
        encoders: modality -> its encoder
        cache_dir: folder of the stored features; None stores nothing
        by_speaker: whether vectors are normalised by speaker

    Raises:
        ConfigError: if an encoder gives several vectors for an input, when it is used
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], *, cache_dir: Path | None = None, by_speaker: bool = False
    ) -> None:
        self.encoders = dict(encoders)
        self._normalisations = {modality: SpeakerNormalisation() for modality in encoders} if by_speaker else {}
        stored = {modality: each for modality, each in encoders.items() if each.stored and cache_dir is not None}
        self._stores = {modality: open_feature_store(Path(str(cache_dir)), each) for modality, each in stored.items()}

    def store(self, inputs: InputDataset, processes: int = 1) -> None:
        """Compute and store what is missing of a split, and its speakers' statistics."""
        light = inputs.without_waveforms()
        for store in self._stores.values():
            store.add(inputs.not_stored(store), processes)
        for modality, normalisation in self._normalisations.items():
            normalisation.add(light, partial(self._frames, modality), self.encoders[modality].size)

    def vector(self, modality: str, given: Input) -> Floats:
        """The vector of an input, (D,).

        Raises:
            CorpusError: naming the utterance, if its audio, transcript or the statistics of its speaker are missing
        """
        frames: Frames = self._frames(modality, given)
        if modality in self._normalisations:
            frames = self._normalisations[modality](given, frames)
        vector: Floats = frames[0].astype(np.float64)
        return vector

    def blocks(self, inputs: Sequence[Input] | InputDataset) -> Blocks:
        """The vectors of N inputs, (N, D) for each modality; of TF-IDF, sparse."""
        blocks: Blocks = {}
        for modality, encoder in self.encoders.items():
            rows = (self.vector(modality, given) for given in inputs)
            if isinstance(encoder, TfidfText):
                blocks[modality] = sparse.vstack([sparse.csr_array(row[None]) for row in rows], format="csr")
            else:
                blocks[modality] = np.stack(list(rows))
        return blocks

    def _frames(self, modality: str, given: Input) -> Frames:
        encoder = self.encoders[modality]
        frames = self._stores[modality].frames(given) if modality in self._stores else encoder.extract(given)
        if len(frames) != 1:
            raise ConfigError(
                f"argument '{modality}': gives {len(frames)} vectors for {given.utterance_id}; set pooled"
            )
        return frames


def open_vectors(
    settings: LinearModelSettings,
    audio: AudioEncoder | None,
    train: Iterable[Input],
    others: Sequence[Iterable[Input]] = (),
    cache_dir: Path | None = None,
) -> Vectors:
    """The vectors that the settings describe.

    Args:
        settings: of the linear model
        audio: the encoder of audio that they describe; None if they use none
        train: inputs of train, on which TF-IDF is fitted, without waveforms
        others: those of dev and test, whose words static vectors are read for
        cache_dir: folder of the stored features; None stores nothing

    Raises:
        ModelError: if an encoder cannot be opened
    """
    encoders: dict[str, Encoder] = {}
    if uses_audio(settings.modalities):
        assert audio is not None
        encoders[AUDIO] = audio
    if uses_transcript(settings.modalities):
        more = (transcript_of(given) for inputs in others for given in inputs)
        encoders[TRANSCRIPT] = open_text_encoder(settings.transcript, map(transcript_of, train), more)
    return Vectors(encoders, cache_dir=cache_dir, by_speaker=settings.normalisation == "speaker")
