"""The parts of a baseline and their settings; this module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import require_declared, setting
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings

__all__ = [
    "NORMALISATIONS", "AudioBranchSettings", "BranchSettings", "FusionSettings", "HeadSettings", "NetworkSettings",
    "SequenceSettings", "TranscriptBranchSettings",
]  # fmt: skip

NORMALISATIONS = ("train", "speaker", "none")
"""Which utterances give mean and standard deviation of the features: those of train, those of a speaker, or none."""


@dataclass(frozen=True)
class SequenceSettings:
    """The network over the frames or tokens of a branch, and its pooling; noise, shift and masks are for training only.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting("conv1d", choices=("conv1d",), help="network over time")
    channels: int = setting(64, at_least=1, help="output channels of every convolution")
    layers: int = setting(2, at_least=1, help="number of convolutions")
    kernel_size: int = setting(5, at_least=1, help="frames or tokens per convolution; odd, to keep the length")
    stride: int = setting(1, at_least=1, help="step of every convolution; with 2, each layer halves the frames")
    dropout: float = setting(0.3, at_least=0, below=1, help="probability after convolutions and after pooling")
    batch_norm: bool = setting(False, help="batch normalisation after each convolution, over frames without padding")
    pooling: str = setting("mean", choices=("mean", "mean_std"), help="over time; mean_std: also standard deviation")
    noise_std: float = setting(0.0, at_least=0, help="standard deviation of Gaussian noise on the normalised input")
    shift_std: float = setting(
        0.0,
        at_least=0,
        help="standard deviation of one Gaussian offset per feature and utterance, like that of another microphone",
    )
    time_mask: float = setting(0.0, at_least=0, below=1, help="largest fraction of frames set to the train mean")
    feature_mask: float = setting(0.0, at_least=0, below=1, help="largest fraction of features set to the train mean")

    def __post_init__(self) -> None:
        require_declared(self)
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"argument 'kernel_size': {self.kernel_size}; expected an odd number")


@dataclass(frozen=True)
class BranchSettings:
    """One modality of a baseline, without its encoder.

    Raises:
        ConfigError: naming an argument outside its range
    """

    sequence: SequenceSettings = field(default_factory=SequenceSettings)
    normalisation: str = setting(
        "train",
        choices=NORMALISATIONS,
        help="mean and standard deviation of frozen features: over train, over the utterances of each speaker in a "
        "split, test included, or none",
    )


@dataclass(frozen=True)
class AudioBranchSettings(BranchSettings):
    """The audio branch.

    Raises:
        ConfigError: naming an argument outside its range
    """

    encoder: AudioEncoderSettings = field(default_factory=AudioEncoderSettings)

    def __post_init__(self) -> None:
        require_declared(self)


@dataclass(frozen=True)
class TranscriptBranchSettings(BranchSettings):
    """The transcript branch.

    Raises:
        ConfigError: naming an argument outside its range
    """

    encoder: TextEncoderSettings = field(default_factory=TextEncoderSettings)

    def __post_init__(self) -> None:
        require_declared(self)
        if self.encoder.learnt and self.normalisation == "speaker":
            raise ConfigError(
                f"argument 'normalisation': speaker, but encoder {self.encoder.kind} is learnt, and has no features to "
                "normalise; set it to none"
            )


@dataclass(frozen=True)
class FusionSettings:
    """How the branches are combined."""

    kind: str = setting("concatenation", choices=("concatenation",), help="of the vectors of both branches")

    def __post_init__(self) -> None:
        require_declared(self)


@dataclass(frozen=True)
class HeadSettings:
    """The classifier after the fusion."""

    hidden: int = setting(64, at_least=0, help="units of the dense layer; 0 for none")
    dropout: float = setting(0.3, at_least=0, below=1, help="probability after the dense layer")

    def __post_init__(self) -> None:
        require_declared(self)


@dataclass(frozen=True)
class NetworkSettings:
    """A baseline: its branches, their fusion and the head.

    Raises:
        ConfigError: naming an argument outside its range
    """

    modalities: str = setting(names.AUDIO_TRANSCRIPT, choices=names.MODALITIES, help="branches of the network")
    audio: AudioBranchSettings = field(default_factory=AudioBranchSettings)
    transcript: TranscriptBranchSettings = field(default_factory=TranscriptBranchSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    label_smoothing: float = setting(0.0, at_least=0, below=1, help="share of the target divided among all labels")

    def __post_init__(self) -> None:
        require_declared(self)

    @property
    def name(self) -> str:
        """Name in comparisons, the same for all modalities, such as ``fusion (opensmile, bert-base-uncased)``."""
        return f"fusion ({', '.join([self.audio.encoder.name, self.transcript.encoder.name])})"

    @property
    def branches(self) -> dict[str, BranchSettings]:
        """Modality -> settings of its branch, for those that are used."""
        branches: dict[str, BranchSettings] = {names.AUDIO: self.audio, names.TRANSCRIPT: self.transcript}
        return {modality: branch for modality, branch in branches.items() if modality in self.modalities.split("+")}

    @property
    def encoders(self) -> list[AudioEncoderSettings | TextEncoderSettings]:
        """Settings of the encoders that are used."""
        audio = [self.audio.encoder] if names.uses_audio(self.modalities) else []
        return [*audio, self.transcript.encoder] if names.uses_transcript(self.modalities) else [*audio]
