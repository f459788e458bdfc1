"""Settings of a linear model; this module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import Declared, setting
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings

__all__ = ["LinearModelSettings"]


def _audio() -> AudioEncoderSettings:
    return AudioEncoderSettings(feature_set="compare", level="functionals", trim_db=None)


@dataclass(frozen=True)
class LinearModelSettings(Declared):
    """A linear model of one vector per utterance.

    Raises:
        ConfigError: naming an argument outside its range, or an encoder that gives several vectors or is not frozen
    """

    modalities: str = setting(
        names.AUDIO_TRANSCRIPT,
        choices=names.MODALITIES,
        help="whose vectors are used; with both they are concatenated, each scaled to a mean squared norm of 1",
    )
    classifier: str = setting(
        "logistic_regression",
        choices=("logistic_regression", "svm"),
        help="svm is linear, one label against the rest; its probabilities are the softmax of the distances to its "
        "hyperplanes, with a temperature fitted on dev",
    )
    audio: AudioEncoderSettings = field(default_factory=_audio)
    transcript: TextEncoderSettings = field(default_factory=lambda: TextEncoderSettings(kind="tfidf"))
    normalisation: str = setting(
        "train",
        choices=names.NORMALISATIONS,
        help="of each feature except TF-IDF, to mean 0 and standard deviation 1: of train, or of the speaker over the "
        "split, which for test are those of the test speakers",
    )
    c: list[float] = setting(
        [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
        above=0,
        help="inverse strengths of the regularisation to try; the best on dev by the protocol's metric is used, the "
        "first one of equals",
    )
    class_weight: str = setting(
        "none", choices=("none", "balanced"), help="of the errors of a class; balanced: inverse frequency in train"
    )
    refit_with_dev: bool = setting(
        False, help="fit again on train and dev for test, with the chosen c; dev_predictions are of the fit on train"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.c:
            raise ConfigError("argument 'c': is empty; give at least one number")
        if names.uses_audio(self.modalities):
            functionals = self.audio.kind == "opensmile" and self.audio.level == "functionals"
            if not (functionals or self.audio.pooled):
                raise ConfigError(
                    f"argument 'audio.pooled': false, but {self.audio.kind} gives a vector for each frame; set it to "
                    "true, or audio.level to functionals"
                )
        if names.uses_transcript(self.modalities):
            if self.transcript.learnt:
                raise ConfigError(
                    f"argument 'transcript.kind': {self.transcript.kind} is trained with a network; choose tfidf, "
                    "pretrained or static"
                )
            if self.transcript.kind != "tfidf" and not self.transcript.pooled:
                raise ConfigError(
                    f"argument 'transcript.pooled': false, but {self.transcript.kind} gives a vector for each token; "
                    "set it to true"
                )

    @property
    def encoders(self) -> dict[str, AudioEncoderSettings | TextEncoderSettings]:
        """Modality -> settings of its encoder, for those that are used."""
        encoders: dict[str, AudioEncoderSettings | TextEncoderSettings]
        encoders = {names.AUDIO: self.audio, names.TRANSCRIPT: self.transcript}
        return {modality: each for modality, each in encoders.items() if modality in self.modalities.split("+")}

    @property
    def by_speaker(self) -> list[str]:
        """Modalities whose features are normalised by the statistics of their speaker."""
        return [*self.encoders] if self.normalisation == "speaker" else []

    @property
    def name(self) -> str:
        """Name in comparisons, the same for all modalities."""
        kind = {"logistic_regression": "logistic regression", "svm": "SVM"}[self.classifier]
        return f"{kind} ({self.audio.name}, {self.transcript.name})"
