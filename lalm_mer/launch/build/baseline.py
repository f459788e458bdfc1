"""Builder of the fusion baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import BASELINE, uses_audio, uses_transcript
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.examples.dataset import ExampleDataset, ExampleSource, InputDataset
from lalm_mer.launch.build.data import (
    RunData,
    augmented,
    balanced,
    input_hashes,
    open_corpus,
    open_data,
    require_training,
    require_transcripts,
)
from lalm_mer.launch.build.defaults import with_folder
from lalm_mer.launch.build.packing import refuse_packing
from lalm_mer.launch.config.sections import FusionSettings
from lalm_mer.launch.config.settings import BaselineSettings
from lalm_mer.recognizers.baselines.acoustic import SAMPLING_RATE
from lalm_mer.recognizers.baselines.build import build_fusion
from lalm_mer.recognizers.baselines.fusion import FusionNetwork

__all__ = ["OpenedBaseline", "baseline_notes", "open_baseline_run", "recognizer_name"]


@dataclass(frozen=True)
class OpenedBaseline:
    """An opened run of the baseline, before its features are computed.

    Args:
        settings: resolved config
        source: the folded corpus
        hashes: hashes of everything that the run depends on
    """

    settings: BaselineSettings
    source: ExampleSource
    hashes: dict[str, str | None]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)

    def load(self) -> tuple[FusionNetwork, RunData]:
        """Compute and store missing features, and build the network.

        Returns:
            the untrained network, and the data without waveforms, except for augmented training examples

        Raises:
            ConfigError: if an utterance has no transcript, but the network uses transcripts
        """
        settings, fusion = self.settings, self.settings.baseline
        sampling_rate = SAMPLING_RATE if uses_audio(fusion.modalities) else None
        data = open_data(self.source, settings.split, sampling_rate=sampling_rate, seed=settings.seed)
        data = balanced(data, settings.balance, settings.seed)
        train = augmented(data, settings.augment, settings.seed).train
        if uses_transcript(fusion.modalities):
            require_transcripts(data, settings.data.dir)
        network = _network(data, fusion)
        if isinstance(train, ExampleDataset):  # features of augmented examples change in every epoch and are not stored
            train = train.without_waveforms()
        dev, test = data.dev.without_waveforms(), data.test.without_waveforms()
        return network, replace(data, train=train, dev=dev, test=test)


def open_baseline_run(settings: BaselineSettings) -> OpenedBaseline:
    """Open the data and hash what the run depends on; no features are computed.

    Raises:
        ConfigError: if the settings do not fit each other or the corpus
    """
    fusion = settings.baseline
    if settings.data.without_audio != "refuse":
        raise ConfigError("key 'data.without_audio': read; the baseline needs the audio of every utterance; set refuse")
    if settings.train.gradient_checkpointing:
        raise ConfigError("key 'train.gradient_checkpointing': the baseline has none; set it to false")
    refuse_packing(settings, "the baseline has no rows of tokens")
    source = open_corpus(settings.data, settings.split)
    require_training(source, settings.split)
    hashes = {**input_hashes(source, fusion.modalities, settings.augment), "prompt": None, "base_model": None}
    settings = with_folder(
        settings,
        corpus=source.folded.corpus.name,
        recognizer=recognizer_name(fusion),
        method=BASELINE,
        modalities=fusion.modalities,
    )
    return OpenedBaseline(settings, source, hashes)


def _network(data: RunData, fusion: FusionSettings) -> FusionNetwork:
    assert isinstance(data.train, ExampleDataset)
    return build_fusion(
        InputDataset(data.train.distinct()),
        data.folded.label_set.labels,
        corpus_hash=data.folded.corpus.summary["root_hash"],
        others=(InputDataset(data.dev), InputDataset(data.scored_test)),
        modalities=fusion.modalities,
        features=fusion.features,
        trim_db=fusion.trim_db,
        bert=recorded(fusion).bert,  # a key of the cache of embeddings
        bert_revision=fusion.bert_revision,
        audio_branch=fusion.audio_branch,
        transcript_branch=fusion.transcript_branch,
        scratch=fusion.scratch,
        hidden=fusion.hidden,
        dropout=fusion.dropout,
        label_smoothing=fusion.label_smoothing,
        cache_dir=Path(fusion.cache_dir),
        processes=fusion.processes,
    )


def recognizer_name(fusion: FusionSettings) -> str:
    """Name in comparisons, the same for all modalities."""
    return f"fusion ({fusion.features}, BERT {Path(fusion.bert).name})"


def baseline_notes(fusion: FusionSettings) -> list[Note]:
    """Notes on the results."""
    notes = []
    if uses_transcript(fusion.modalities) and fusion.bert == "scratch":
        notes.append(Note(NoteCode.SCRATCH_BERT))
    if uses_audio(fusion.modalities) and fusion.features == "opensmile":
        notes.append(Note(NoteCode.OPENSMILE_LICENCE))
    return notes
