"""Changed inputs of a test set: what a recognizer scores when its audio is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO_SWAPPED
from lalm_mer.core.schema import Input
from lalm_mer.examples.dataset import ExampleDataset, InputDataset

__all__ = ["CHANGED_INPUTS", "SwappedAudio", "derangement"]


def derangement(count: int, seed: int) -> list[int]:
    """A random order in which nothing keeps its place; every such order is as likely as any other.

    Args:
        count: n of at least 2
        seed: of the draw

    Raises:
        ConfigError: if there are fewer than two

    Example:
        >>> derangement(2, seed=0), sorted(derangement(5, seed=0))
        ([1, 0], [0, 1, 2, 3, 4])
    """
    if count < 2:
        raise ConfigError(f"argument 'count': {count}; audio is swapped among two utterances or more")
    generator = np.random.default_rng(seed)
    while True:  # one order in e is a derangement, however many there are
        order = generator.permutation(count)
        if (order != np.arange(count)).all():
            return [int(place) for place in order]


class SwappedAudio:
    """Inputs of examples that keep speaker and transcript, with the audio and the descriptors of another of them.

    Whose audio it is follows from the seed alone, not from labels, so that a recognizer that only hears falls to chance
    and not below: with N utterances of K labels, a perfect one has an expected UAR of (N / K - 1) / (N - 1).

    Args:
        examples: N utterances that are heard
        seed: of the derangement

    Raises:
        ConfigError: if the examples are not heard, or fewer than two
    """

    def __init__(self, examples: ExampleDataset, seed: int) -> None:
        if not examples.uses_audio:
            raise ConfigError(
                "argument 'examples': without audio, for the prompt has no audio slot, so there is none to swap; "
                "choose a prompt that uses audio"
            )
        self._with_audio = InputDataset(examples)
        self._without_audio = InputDataset(examples.without_waveforms())
        self.sources = derangement(len(examples), seed)

    def __len__(self) -> int:
        return len(self._with_audio)

    def __getitem__(self, index: int) -> Input:
        other = self._with_audio[self.sources[index]]
        return replace(
            self._without_audio[index],
            waveform=other.waveform,
            without_audio=other.without_audio,
            descriptors=other.descriptors,
        )

    def __iter__(self) -> Iterator[Input]:
        return (self[index] for index in range(len(self)))


CHANGED_INPUTS = {AUDIO_SWAPPED: SwappedAudio}
"""Condition -> the inputs that it makes of examples and a seed."""
