"""The parts of a baseline and their settings; this module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import Declared, setting
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings

__all__ = [
    "AudioBranchSettings", "BranchSettings", "Conv2dSettings", "FusionSettings", "HeadSettings", "NetworkSettings",
    "SequenceSettings", "TranscriptBranchSettings",
]  # fmt: skip


@dataclass(frozen=True)
class Conv2dSettings(Declared):
    """Convolutions over time and features, for spectrograms and MFCC, before the network over time.

    Raises:
        ConfigError: naming an argument outside its range
    """

    layers: int = setting(0, at_least=0, at_most=64, help="number of layers; 0 for none")
    channels: int = setting(32, at_least=1, at_most=4096, help="output channels of each layer")
    kernel_size: int = setting(
        3, at_least=1, at_most=1023, help="frames and features per convolution; odd, to keep the length"
    )
    stride: int = setting(
        2, at_least=1, at_most=1023, help="step of every convolution; with 2, each layer halves frames and features"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_odd(self.kernel_size)


@dataclass(frozen=True)
class SequenceSettings(Declared):
    """The network over the frames or tokens of a branch, and its pooling; noise, shift and masks are for training only.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting(
        "conv1d",
        choices=("conv1d", "lstm", "gru", "transformer", "none"),
        help="network over time, after conv2d; lstm and gru are bidirectional; none: the features themselves, or the "
        "output of conv2d, are pooled",
    )
    channels: int = setting(
        64,
        at_least=1,
        at_most=4096,
        help="output channels of a convolution, units of each direction, or width of the transformer",
    )
    layers: int = setting(2, at_least=1, at_most=64, help="number of layers")
    kernel_size: int = setting(
        5, at_least=1, at_most=1023, help="frames or tokens per convolution; odd, to keep the length"
    )
    stride: int = setting(
        1, at_least=1, at_most=1023, help="step of every convolution; with 2, each layer halves the frames"
    )
    heads: int = setting(4, at_least=1, help="attention heads of the transformer; channels is a multiple")
    dropout: float = setting(0.3, at_least=0, below=1, help="probability after each layer and after pooling")
    batch_norm: bool = setting(False, help="batch normalisation after each convolution, over frames without padding")
    pooling: str = setting(
        "mean",
        choices=("mean", "mean_std", "max", "attentive"),
        help="over time; mean_std: also standard deviation; attentive: both, weighted by learnt attention",
    )
    noise_std: float = setting(0.0, at_least=0, help="standard deviation of Gaussian noise on the normalised input")
    shift_std: float = setting(
        0.0,
        at_least=0,
        help="standard deviation of one Gaussian offset per feature and utterance, like that of another microphone",
    )
    time_mask: float = setting(0.0, at_least=0, below=1, help="largest fraction of frames set to the train mean")
    feature_mask: float = setting(0.0, at_least=0, below=1, help="largest fraction of features set to the train mean")
    conv2d: Conv2dSettings = field(default_factory=Conv2dSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_odd(self.kernel_size)
        if self.kind == "transformer" and (self.channels % self.heads or self.channels % 2):
            raise ConfigError(
                f"argument 'channels': {self.channels}; expected an even multiple of heads, which are {self.heads}"
            )


@dataclass(frozen=True)
class BranchSettings(Declared):
    """One modality of a baseline, without its encoder.

    Raises:
        ConfigError: naming an argument outside its range
    """

    sequence: SequenceSettings = field(default_factory=SequenceSettings)
    normalisation: str = setting(
        "train",
        choices=names.NORMALISATIONS,
        help="mean and standard deviation of frozen features: over train, over the utterances of each speaker in a "
        "split, test included, or none",
    )
    start_from: str | None = setting(
        None,
        path="new",
        help="run folder of a baseline on the same fold, whose branch of this modality gives the initial weights; "
        "{fold} and {seed} are replaced",
    )
    frozen: bool = setting(False, help="keep the weights of start_from; fusion and head are trained")

    @property
    def name_of_parts(self) -> list[str]:
        """Words for what is not the default, in the names of recognizers."""
        sequence = ["conv2d"] if self.sequence.conv2d.layers else []
        sequence += [] if self.sequence.kind == "conv1d" else [self.sequence.kind]
        pooling = [self.sequence.pooling] if self.sequence.pooling in ("max", "attentive") else []
        speaker = ["by speaker"] if self.normalisation == "speaker" else []
        start = [] if self.start_from is None else ["frozen" if self.frozen else "warm"]
        return [*sequence, *pooling, *speaker, *start]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen and self.start_from is None:
            raise ConfigError("argument 'frozen': true, but there is no start_from, whose weights would be kept")


@dataclass(frozen=True)
class AudioBranchSettings(BranchSettings):
    """The audio branch.

    Raises:
        ConfigError: naming an argument outside its range
    """

    encoder: AudioEncoderSettings = field(default_factory=AudioEncoderSettings)


@dataclass(frozen=True)
class TranscriptBranchSettings(BranchSettings):
    """The transcript branch.

    Raises:
        ConfigError: naming an argument outside its range
    """

    encoder: TextEncoderSettings = field(default_factory=TextEncoderSettings)
    context_turns: int = setting(
        0,
        at_least=0,
        at_most=1000,
        help="number of preceding turns of the dialogue, which the same branch encodes as a second vector",
    )

    @property
    def name_of_parts(self) -> list[str]:
        """Also the number of turns."""
        turns = [f"context {self.context_turns}"] if self.context_turns else []
        return [*super().name_of_parts, *turns]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.learnt and self.normalisation == "speaker":
            raise ConfigError(
                f"argument 'normalisation': speaker, but encoder {self.encoder.kind} is learnt, and has no features to "
                "normalise; set it to none"
            )
        if self.context_turns and self.normalisation == "speaker":
            raise ConfigError(
                f"argument 'context_turns': {self.context_turns}, but they are of several speakers and normalisation "
                "is speaker; set one of them to its default"
            )


@dataclass(frozen=True)
class FusionSettings(Declared):
    """How two branches are combined; a single one is not.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting(
        "concatenation",
        choices=("concatenation", "gated", "attention", "cross_modal", "bilinear"),
        help="of the vectors of both branches; cross_modal: transformers from each sequence to the other; bilinear: of "
        "low rank",
    )
    size: int = setting(64, at_least=1, at_most=4096, help="width of all but concatenation; an even multiple of heads")
    heads: int = setting(4, at_least=1, help="attention heads of attention and cross_modal")
    layers: int = setting(1, at_least=1, at_most=64, help="layers of cross_modal in each direction")
    rank: int = setting(4, at_least=1, at_most=1024, help="of bilinear")
    dropout: float = setting(0.1, at_least=0, below=1, help="within attention and cross_modal")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in ("attention", "cross_modal") and (self.size % self.heads or self.size % 2):
            raise ConfigError(f"argument 'size': {self.size}; expected an even multiple of heads, {self.heads}")


@dataclass(frozen=True)
class HeadSettings(Declared):
    """The classifier after the fusion."""

    hidden: int = setting(64, at_least=0, at_most=65536, help="units of the dense layer; 0 for none")
    dropout: float = setting(0.3, at_least=0, below=1, help="probability after the dense layer")


@dataclass(frozen=True)
class NetworkSettings(Declared):
    """A baseline: its branches, their fusion and the head.

    Raises:
        ConfigError: naming an argument outside its range
    """

    modalities: str = setting(names.AUDIO_TRANSCRIPT, choices=names.MODALITIES, help="branches of the network")
    audio: AudioBranchSettings = field(default_factory=AudioBranchSettings)
    transcript: TranscriptBranchSettings = field(default_factory=TranscriptBranchSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    head: HeadSettings = field(default_factory=HeadSettings)

    @property
    def name(self) -> str:
        """Name in comparisons, the same for all modalities, such as ``fusion (opensmile, bert-base-uncased)``.

        Parts that are not the default follow the encoder of their branch, or both branches.
        """
        branches = [
            " ".join([encoder.name, *branch.name_of_parts])
            for branch, encoder in ((self.audio, self.audio.encoder), (self.transcript, self.transcript.encoder))
        ]
        fusion = [] if self.fusion.kind == "concatenation" else [self.fusion.kind.replace("_", "-")]
        return f"fusion ({', '.join([*branches, *fusion])})"

    @property
    def encoders(self) -> dict[str, AudioEncoderSettings | TextEncoderSettings]:
        """Modality -> settings of its encoder, for those that are used."""
        return {modality: branch.encoder for modality, branch in self.branches.items()}

    @property
    def by_speaker(self) -> list[str]:
        """Modalities whose features are normalised by the statistics of their speaker."""
        return [modality for modality, branch in self.branches.items() if branch.normalisation == "speaker"]

    @property
    def branches(self) -> dict[str, AudioBranchSettings | TranscriptBranchSettings]:
        """Modality -> settings of its branch, for those that are used."""
        branches: dict[str, AudioBranchSettings | TranscriptBranchSettings]
        branches = {names.AUDIO: self.audio, names.TRANSCRIPT: self.transcript}
        return {modality: branch for modality, branch in branches.items() if modality in self.modalities.split("+")}


def _require_odd(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ConfigError(f"argument 'kernel_size': {kernel_size}; expected an odd number")
