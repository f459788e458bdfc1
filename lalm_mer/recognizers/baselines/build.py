"""Builds a fusion baseline: stores features, computes tokenizer and normalisation from the train split only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO_TRANSCRIPT, MODALITIES, uses_audio, uses_transcript
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import FeatureStore, feature_statistics
from lalm_mer.recognizers.baselines.acoustic import TRIM_DB, acoustic_features
from lalm_mer.recognizers.baselines.fusion import FusionNetwork, TranscriptReader
from lalm_mer.recognizers.baselines.settings import ScratchSettings
from lalm_mer.recognizers.baselines.word_embeddings import FrozenBert, train_tokenizer, transcript_of

__all__ = ["build_fusion"]


def build_fusion(
    train: Iterable[Input],
    labels: Sequence[str],
    *,
    corpus_hash: str,
    others: Sequence[Iterable[Input]] = (),
    modalities: str = AUDIO_TRANSCRIPT,
    features: str = "opensmile",
    trim_db: float | None = TRIM_DB,
    bert: str = "scratch",
    bert_revision: str | None = None,
    scratch: ScratchSettings | None = None,
    cache_dir: Path = Path("outputs/cache/acoustic"),
    processes: int = 1,
    **network_options: Any,  # noqa: ANN401 each checked by the network
) -> FusionNetwork:
    """Build a network in train mode; set the seed before, since the initial weights are drawn here.

    Missing features of all inputs are stored. Afterwards the train inputs may have no waveforms: their frames are
    looked up by utterance id.

    Args:
        train: inputs of the train split, at 16 kHz, which are iterated over more than once
        labels: K labels, in the order of the scores
        corpus_hash: ``root_hash`` of the prepared corpus, key of the stored features
        others: inputs of other splits whose features are stored too
        modalities: one of ``MODALITIES``
        features: one of ``FEATURES``
        trim_db: level of silence at both ends to remove, in dB below the clip's loudest 25 ms; None removes nothing
        bert: Hub id or local folder of a frozen BERT, or ``scratch``
        bert_revision: branch, tag or commit of a Hub id
        scratch: dimensions of the scratch BERT
        cache_dir: folder of the stored features
        processes: worker processes that compute them
        network_options: further arguments of ``FusionNetwork``

    Raises:
        ConfigError: if a name or a value is unknown
        ModelError: if openSMILE is not installed or the BERT cannot be loaded
        LalmMerError: naming the utterance that cannot be read
    """
    if modalities not in MODALITIES:
        raise ConfigError(f"argument 'modalities': {modalities!r}; expected one of {', '.join(MODALITIES)}")
    acoustic = acoustic_features(features, trim_db) if uses_audio(modalities) else None
    reader: TranscriptReader | None = None
    if uses_transcript(modalities) and bert == "scratch":
        reader = train_tokenizer(map(transcript_of, train), scratch or ScratchSettings())
    elif uses_transcript(modalities):
        reader = FrozenBert(bert, bert_revision)
    network = FusionNetwork(labels, acoustic=acoustic, transcripts=reader, scratch=scratch, **network_options)
    if acoustic is not None:
        network.stores["audio"] = FeatureStore(cache_dir, corpus_hash, acoustic)
    if isinstance(reader, FrozenBert):
        network.stores["transcript"] = FeatureStore(cache_dir, corpus_hash, reader)
    for modality, store in network.stores.items():
        for inputs in (train, *others):
            store.add(inputs, processes)
        frames = (store.frames(given) for given in train)
        network.branch(modality).set_normalisation(*feature_statistics(frames, store.extractor.size))
    return network
