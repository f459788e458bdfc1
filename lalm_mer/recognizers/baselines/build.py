"""A fusion baseline ready to train: features stored, tokenizer and normalisation made from the train split alone."""

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
    """Make a network; set the seed before, since the initial weights are drawn here.

    Features of every example given are computed into the store where they are missing. Afterwards the train examples
    may come without waveforms: their frames are looked up by utterance id. The tokenizer of a scratch BERT, and mean
    and standard deviation of the inputs, are made from ``train`` alone.

    Args:
        train: examples of the train split, at 16 kHz, gone over more than once
        labels: K labels, in the order of the scores
        corpus_hash: ``root_hash`` of the prepared corpus, key of the stored features
        others: examples of other splits whose features to store as well
        modalities: one of ``MODALITIES``
        features: ``opensmile`` (36 frame features of Pepino et al.) or ``log_mel``
        trim_db: quiet at both ends that is cut away, in dB below the clip's loudest 25 ms; None keeps whole clips
        bert: Hub id or local folder of a frozen BERT, or ``scratch``
        bert_revision: branch, tag or commit of a Hub id
        scratch: dimensions of the scratch BERT
        cache_dir: folder of the stored features
        processes: worker processes that compute them
        network_options: branches, dense layer and smoothing, as ``FusionNetwork`` takes them

    Returns:
        the network, in train mode

    Raises:
        ConfigError: if a name or a value is unknown
        ModelError: if openSMILE or the BERT cannot be had
        LalmMerError: naming the utterance that cannot be read
    """
    if modalities not in MODALITIES:
        raise ConfigError(f"argument 'modalities': {modalities!r}; expected one of {', '.join(MODALITIES)}")
    scratch = scratch or ScratchSettings()
    acoustic = acoustic_features(features, trim_db) if uses_audio(modalities) else None
    transcripts = _reader(train, scratch, bert, bert_revision) if uses_transcript(modalities) else None
    network = FusionNetwork(
        labels,
        acoustic=acoustic,
        transcripts=transcripts,
        scratch=scratch,
        **network_options,
    )
    network.stores = _fill_stores(network, train, others, cache_dir, corpus_hash, processes)
    return network


def _reader(train: Iterable[Input], scratch: ScratchSettings, bert: str, revision: str | None) -> TranscriptReader:
    if bert == "scratch":
        return train_tokenizer(map(transcript_of, train), scratch)
    return FrozenBert(bert, revision)


def _fill_stores(
    network: FusionNetwork,
    train: Iterable[Input],
    others: Sequence[Iterable[Input]],
    cache_dir: Path,
    corpus_hash: str,
    processes: int,
) -> dict[str, FeatureStore]:
    """Store what is missing, and set the network's normalisation from the train split alone."""
    stores: dict[str, FeatureStore] = {}
    if network.acoustic is not None:
        stores["audio"] = FeatureStore(cache_dir, corpus_hash, network.acoustic)
    if isinstance(network.transcripts, FrozenBert):
        stores["transcript"] = FeatureStore(cache_dir, corpus_hash, network.transcripts)
    for modality, store in stores.items():
        for inputs in (train, *others):
            store.add(inputs, processes)
        frames = (store.frames(given) for given in train)
        network.branch(modality).set_normalisation(*feature_statistics(frames, store.extractor.size))  # type: ignore[arg-type]
    return stores
