"""Features of utterances, computed once per corpus, stored on disk and looked up by utterance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.processes import in_processes
from lalm_mer.core.progress import progress
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_shards import FeatureShards, Place

__all__ = ["FeatureExtractor", "FeatureStore", "Frames", "feature_statistics", "samples_hash"]

Frames = npt.NDArray[np.float32]
"""Features of one utterance, (F, D): F frames or tokens."""

_FORMAT = 2
"""Version of the files"""


class FeatureExtractor(Protocol):
    """Computes a sequence of feature vectors of an utterance; must be picklable, for worker processes."""

    @property
    def size(self) -> int:
        """D, the number of features per frame."""

    def settings(self) -> dict[str, Any]:
        """Plain data that determines the values: ``name``, versions, parameters; part of the key of the store."""

    def source_hash(self, given: Input) -> str | None:
        """Hash of the data used (samples or transcript); None if the input does not have it."""

    def extract(self, given: Input) -> Frames:
        """Compute the features, (F, D), with F at least 1.

        Raises:
            LalmMerError: naming the utterance, if its features cannot be computed
        """


class FeatureStore:
    """Features on disk, with a key of corpus, extractor, its version and settings.

    Each call of ``add`` writes the utterances that were missing into memory-mapped shards. Features are looked up by
    utterance id and hash of the input, so for a modified input (added noise, swapped audio) they are computed and not
    taken from the store.

    Args:
        cache_dir: folder of all stores
        corpus_hash: ``root_hash`` of the prepared corpus
        extractor: extractor of missing features

    Example:
        >>> store = FeatureStore(Path("outputs/cache/acoustic"), root_hash, extractor)  # doctest: +SKIP
        >>> store.add(inputs, processes=2)  # doctest: +SKIP
        1440
        >>> store.frames(inputs[0]).shape  # doctest: +SKIP
        (327, 36)
    """

    def __init__(self, cache_dir: Path, corpus_hash: str, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        key = {"corpus": corpus_hash, "extractor": extractor.settings(), "format": _FORMAT}
        self.folder = cache_dir / f"{extractor.settings()['name']}-{hash_json(key)[:16]}"
        self._shards = FeatureShards(self.folder, key)

    def __len__(self) -> int:
        return len(self._shards.places)

    def missing(self, utterance_ids: Iterable[str]) -> list[str]:
        """Those of ``utterance_ids`` that are not stored."""
        return [utterance_id for utterance_id in utterance_ids if utterance_id not in self._shards.places]

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
            return self._add_missing((given for given in read if self._stored(given) is None), processes)

    def _add_missing(self, missing: Iterator[Input], processes: int) -> int:
        with self._shards.only_writer():
            return self._shards.write([row] for row in in_processes(partial(_row, self.extractor), missing, processes))

    def frames(self, given: Input) -> Frames:
        """Features of one input, (F, D), from the store, or computed if the input differs from the stored one.

        An input without waveform (or transcript) is looked up by id only, which avoids decoding it.

        Raises:
            CorpusError: if it is not stored and has no data to compute features from
        """
        place = self._stored(given)
        if place is not None:
            return self._read(place)
        if self.extractor.source_hash(given) is None:
            raise CorpusError(
                f"utterance {given.utterance_id}: its features are not in {self.folder}, and the input has no data to "
                "compute them from; add it to the store, or load it with audio and transcript"
            )
        return self.extractor.extract(given)

    def stored(self, utterance_id: str) -> Frames:
        """The newest features stored under an id, (F, D).

        Raises:
            CorpusError: if there are none
        """
        places = self._shards.places.get(utterance_id)
        if not places:
            raise CorpusError(f"utterance {utterance_id}: its features are not in {self.folder}; add it to the store")
        return self._read(next(reversed(places.values())))

    def _read(self, place: Place) -> Frames:
        return cast(Frames, self._shards.read(place))

    def _stored(self, given: Input) -> Place | None:
        places = self._shards.places.get(given.utterance_id, {})
        found = self.extractor.source_hash(given)
        if found is None:  # by id only: the newest features
            return next(reversed(places.values()), None)
        return places.get(found)


def _row(extractor: FeatureExtractor, given: Input) -> tuple[str, str | None, Frames]:
    return given.utterance_id, extractor.source_hash(given), extractor.extract(given)


def samples_hash(given: Input) -> str | None:
    """Hash of the samples, the ``source_hash`` of audio features; None if the input has no waveform."""
    if given.waveform is None:
        return None
    return hashlib.blake2b(np.ascontiguousarray(given.waveform.samples).data, digest_size=16).hexdigest()


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
