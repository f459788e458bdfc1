"""Builds a baseline: stores features, computes tokenizer and normalisation from the train split only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lalm_mer.core.names import AUDIO, TRANSCRIPT
from lalm_mer.core.schema import Input
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.examples.feature_store import FeatureStore, feature_statistics
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.kinds import open_audio_encoder, open_text_encoder
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer, transcript_of
from lalm_mer.recognizers.baselines.collator import Source
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.normalisation import SpeakerNormalisation
from lalm_mer.recognizers.baselines.settings import NetworkSettings

__all__ = ["build_network"]


def build_network(
    settings: NetworkSettings,
    labels: Sequence[str],
    train: Iterable[Input],
    *,
    others: Sequence[Iterable[Input]] = (),
    audio: AudioEncoder | None = None,
    cache_dir: Path = Path("outputs/cache"),
    processes: int = 1,
) -> BaselineNetwork:
    """Build a network in train mode; set the seed before, since the initial weights are drawn here.

    Missing features of all inputs are stored. Afterwards the inputs may have no waveforms: their frames are looked up
    by the hash of their audio.

    Args:
        settings: the parts of the network
        labels: K labels, in the order of the scores
        train: inputs of the train split, which are iterated over more than once
        others: inputs of dev and of test, whose features are stored too
        audio: the encoder of audio that the settings describe; None to open it here
        cache_dir: folder of the stored features
        processes: worker processes that compute them

    Raises:
        ModelError: if an encoder cannot be opened
        LalmMerError: naming the utterance that cannot be read
    """
    sources: dict[str, Source] = {}
    if AUDIO in settings.branches:
        sources[AUDIO] = audio or open_audio_encoder(settings.audio.encoder)
    if TRANSCRIPT in settings.branches:
        encoder = settings.transcript.encoder
        transcripts = map(transcript_of, _without_waveforms(train))
        learnt = encoder.learnt
        sources[TRANSCRIPT] = train_tokenizer(transcripts, encoder.scratch) if learnt else open_text_encoder(encoder)
    network = BaselineNetwork(labels, settings, sources)
    for modality in sources:
        _prepare(network, modality, [train, *others], cache_dir, processes)
    return network


def _prepare(
    network: BaselineNetwork, modality: str, splits: Sequence[Iterable[Input]], cache_dir: Path, processes: int
) -> None:
    """Store the features of a modality, and set its normalisation; the first split is train."""
    encoder = network.sources[modality]
    if isinstance(encoder, TranscriptTokenizer):
        return
    frames = encoder.extract
    if encoder.stored:
        store = network.stores[modality] = FeatureStore(cache_dir, encoder)
        for inputs in splits:
            store.add(_missing(store, inputs), processes)
        frames = store.frames
    normalisation = network.settings.branches[modality].normalisation
    light = [_without_waveforms(inputs) if encoder.stored else inputs for inputs in splits]
    if normalisation == "train":
        statistics = feature_statistics((frames(given) for given in light[0]), encoder.size)
        network.branch(modality).set_normalisation(*statistics)
    elif normalisation == "speaker":
        by_speaker = network.normalisations[modality] = SpeakerNormalisation()
        for inputs in light:
            by_speaker.add(inputs, frames, encoder.size)


def _missing(store: FeatureStore, inputs: Iterable[Input]) -> Iterable[Input]:
    """Inputs whose features are not stored, without decoding the audio of the others."""
    if isinstance(inputs, InputDataset):
        return inputs.select(store.missing(inputs.without_waveforms()))
    return inputs


def _without_waveforms(inputs: Iterable[Input]) -> Iterable[Input]:
    return inputs.without_waveforms() if isinstance(inputs, InputDataset) else inputs
