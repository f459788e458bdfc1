"""Builder of a linear model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import LINEAR, uses_audio, uses_transcript
from lalm_mer.core.settings import naming_keys, values_of_base
from lalm_mer.examples.dataset import ExampleDataset, InputDataset
from lalm_mer.launch.build.data import (
    RunData,
    input_hashes,
    open_corpus,
    open_data,
    require_training,
    require_transcripts,
)
from lalm_mer.launch.build.defaults import with_folder
from lalm_mer.launch.build.feature_run import OpenedFeatureRun, encoder_notes
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.models.encoders.kinds import open_audio_encoder
from lalm_mer.recognizers.linear.features import Vectors, open_vectors
from lalm_mer.recognizers.linear.settings import LinearModelSettings

__all__ = ["OpenedLinear", "model_settings", "open_linear_run"]


class OpenedLinear(OpenedFeatureRun[LinearSettings]):
    """An opened run of a linear model."""

    def load(self) -> tuple[Vectors, RunData]:
        """Compute and store missing features.

        Returns:
            the vectors, and the data without waveforms

        Raises:
            ConfigError: if an utterance has no transcript, but the model uses transcripts
        """
        settings, parts = self.settings, model_settings(self.settings)
        with naming_keys("linear"):
            audio = open_audio_encoder(parts.audio) if uses_audio(parts.modalities) else None
        rate = audio.sampling_rate if audio else None
        data = open_data(self.source, settings.split, sampling_rate=rate, seed=settings.seed)
        if uses_transcript(parts.modalities):
            require_transcripts(data, settings.data.dir)
        assert isinstance(data.train, ExampleDataset)  # nothing augments it
        splits = [InputDataset(examples) for examples in (data.train, data.dev, data.scored_test)]
        light = [inputs.without_waveforms() for inputs in splits]
        with naming_keys("linear"):
            vectors = open_vectors(parts, audio, light[0], light[1:], Path(settings.linear.cache_dir))
            for inputs in splits:
                vectors.store(inputs, settings.linear.processes)
        train, dev, test = (examples.without_waveforms() for examples in (data.train, data.dev, data.test))
        return vectors, replace(data, train=train, dev=dev, test=test)


def open_linear_run(settings: LinearSettings) -> OpenedLinear:
    """Open the data and hash what the run depends on; no features are computed.

    Raises:
        ConfigError: if the settings do not fit the corpus
    """
    parts = settings.linear
    if settings.data.without_audio != "refuse":
        raise ConfigError("key 'data.without_audio': read; a linear model needs the audio of every utterance")
    source = open_corpus(settings.data, settings.split)
    require_training(source, settings.split)
    encoder_notes(parts, source.folded, settings.split.fold)  # refuses an encoder that was trained on another fold
    if source.folded.task.kind != "single":
        raise ConfigError(
            f"key 'split.protocol': its task is {source.folded.task.kind}; a linear model gives one label an "
            "utterance; choose such a protocol, or train_baseline.py with sequence.kind=none"
        )
    hashes = {**input_hashes(source, parts.modalities, None), "prompt": None, "base_model": None}
    settings = with_folder(
        settings,
        corpus=source.folded.corpus.name,
        recognizer=parts.name,
        method=LINEAR,
        modalities=parts.modalities,
    )
    return OpenedLinear(settings, source, hashes)


def model_settings(settings: LinearSettings) -> LinearModelSettings:
    """The settings of the model alone, with paths as they are recorded."""
    return values_of_base(LinearModelSettings, recorded(settings.linear))
