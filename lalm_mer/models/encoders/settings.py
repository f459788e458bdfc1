"""Settings of the encoders of audio and of transcripts; this module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import require_declared, setting

__all__ = [
    "AUDIO_ENCODERS", "LEARNT", "TEXT_ENCODERS", "AudioEncoderSettings", "ScratchSettings", "TextEncoderSettings",
]  # fmt: skip

AUDIO_ENCODERS = ("opensmile", "log_mel")
"""Kinds of ``AudioEncoderSettings``."""
TEXT_ENCODERS = ("pretrained", "scratch")
"""Kinds of ``TextEncoderSettings``."""
LEARNT = ("scratch",)
"""Those that are trained together with the network; the others are frozen."""


@dataclass(frozen=True)
class AudioEncoderSettings:
    """A frozen encoder of audio.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting("opensmile", choices=AUDIO_ENCODERS, help="opensmile needs the extra acoustic")
    bands: int = setting(40, at_least=1, help="of log_mel: number of bands")
    trim_db: float | None = setting(
        35.0, above=0, help="silence at both ends, this far below the loudest 25 ms, is removed; null keeps it"
    )

    def __post_init__(self) -> None:
        require_declared(self)

    @property
    def name(self) -> str:
        """Name in the names of recognizers."""
        return self.kind


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


@dataclass(frozen=True)
class TextEncoderSettings:
    """An encoder of transcripts.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting("pretrained", choices=TEXT_ENCODERS, help="scratch is trained jointly, the others are frozen")
    model: str = setting(
        "google-bert/bert-base-uncased", path="source", help="of pretrained: Hub id or folder of a BERT-like encoder"
    )
    revision: str | None = setting(None, help="of pretrained: branch, tag or commit on the Hub")
    scratch: ScratchSettings = field(default_factory=ScratchSettings)

    def __post_init__(self) -> None:
        require_declared(self)

    @property
    def learnt(self) -> bool:
        """Whether it is trained together with the network."""
        return self.kind in LEARNT

    @property
    def name(self) -> str:
        """Name in the names of recognizers."""
        return self.model.rstrip("/").rpartition("/")[2] if self.kind == "pretrained" else self.kind
