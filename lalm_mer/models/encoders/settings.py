"""Settings of the encoders of audio and of transcripts; this module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import Declared, setting

__all__ = [
    "AUDIO_ENCODERS", "FEATURE_SETS", "LEARNT", "LEVELS", "TEXT_ENCODERS", "AudioEncoderSettings", "EmbeddingsSettings",
    "ScratchSettings", "TextEncoderSettings", "TfidfSettings",
]  # fmt: skip

AUDIO_ENCODERS = ("opensmile", "log_mel", "mfcc", "waveform", "pretrained")
"""Kinds of ``AudioEncoderSettings``."""
FEATURE_SETS = ("pepino", "egemaps", "compare")
LEVELS = ("frames", "functionals")
TEXT_ENCODERS = ("pretrained", "finetuned", "scratch", "embeddings", "static", "tfidf")
"""Kinds of ``TextEncoderSettings``."""
LEARNT = ("finetuned", "scratch", "embeddings")
"""Those that are trained together with the network; the others are frozen."""
_BOTH = "of pretrained and finetuned"
_LAYERS = (
    "last, all, or a list of numbers, 0 for the input of the first layer; several are summed with softmax weights that "
    "are learnt"
)


def _model(default: str, help: str, of: str = "of pretrained") -> Any:  # noqa: ANN401 a declaration
    return setting(default, path="source", help=f"{of}: Hub id or folder of {help}")


def _revision(of: str = "of pretrained") -> Any:  # noqa: ANN401 a declaration
    return setting(None, help=f"{of}: branch, tag or commit on the Hub")


def _pooled() -> Any:  # noqa: ANN401 a declaration
    return setting(False, help="one vector per utterance: mean and standard deviation of the features over time")


@dataclass(frozen=True)
class AudioEncoderSettings(Declared):
    """A frozen encoder of audio.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting(
        "opensmile",
        choices=AUDIO_ENCODERS,
        help="opensmile needs the extra acoustic; mfcc has deltas; waveform: blocks of 10 ms of samples; pretrained: a "
        "speech or audio model of transformers",
    )
    feature_set: str = setting(
        "pepino",
        choices=FEATURE_SETS,
        help="of opensmile: the 36 frame features of Pepino et al., eGeMAPSv02 or ComParE 2016",
    )
    level: str = setting("frames", choices=LEVELS, help="of opensmile: one vector per frame or per utterance")
    bands: int = setting(40, at_least=1, at_most=256, help="of log_mel and mfcc: number of bands")
    hop_ms: int = setting(
        10, at_least=1, at_most=25, help="of log_mel and mfcc: milliseconds from frame to frame, each of 25 ms"
    )
    coefficients: int = setting(13, at_least=1, help="of mfcc: number of coefficients, at most bands")
    trim_db: float | None = setting(
        35.0, above=0, help="silence at both ends, this far below the loudest 25 ms, is removed; null keeps it"
    )
    model: str = _model("openai/whisper-base", "wav2vec2, HuBERT, WavLM, Whisper, AST, CLAP or similar")
    revision: str | None = _revision()
    layers: Any = setting("last", help=f"of pretrained: {_LAYERS}")
    pooled: bool = _pooled()

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_layers(self.layers)
        if self.kind == "opensmile" and self.feature_set == "pepino" and self.level == "functionals":
            raise ConfigError("argument 'level': functionals; feature set pepino has frames alone: choose another set")
        if self.kind == "mfcc" and self.coefficients > self.bands:
            raise ConfigError(f"argument 'coefficients': {self.coefficients}; expected at most bands, {self.bands}")

    @property
    def uses_model(self) -> bool:
        """Whether its weights are, or were at first, those of ``model``."""
        return self.kind == "pretrained"

    @property
    def name(self) -> str:
        """Name in the names of recognizers."""
        if self.kind == "opensmile":
            name = {"pepino": "opensmile"}.get(self.feature_set, self.feature_set)
            name += " functionals" if self.level == "functionals" else ""
        else:
            name = _model_name(self.model, self.layers) if self.kind == "pretrained" else self.kind
        return f"{name} pooled" if self.pooled else name


@dataclass(frozen=True)
class ScratchSettings(Declared):
    """A small BERT trained jointly with the network, for use without a pretrained one.

    Raises:
        ConfigError: naming an argument outside its range
    """

    layers: int = setting(2, at_least=1, at_most=64, help="transformer layers")
    size: int = setting(64, at_least=1, at_most=4096, help="width of the embeddings, a multiple of heads")
    heads: int = setting(2, at_least=1, help="attention heads")
    vocabulary_size: int = setting(5000, at_least=1, help="words at most, the most frequent of the train split")
    word_dropout: float = setting(
        0.3, at_least=0, below=1, help="probability of replacing a word by the unknown word, to train its embedding"
    )
    dropout: float = setting(0.1, at_least=0, below=1, help="within the transformer")
    max_tokens: int = setting(256, at_least=1, help="longest transcript, in words with the two special tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % self.heads:
            raise ConfigError(f"argument 'size': {self.size}; expected a multiple of heads, which are {self.heads}")


@dataclass(frozen=True)
class EmbeddingsSettings(Declared):
    """Embeddings of words or characters, trained jointly with the network.

    Raises:
        ConfigError: naming an argument outside its range
    """

    unit: str = setting("word", choices=("word", "character"), help="what has an embedding")
    size: int = setting(64, at_least=1, at_most=4096, help="width of the embeddings")
    vocabulary_size: int = setting(5000, at_least=1, help="units at most, the most frequent of the train split")
    word_dropout: float = setting(
        0.3, at_least=0, below=1, help="probability of replacing a unit by the unknown one, to train its embedding"
    )
    max_tokens: int = setting(1024, at_least=1, help="longest transcript, in units with the two special tokens")


@dataclass(frozen=True)
class TfidfSettings(Declared):
    """TF-IDF of words and punctuation, fitted on the train split.

    Raises:
        ConfigError: naming an argument outside its range
    """

    longest_ngram: int = setting(2, at_least=1, help="n-grams of 1 to this number of words")
    least_count: int = setting(1, at_least=1, help="n-grams in fewer train transcripts are left out")
    vocabulary_size: int | None = setting(None, at_least=1, help="n-grams at most, the most frequent; null: all")
    sublinear: bool = setting(False, help="1 + log(count) in place of the count")


@dataclass(frozen=True)
class TextEncoderSettings(Declared):
    """An encoder of transcripts.

    Raises:
        ConfigError: naming an argument outside its range
    """

    kind: str = setting(
        "pretrained",
        choices=TEXT_ENCODERS,
        help="pretrained, static (word vectors of a file) and tfidf are frozen; finetuned (a pretrained encoder), "
        "scratch (a small BERT) and embeddings are trained jointly",
    )
    model: str = _model("google-bert/bert-base-uncased", "a BERT-like encoder", _BOTH)
    revision: str | None = _revision(_BOTH)
    layers: Any = setting("last", help=f"{_BOTH}: {_LAYERS}")
    learning_rate: float = setting(
        5e-5, at_least=0, help="of finetuned: its maximum for the encoder; train.learning_rate is for the other parts"
    )
    pooled: bool = _pooled()
    file: str | None = setting(
        None, path="new", help="of static: word vectors as text, as of GloVe or word2vec; only words of the corpus stay"
    )
    scratch: ScratchSettings = field(default_factory=ScratchSettings)
    embeddings: EmbeddingsSettings = field(default_factory=EmbeddingsSettings)
    tfidf: TfidfSettings = field(default_factory=TfidfSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_layers(self.layers)
        if self.pooled and (self.learnt or self.kind == "tfidf"):
            raise ConfigError(
                f"argument 'pooled': true; {self.kind} has no stored features over time that could be pooled"
            )

    @property
    def learnt(self) -> bool:
        """Whether it is trained together with the network."""
        return self.kind in LEARNT

    @property
    def uses_model(self) -> bool:
        """Whether its weights are, or were at first, those of ``model``."""
        return self.kind in ("pretrained", "finetuned")

    @property
    def name(self) -> str:
        """Name in the names of recognizers."""
        if self.kind == "embeddings":
            return f"{self.embeddings.unit} embeddings"
        if self.kind == "static":
            return _last(self.file or "static").removesuffix(".txt")
        name = _model_name(self.model, self.layers) if self.uses_model else self.kind
        name += " fine-tuned" if self.kind == "finetuned" else ""
        return f"{name} pooled" if self.pooled else name


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _model_name(model: str, layers: Any) -> str:  # noqa: ANN401 as the setting
    if layers == "last":
        return _last(model)
    return f"{_last(model)} {'all layers' if layers == 'all' else 'layers ' + '+'.join(map(str, layers))}"


def _require_layers(layers: Any) -> None:  # noqa: ANN401 as the setting
    numbers = isinstance(layers, list | tuple) and all(type(number) is int and number >= 0 for number in layers)
    if layers not in ("last", "all") and not (numbers and layers):
        raise ConfigError(f"argument 'layers': {layers!r}; expected last, all, or a list of numbers from 0")
