"""Builds a baseline: stores features, computes tokenizer and normalisation from the train split only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import chain
from pathlib import Path

from torch import nn

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.names import AUDIO, TRANSCRIPT
from lalm_mer.core.schema import Input
from lalm_mer.examples.context import context_input
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.examples.feature_store import FeatureStore, feature_statistics
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.finetuned_text import open_finetuned
from lalm_mer.models.encoders.kinds import open_audio_encoder, open_feature_store, open_text_encoder
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer, transcript_of
from lalm_mer.recognizers.baselines.collator import Source
from lalm_mer.recognizers.baselines.learnt_text import learnt_tokenizer
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.saved import branch_weights, load_source, read_saved
from lalm_mer.recognizers.baselines.settings import NetworkSettings

__all__ = ["build_network"]

_FEW = 32
"""Utterances whose features take less time than the start of worker processes"""


def build_network(
    settings: NetworkSettings,
    labels: Sequence[str],
    train: Iterable[Input],
    *,
    others: Sequence[Iterable[Input]] = (),
    audio: AudioEncoder | None = None,
    starts: Mapping[str, Path] | None = None,
    cache_dir: Path = Path("outputs/cache"),
    processes: int = 1,
    kind: str = "single",
    ranges: Sequence[tuple[float, float]] = (),
) -> BaselineNetwork:
    """Build a network in train mode; set the seed before, since the initial weights are drawn here.

    Missing features of all inputs are stored. Afterwards the inputs may have no waveforms: their frames are looked up
    by the hash of their audio.

    Args:
        settings: the parts of the network
        labels: K labels, or the T numbers to predict, in the order of the scores
        train: inputs of the train split, which are iterated over more than once
        others: inputs of dev and of test, whose features are stored too
        audio: the encoder of audio that the settings describe; None to open it here
        starts: modality -> folder of a saved baseline on the same fold, of which the branch gives the initial weights
        cache_dir: folder of the stored features
        processes: worker processes that compute them
        kind: ``single``, ``multi`` or ``scalar``
        ranges: lowest and highest value of each number of ``scalar``

    Raises:
        ModelError: if an encoder cannot be opened, or a branch of ``starts`` has another encoder or shape
        LalmMerError: naming the utterance that cannot be read
    """
    starts = starts or {}
    splits = [train, *others]
    sources: dict[str, Source] = {}
    embedder: nn.Module | None = None
    if AUDIO in settings.branches:
        sources[AUDIO] = audio or open_audio_encoder(settings.audio.encoder)
    if TRANSCRIPT in settings.branches:
        start = starts.get(TRANSCRIPT)
        text = settings.transcript.encoder
        if start is not None:
            sources[TRANSCRIPT] = _started(text, start)
        elif text.kind == "finetuned":
            sources[TRANSCRIPT], embedder = open_finetuned(text)
        else:
            sources[TRANSCRIPT] = _text_source(text, splits)
    network = BaselineNetwork(labels, settings, sources, kind=kind, ranges=ranges, embedder=embedder)
    for modality in sources:
        _prepare(network, modality, splits, cache_dir, processes)
    for modality, folder in starts.items():
        _start(network, modality, folder)
    return network


def _text_source(settings: TextEncoderSettings, splits: Sequence[Iterable[Input]]) -> Source:
    """Encoder or tokenizer of transcripts, fitted on the first split."""
    train, *others = [[transcript_of(given) for given in _without_waveforms(inputs)] for inputs in splits]
    return learnt_tokenizer(train, settings) if settings.learnt else open_text_encoder(settings, train, chain(*others))


def _started(settings: TextEncoderSettings, folder: Path) -> Source:
    """Encoder or tokenizer of transcripts of a saved baseline."""
    saved = read_saved(folder)
    if not _same_encoder(saved.settings.transcript.encoder, settings):
        raise ModelError(f"argument 'start_from': {folder} has another encoder of transcripts; expected the same")
    return load_source(saved, TRANSCRIPT, folder)


def _same_encoder(
    saved: AudioEncoderSettings | TextEncoderSettings, own: AudioEncoderSettings | TextEncoderSettings
) -> bool:
    """Whether the encoders are the same; one that is trained may be trained on at another rate."""
    if isinstance(saved, TextEncoderSettings) and isinstance(own, TextEncoderSettings):
        saved = replace(saved, learning_rate=own.learning_rate)
    return saved == own


def _start(network: BaselineNetwork, modality: str, folder: Path) -> None:
    """Load the weights of one branch, and freeze it if the settings say so."""
    own, saved = network.settings.branches[modality], read_saved(folder).settings.branches.get(modality)
    if saved is None or not _same_encoder(saved.encoder, own.encoder) or saved.normalisation != own.normalisation:
        raise ModelError(
            f"argument 'start_from': {folder} has another encoder or normalisation of {modality}; expected the same"
        )
    try:
        network.branch(modality).load_state_dict(branch_weights(folder, modality))
    except RuntimeError as error:
        raise ModelError(
            f"argument 'start_from': the branch of {modality} in {folder} has another shape ({one_line(error)})"
        ) from error
    if own.frozen:
        network.branch(modality).freeze()


def _prepare(
    network: BaselineNetwork, modality: str, splits: Sequence[Iterable[Input]], cache_dir: Path, processes: int
) -> None:
    """Store the features of a modality, and set its normalisation; the first split is train."""
    encoder = network.sources[modality]
    if isinstance(encoder, TranscriptTokenizer):
        return
    frames = encoder.extract
    if encoder.stored:
        store = network.stores[modality] = open_feature_store(cache_dir, encoder)
        context = modality == TRANSCRIPT and network.uses_context
        for inputs in splits:
            missing = _missing(store, inputs)
            store.add(missing, 1 if isinstance(missing, Sized) and len(missing) <= _FEW else processes)
            if context:
                store.add(filter(None, map(context_input, _without_waveforms(inputs))), processes)
        frames = store.frames
    normalisation = network.settings.branches[modality].normalisation
    light = [_without_waveforms(inputs) if encoder.stored else inputs for inputs in splits]
    if normalisation == "train":
        statistics = feature_statistics((frames(given) for given in light[0]), encoder.size)
        network.branch(modality).set_normalisation(*statistics)
    elif normalisation == "speaker":
        for inputs in light:
            network.normalisations[modality].add(inputs, frames, encoder.size)


def _missing(store: FeatureStore, inputs: Iterable[Input]) -> Iterable[Input]:
    """Inputs whose features are not stored, without decoding the audio of the others."""
    if isinstance(inputs, InputDataset):
        return inputs.not_stored(store)
    return inputs


def _without_waveforms(inputs: Iterable[Input]) -> Iterable[Input]:
    return inputs.without_waveforms() if isinstance(inputs, InputDataset) else inputs
