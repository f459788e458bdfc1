"""Features of audio and transcripts, computed once, stored on disk and looked up by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.processes import in_processes
from lalm_mer.core.progress import progress
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_shards import FeatureShards

__all__ = ["Columns", "FeatureExtractor", "FeatureStore", "Frames", "feature_statistics", "text_hash"]

Frames: TypeAlias = npt.NDArray[np.floating[Any]]
"""Features of one utterance, (F, D) as float32 or float16: F frames or tokens."""
Columns: TypeAlias = npt.NDArray[np.intp]
"""Places of features in a frame"""

_FORMAT = 3
"""Version of the files"""


class FeatureExtractor(Protocol):
    """Computes a sequence of feature vectors of an utterance; must be picklable, for worker processes."""

    @property
    def size(self) -> int:
        """D, the number of features per frame."""

    def settings(self) -> dict[str, Any]:
        """Plain data that determines the values: ``name``, versions, parameters; the key of the store."""

    def source_hash(self, given: Input) -> str | None:
        """Hash of what is used of an input, its stored audio or transcript; None if its features are not stored."""

    def extract(self, given: Input) -> Frames:
        """Compute the features, (F, D), with F at least 1.

        Raises:
            LalmMerError: naming the utterance, if its features cannot be computed
        """


class FeatureStore:
    """Features on disk: a folder for each extractor with its version and settings, a row for each audio or transcript.

    Nothing else is in the key, so all corpora, folds, seeds and modalities share the features. Each call of ``add``
    writes those that were missing into memory-mapped shards. The features of an input without a hash, such as one with
    added noise, are computed whenever they are read.

    Args:
        cache_dir: folder of all stores
        extractor: extractor of missing features
        columns: places in a frame of the features that are read, (C,); None for all. All are stored

    Example:
        >>> store = FeatureStore(Path("outputs/cache"), extractor)  # doctest: +SKIP
        >>> store.add(inputs, processes=2)  # doctest: +SKIP
        1440
        >>> store.frames(inputs[0]).shape  # doctest: +SKIP
        (327, 36)
    """

    def __init__(self, cache_dir: Path, extractor: FeatureExtractor, columns: Columns | None = None) -> None:
        self.extractor = extractor
        self._columns = columns
        key = {"extractor": extractor.settings(), "format": _FORMAT}
        self.folder = cache_dir / f"{extractor.settings()['name']}-{hash_json(key)[:16]}"
        self._shards = FeatureShards(self.folder, key)

    def __len__(self) -> int:
        return len(self._shards.places)

    def __contains__(self, source_hash: str) -> bool:
        return source_hash in self._shards.places

    def missing(self, inputs: Iterable[Input]) -> list[int]:
        """Positions of the inputs to ``add``, each audio or transcript once; they need no waveforms here."""
        found: dict[str, int] = {}
        for position, given in enumerate(inputs):
            source_hash = self.extractor.source_hash(given)
            if source_hash is not None and source_hash not in self:
                found.setdefault(source_hash, position)
        return list(found.values())

    def add(self, inputs: Iterable[Input], processes: int = 1) -> int:
        """Compute and store the features of the inputs that are not stored yet; returns their number.

        Inputs are read one at a time. With several processes, a script needs ``if __name__ == "__main__":``.

        Raises:
            ConfigError: if ``processes`` is less than 1
            LalmMerError: naming the utterance whose features cannot be computed; the complete shards before it are kept
        """
        if processes < 1:
            raise ConfigError(f"processes={processes}: expected 1 or more")
        name = str(self.extractor.settings()["name"])
        total = len(inputs) if isinstance(inputs, Sized) else None
        with progress(inputs, desc=f"{name} features", unit="utterances", total=total) as read:
            return self._add_missing(self._not_stored(read), processes)

    def _not_stored(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """Inputs whose features are not stored, each audio or transcript once."""
        seen: set[str] = set()
        for given in inputs:
            source_hash = self.extractor.source_hash(given)
            if source_hash is not None and source_hash not in self and source_hash not in seen:
                seen.add(source_hash)
                yield given

    def _add_missing(self, missing: Iterator[Input], processes: int) -> int:
        first = next(missing, None)
        if first is None:
            return 0
        with self._shards.only_writer():
            left = self._not_stored(chain([first], missing))  # another process may have stored some meanwhile
            rows = in_processes(partial(_row, self.extractor), left, processes)
            return self._shards.write([row] for row in rows)

    def frames(self, given: Input) -> Frames:
        """Features of one input, (F, C), from the store, or computed if they are not stored.

        Raises:
            CorpusError: if they are not stored, and the input has no data to compute them from
        """
        source_hash = self.extractor.source_hash(given)
        if source_hash is None or source_hash not in self:
            return self._chosen(self.extractor.extract(given))
        return self[source_hash]

    def __getitem__(self, source_hash: str) -> Frames:
        """The features of the audio or transcript with a hash, (F, C).

        Raises:
            CorpusError: if they are not stored, or damaged
        """
        if source_hash not in self:
            raise CorpusError(f"the features of {source_hash} are not in {self.folder}; add them to the store")
        return self._chosen(self._shards.read(self._shards.places[source_hash][None]))

    def _chosen(self, frames: Frames) -> Frames:
        return frames if self._columns is None else frames[:, self._columns]


def _row(extractor: FeatureExtractor, given: Input) -> tuple[str, None, Frames]:
    return str(extractor.source_hash(given)), None, extractor.extract(given)


def text_hash(text: str) -> str:
    """Hash of a transcript, the ``source_hash`` of its features."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def feature_statistics(
    sequences: Iterable[Frames], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each feature over all frames, (D,) each, with one utterance in memory at a time.

    Args:
        sequences: features of each utterance, (F, D)
        size: D

    Example:
        >>> mean, std = feature_statistics([np.array([[0.0]], np.float32), np.array([[2.0], [4.0]], np.float32)], 1)
        >>> mean.item(), round(std.item(), 3)
        (2.0, 1.633)
    """
    count, total, squares = 0, np.zeros(size), np.zeros(size)
    shift: Sequence[float] | None = None
    for frames in sequences:
        values = frames.astype(np.float64)
        if shift is None:
            shift = values.mean(axis=0)  # near the mean, so that the squares do not cancel
        centred = values - shift
        count += len(values)
        total += centred.sum(axis=0)
        squares += np.square(centred).sum(axis=0)
    if shift is None:
        raise CorpusError("no utterances for feature statistics; is the train split empty?")
    mean = total / count
    return mean + shift, np.sqrt(np.maximum(squares / count - np.square(mean), 0))
