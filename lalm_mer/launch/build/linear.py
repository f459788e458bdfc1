"""Builder of a linear model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import LINEAR, uses_audio, uses_transcript
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.settings import naming_keys
from lalm_mer.examples.dataset import ExampleDataset, ExampleSource, InputDataset
from lalm_mer.launch.build.data import (
    RunData,
    input_hashes,
    open_corpus,
    open_data,
    require_training,
    require_transcripts,
)
from lalm_mer.launch.build.defaults import with_folder
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.models.encoders.kinds import open_audio_encoder
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.linear.features import Vectors, open_vectors
from lalm_mer.recognizers.linear.settings import LinearModelSettings

__all__ = ["OpenedLinear", "linear_notes", "model_settings", "open_linear_run", "pretrained_models"]


@dataclass(frozen=True)
class OpenedLinear:
    """An opened run of a linear model, before its features are computed.

    Args:
        settings: resolved config
        source: the folded corpus
        hashes: hashes of everything that the run depends on
    """

    settings: LinearSettings
    source: ExampleSource
    hashes: dict[str, str | None]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)

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
    parts = recorded(settings.linear)
    return LinearModelSettings(**{field.name: getattr(parts, field.name) for field in fields(LinearModelSettings)})


def pretrained_models(parts: LinearModelSettings) -> str | None:
    """The pretrained encoders that are used, as recorded; None if none is."""
    encoders: list[AudioEncoderSettings | TextEncoderSettings] = [parts.audio] if uses_audio(parts.modalities) else []
    encoders += [parts.transcript] if uses_transcript(parts.modalities) else []
    return ", ".join(each.model for each in encoders if each.kind == "pretrained") or None


def linear_notes(parts: LinearModelSettings) -> list[Note]:
    """Notes on the results."""
    notes = []
    if uses_audio(parts.modalities) and parts.audio.kind == "opensmile":
        notes.append(Note(NoteCode.OPENSMILE_LICENCE))
    if parts.normalisation == "speaker":
        notes.append(Note(NoteCode.SPEAKER_STATISTICS, facts={"modalities": parts.modalities}))
    return notes
