"""What runs over the features of encoders have in common: those of a baseline and those of a linear model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lalm_mer.core.config import recorded
from lalm_mer.core.names import AUDIO, TRANSCRIPT
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.settings import naming_keys
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.settings import BaselineSettings
from lalm_mer.protocols.folded_corpus import FoldedCorpus
from lalm_mer.recognizers.baselines.settings import NetworkSettings
from lalm_mer.recognizers.linear.settings import LinearModelSettings
from lalm_mer.sharing.adapter_context import training_notes

__all__ = ["OpenedFeatureRun", "encoder_notes", "pretrained_models"]

SettingsT = TypeVar("SettingsT", BaselineSettings, LinearSettings)


@dataclass(frozen=True)
class OpenedFeatureRun(Generic[SettingsT]):
    """An opened run, before its features are computed.

    Args:
        settings: resolved config
        source: the folded corpus
        hashes: hashes of everything that the run depends on
    """

    settings: SettingsT
    source: ExampleSource
    hashes: dict[str, str | None]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)


def pretrained_models(parts: NetworkSettings | LinearModelSettings) -> str | None:
    """The pretrained encoders, as they are recorded; None if none is."""
    encoders = recorded(parts).encoders.values()
    return ", ".join(each.model for each in encoders if each.uses_model) or None


def encoder_notes(parts: NetworkSettings | LinearModelSettings, folded: FoldedCorpus, fold: int) -> list[Note]:
    """Notes on the encoders.

    Raises:
        SplitLeakError: if one was trained by an earlier run on another fold of the same folds
    """
    notes, encoders = [], parts.encoders
    for encoder in encoders.values():
        if encoder.uses_model:
            with naming_keys("split"):
                notes += training_notes(
                    Path(encoder.model), corpus=folded.corpus.name, folds_digest=folded.folds.digest, fold=fold
                )
    if TRANSCRIPT in encoders and encoders[TRANSCRIPT].kind == "scratch":
        notes.append(Note(NoteCode.SCRATCH_BERT))
    if AUDIO in encoders and encoders[AUDIO].kind == "opensmile":
        notes.append(Note(NoteCode.OPENSMILE_LICENCE))
    if parts.by_speaker:
        notes.append(Note(NoteCode.SPEAKER_STATISTICS, facts={"modalities": "+".join(parts.by_speaker)}))
    return notes
