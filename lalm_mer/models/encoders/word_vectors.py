"""Static word vectors of a text file, such as those of GloVe or word2vec."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lalm_mer.core.errors import ConfigError, ModelError, PredictionError, one_line
from lalm_mer.core.output import atomic_path, write_json
from lalm_mer.core.provenance import hash_bytes, hash_json
from lalm_mer.core.schema import Input
from lalm_mer.core.strict_json import read_object
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import pooled_frames
from lalm_mer.models.encoders.transcript_tokens import transcript_of

__all__ = ["WORD_FILES", "StaticText"]

WORD_FILES = _WORDS, _VECTORS = "words.json", "words.safetensors"
"""Files that ``StaticText.save`` writes"""


class StaticText:
    """One vector per word of a transcript, the same in every context; a ``FeatureExtractor``.

    A word without a vector is looked up in lower case, and left out if that has none either; a transcript without any
    known word is a single vector of zeros.

    Args:
        words: W words
        vectors: (W, D)
        pooled: whether mean and standard deviation over the words are the only frame

    Example:
        >>> encoder = StaticText(["fine", "it"], np.array([[1, 0], [0, 2]], np.float32))
        >>> encoder.extract(Input("u1", "It is fine.", None)).tolist()
        [[0.0, 2.0], [1.0, 0.0]]
    """

    layers: int = 1
    """L, number of layers whose features are side by side in a frame."""
    stored: bool = False
    """Whether its features are worth storing."""

    def __init__(self, words: Iterable[str], vectors: npt.NDArray[np.float32], *, pooled: bool = False) -> None:
        self._rows = {word: row for row, word in enumerate(words)}
        self._vectors, self.pooled = vectors, pooled
        if vectors.ndim != 2 or len(self._rows) != len(vectors):
            raise ModelError(f"{len(self._rows)} words with vectors of shape {vectors.shape}; expected one each")
        self.size = vectors.shape[1] * (2 if pooled else 1)

    @classmethod
    def read(cls, file: Path, transcripts: Iterable[str], *, pooled: bool = False) -> StaticText:
        """Read the vectors of the words of some transcripts; other words are left out, which changes no result.

        Args:
            file: a word and D numbers in each line, separated by spaces; the first vector of a word is used. The first
                line may be the number of words and D
            transcripts: those of the corpus
            pooled: see the class

        Raises:
            ConfigError: if the file cannot be read, a line is not a word with D finite numbers, the number of words is
                not that of the first line, or no word of the corpus is in it
        """
        found = {word for text in transcripts for word in _words(text)}
        kept = _vectors_of(file, found | {word.lower() for word in found})
        if not kept:
            raise ConfigError(f"argument 'file': {file} has no vector of any word of the corpus")
        with np.errstate(over="ignore"):  # a number beyond float32 is refused as infinite
            vectors = np.stack(list(kept.values())).astype(np.float32)
        if not np.isfinite(vectors).all():
            raise ConfigError(f"argument 'file': {file} has vectors that are not finite in float32")
        return cls(kept, vectors, pooled=pooled)

    def settings(self) -> dict[str, Any]:
        """Hash of words and vectors."""
        fitted = hash_json([list(self._rows), hash_bytes(self._vectors.tobytes())])
        return {"name": "static", "pooled": self.pooled, "weights": fitted}

    def source_hash(self, given: Input) -> str | None:
        """None: its features are not stored."""
        return None

    def extract(self, given: Input) -> Frames:
        """The vectors of an input's words, (T, D).

        Raises:
            CorpusError: naming the utterance, if it has no transcript
        """
        words = _words(transcript_of(given))
        rows = [self._rows.get(word, self._rows.get(word.lower())) for word in words]
        known = [row for row in rows if row is not None]
        frames = self._vectors[known] if known else np.zeros((1, self._vectors.shape[1]), np.float32)
        return pooled_frames(frames) if self.pooled else frames

    def save(self, folder: Path) -> None:
        """Write words and vectors."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _WORDS, {"words": list(self._rows)})
        with atomic_path(folder / _VECTORS) as partial:
            save_file({"vectors": self._vectors}, partial)

    @classmethod
    def load(cls, folder: Path, *, pooled: bool = False) -> StaticText:
        """Read what ``save`` wrote.

        Raises:
            ModelError: if a file is missing or does not fit the other
        """
        try:
            return cls(read_object(folder / _WORDS)["words"], load_file(folder / _VECTORS)["vectors"], pooled=pooled)
        except (PredictionError, SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{folder}: no word vectors ({one_line(error)})") from error


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _vectors_of(file: Path, wanted: Collection[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Vectors of the wanted words, (D,); the first one of each.

    Raises:
        ConfigError: see ``StaticText.read``
    """
    kept: dict[str, npt.NDArray[np.float64]] = {}
    stated, size, count = None, 0, 0
    for number, line in enumerate(_lines(file), start=1):
        fields = line.rstrip("\n").rstrip(" ").split(" ")
        if number == 1 and len(fields) == 2:
            if not all(field.isdecimal() for field in fields):
                raise ConfigError(f"argument 'file': {file}, line 1: expected a word and its vector, or two numbers")
            stated, size = map(int, fields)
            continue
        size, count = size or len(fields) - 1, count + 1
        # a word may contain spaces, but its last part is no number
        if size < 1 or len(fields) <= size or (len(fields) > size + 1 and _is_number(fields[-size - 1])):
            raise ConfigError(f"argument 'file': {file}, line {number}: expected a word and {size or 'its'} numbers")
        word = " ".join(fields[:-size])
        if word in wanted and word not in kept:
            try:
                kept[word] = np.array(fields[-size:], dtype=np.float64)
            except ValueError as error:
                raise ConfigError(f"argument 'file': {file}, line {number}: expected {size} numbers") from error
    if stated is not None and count != stated:
        raise ConfigError(f"argument 'file': {file}: {count} vectors, but line 1 has {stated}; is it complete?")
    return kept


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            yield from opened
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"argument 'file': {file} cannot be read ({one_line(error)}); expected text in UTF-8"
        ) from error
