"""Conditions of a test set: inputs with the audio of other utterances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO_SWAPPED
from lalm_mer.core.schema import Input
from lalm_mer.examples.dataset import ExampleDataset, InputDataset

__all__ = ["CHANGED_INPUTS", "SwappedAudio", "derangement"]

_AUDIO = ("waveform", "encoded", "audio_sha256", "without_audio", "descriptors")


def derangement(count: int, seed: int) -> list[int]:
    """Draw a random permutation without fixed points; all such permutations are equally likely.

    Raises:
        ConfigError: if ``count`` is less than 2

    Example:
        >>> derangement(2, seed=0), sorted(derangement(5, seed=0))
        ([1, 0], [0, 1, 2, 3, 4])
    """
    if count < 2:
        raise ConfigError(f"argument 'count': {count}; swapping audio needs two or more utterances")
    generator = np.random.default_rng(seed)
    while True:  # about one permutation in e (2.718) is a derangement, for any count
        order = generator.permutation(count)
        if (order != np.arange(count)).all():
            return [int(place) for place in order]


class SwappedAudio:
    """Inputs with their own speaker and transcript, but audio and descriptors of another example.

    The audio is assigned by the seed and not by labels, so a recognizer that uses only audio falls to chance, not below
    it: with N utterances of K balanced labels, a perfect one has an expected UAR of (N / K - 1) / (N - 1).

    Args:
        examples: N examples with audio
        seed: seed of the derangement

    Raises:
        ConfigError: if the examples have no audio, or are fewer than two
    """

    def __init__(self, examples: ExampleDataset, seed: int) -> None:
        if not examples.uses_audio:
            raise ConfigError("argument 'examples': no audio to swap; choose a prompt with an audio slot")
        self._with_audio = InputDataset(examples)
        self._without_audio = InputDataset(examples.without_waveforms())
        self.sources = derangement(len(examples), seed)
        self._examples = examples

    def __len__(self) -> int:
        return len(self._with_audio)

    def __getitem__(self, index: int) -> Input:
        other = self._with_audio[self.sources[index]]
        audio = {name: getattr(other, name) for name in _AUDIO}
        return replace(self._without_audio[index], **audio)

    def __iter__(self) -> Iterator[Input]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> list[float]:
        """About the number of tokens of each input, as ``ExampleDataset.lengths``."""
        audio, text = self._examples.audio_lengths(), self._examples.text_lengths()
        return [audio[source] + own for source, own in zip(self.sources, text, strict=True)]


CHANGED_INPUTS = {AUDIO_SWAPPED: SwappedAudio}
"""Condition -> the inputs that it makes of examples and a seed."""
