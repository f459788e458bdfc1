"""Builder of the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import BASELINE, uses_audio, uses_transcript
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.provenance import hash_file
from lalm_mer.core.run_record import MODEL_FOLDER, RUN_FILE, has_results, read_record
from lalm_mer.examples.dataset import ExampleDataset, InputDataset
from lalm_mer.launch.build.data import (
    RunData,
    augmented,
    balanced,
    input_hashes,
    open_corpus,
    open_data,
    require_training,
    require_transcripts,
    with_context,
)
from lalm_mer.launch.build.defaults import with_folder
from lalm_mer.launch.build.feature_run import OpenedFeatureRun, encoder_notes
from lalm_mer.launch.build.loss import check_loss
from lalm_mer.launch.build.packing import refuse_packing
from lalm_mer.launch.config.settings import BaselineSettings
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.kinds import open_audio_encoder
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.saved import WEIGHTS

__all__ = ["OpenedBaseline", "open_baseline_run"]


class OpenedBaseline(OpenedFeatureRun[BaselineSettings]):
    """An opened run of the baseline."""

    def load(self) -> tuple[BaselineNetwork, RunData]:
        """Compute and store missing features, and build the network.

        Returns:
            the untrained network, and the data without waveforms, except for augmented training examples

        Raises:
            ConfigError: if an utterance has no transcript, but the network uses transcripts
        """
        settings, parts = self.settings, self.settings.baseline
        audio = open_audio_encoder(recorded(parts.audio.encoder)) if uses_audio(parts.modalities) else None
        rate = audio.sampling_rate if audio else None
        data = open_data(self.source, settings.split, sampling_rate=rate, seed=settings.seed)
        data = balanced(data, settings.balance, settings.seed)
        train = augmented(data, settings.augment, settings.seed).train
        if uses_transcript(parts.modalities):
            require_transcripts(data, settings.data.dir)
        network = _network(data, settings, audio)
        if isinstance(train, ExampleDataset):  # features of augmented examples change in every epoch and are not stored
            train = train.without_waveforms()
        dev, test = data.dev.without_waveforms(), data.test.without_waveforms()
        return network, replace(data, train=train, dev=dev, test=test)


def open_baseline_run(settings: BaselineSettings) -> OpenedBaseline:
    """Open the data and hash what the run depends on; no features are computed.

    Raises:
        ConfigError: if the settings do not fit each other or the corpus
    """
    parts = settings.baseline
    if settings.data.without_audio != "refuse":
        raise ConfigError("key 'data.without_audio': read; the baseline needs the audio of every utterance; set refuse")
    if settings.train.gradient_checkpointing:
        raise ConfigError("key 'train.gradient_checkpointing': the baseline has none; set it to false")
    refuse_packing(settings, "the baseline has no rows of tokens")
    source = open_corpus(settings.data, settings.split, soft_labels=settings.loss.soft_labels)
    if uses_transcript(parts.modalities):
        source = with_context(source, parts.transcript.context_turns, "baseline.transcript")
    check_loss(settings, source.folded.task.kind)
    require_training(source, settings.split)
    encoder_notes(parts, source.folded, settings.split.fold)  # refuses an encoder that was trained on another fold
    hashes = {**input_hashes(source, parts.modalities, settings.augment), "prompt": None, "base_model": None}
    for modality, folder in _starts(settings).items():
        _require_same_fold(folder, modality, settings, hashes)
        weights = folder / MODEL_FOLDER / WEIGHTS
        if not weights.is_file():
            raise ConfigError(
                f"key 'baseline.{modality}.start_from': {as_recorded(folder)} has no {MODEL_FOLDER}/{WEIGHTS}; "
                "expected the folder of a finished run of a baseline"
            )
        hashes[f"start_{modality}"] = hash_file(weights)
    settings = with_folder(
        settings,
        corpus=source.folded.corpus.name,
        recognizer=parts.name,
        method=BASELINE,
        modalities=parts.modalities,
    )
    return OpenedBaseline(settings, source, hashes)


def _network(data: RunData, settings: BaselineSettings, audio: AudioEncoder | None) -> BaselineNetwork:
    assert isinstance(data.train, ExampleDataset)
    parts = recorded(settings.baseline)  # with the paths that the saved network names
    return build_network(
        parts,
        data.folded.task.targets,
        InputDataset(data.train.distinct()),
        others=(InputDataset(data.dev), InputDataset(data.scored_test)),
        audio=audio,
        starts={modality: folder / MODEL_FOLDER for modality, folder in _starts(settings).items()},
        cache_dir=Path(settings.baseline.cache_dir),
        processes=parts.processes,
        kind=data.folded.task.kind,
        ranges=data.folded.ranges,
    )


def _starts(settings: BaselineSettings) -> dict[str, Path]:
    """Modality -> run folder of which its branch starts."""
    named = {modality: branch.start_from for modality, branch in settings.baseline.branches.items()}
    fold, seed = str(settings.split.fold), str(settings.seed)
    return {
        modality: Path(folder.replace("{fold}", fold).replace("{seed}", seed))
        for modality, folder in named.items()
        if folder is not None
    }


def _require_same_fold(
    folder: Path, modality: str, settings: BaselineSettings, hashes: Mapping[str, str | None]
) -> None:
    """Check that a run to start from is finished and was trained on the same fold, and so not on the test set."""
    key = f"key 'baseline.{modality}.start_from'"
    if not has_results(folder):
        raise ConfigError(f"{key}: {as_recorded(folder)} is no finished run; run it first, on the same fold")
    record = read_record(folder / RUN_FILE)
    if record.method != BASELINE:
        raise ConfigError(f"{key}: {as_recorded(folder)} is a run of {record.method}; expected one of a baseline")
    same = [record.hashes.get(name) == hashes[name] for name in ("data", "folds")]
    if not all(same) or record.fold != settings.split.fold:
        raise ConfigError(
            f"{key}: {as_recorded(folder)} was trained on fold {record.fold} of {record.protocol}, or on other data; "
            f"expected this corpus and fold {settings.split.fold}, since it may contain test utterances"
        )
