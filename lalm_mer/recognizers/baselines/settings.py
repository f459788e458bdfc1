"""Shape and regularisation of the parts of the fusion baseline; this module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import require_declared, setting

__all__ = ["BranchSettings", "ScratchSettings"]


@dataclass(frozen=True)
class BranchSettings:
    """Shape and regularisation of one branch; noise, shift and masks are for training only.

    Raises:
        ConfigError: naming an argument outside its range
    """

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
class ScratchSettings:
    """A small BERT trained jointly with the network, for use without a pretrained one.

    Raises:
        ConfigError: naming an argument outside its range
    """

    layers: int = setting(2, at_least=1, help="transformer layers")
    size: int = setting(64, at_least=1, help="width of the embeddings, a multiple of heads")
    heads: int = setting(2, at_least=1, help="attention heads")
    vocabulary_size: int = setting(5000, at_least=1, help="words at most, the most frequent of the train split")
    word_dropout: float = setting(
        0.3, at_least=0, below=1, help="probability of replacing a word by the unknown word, to train its embedding"
    )
    dropout: float = setting(0.1, at_least=0, below=1, help="within the transformer")
    max_tokens: int = setting(256, at_least=1, help="longest transcript, in words with the two special tokens")

    def __post_init__(self) -> None:
        require_declared(self)
        if self.size % self.heads:
            raise ConfigError(f"argument 'size': {self.size}; expected a multiple of heads, which are {self.heads}")
