"""Normalisation of features by the statistics of their speaker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import Frames, feature_statistics

__all__ = ["SpeakerNormalisation"]

_Statistics: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class SpeakerNormalisation:
    """Normalises frames by mean and standard deviation of all utterances of their speaker in their split.

    The statistics of dev and test are those of dev and test speakers: no label is used, but all recordings of a speaker
    have to be there. A new recording has no statistics.

    Example:
        >>> normalise = SpeakerNormalisation()
        >>> given = [Input("u1", None, None, "s1"), Input("u2", None, None, "s1")]
        >>> frames = {"u1": np.zeros((1, 1), np.float32), "u2": np.full((1, 1), 4, np.float32)}
        >>> normalise.add(given, lambda each: frames[each.utterance_id], 1)
        >>> normalise(given[1], frames["u2"]).item()
        1.0
    """

    def __init__(self) -> None:
        self._of_utterance: dict[str, _Statistics] = {}

    def add(self, inputs: Iterable[Input], frames: Callable[[Input], Frames], size: int) -> None:
        """Add the statistics of one split.

        Args:
            inputs: all inputs of the split
            frames: features of an input, (F, D)
            size: D

        Raises:
            CorpusError: naming an utterance without a speaker
        """
        of_speaker: defaultdict[str, list[Input]] = defaultdict(list)
        for given in inputs:
            if given.speaker is None:
                raise CorpusError(
                    f"utterance {given.utterance_id}: no speaker, whose statistics normalisation 'speaker' needs; "
                    "set normalisation to train"
                )
            of_speaker[given.speaker].append(given)
        for own in of_speaker.values():
            mean, std = feature_statistics((frames(given) for given in own), size)
            statistics = mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)
            self._of_utterance.update({given.utterance_id: statistics for given in own})

    def __call__(self, given: Input, frames: Frames) -> Frames:
        """The frames of an input, normalised; a constant feature is only centred.

        Raises:
            CorpusError: naming the utterance, if its speaker's statistics are not known
        """
        if given.utterance_id not in self._of_utterance:
            raise CorpusError(
                f"utterance {given.utterance_id}: the features are normalised by statistics of the speaker over a "
                "split of the corpus, and a new recording has none; train with normalisation: train to predict it"
            )
        mean, std = self._of_utterance[given.utterance_id]
        return (frames.astype(np.float32) - mean) / std
