"""Training examples that are augmented differently in every epoch, and alike in all processes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import RawValue

import pandas as pd

from lalm_mer.core.schema import Example
from lalm_mer.examples.augmentation import Augmentation
from lalm_mer.examples.dataset import ExampleDataset

__all__ = ["AugmentedExamples", "earlier_occurrences"]


class AugmentedExamples:
    """Training examples whose waveforms are augmented differently in every epoch.

    The samples depend only on seed, epoch, utterance id and the number of the repeat, so a run resumed from a
    checkpoint gets the same samples. The epoch is in memory shared with all worker processes; set it before the first
    example of the epoch is accessed. Examples without a waveform are not changed.

    Args:
        examples: examples of the training split
        augmentation: the augmentation
        seed: seed of the run
        refuses: returns why a recognizer cannot use a duration in seconds, or None if it can; utterances refused at
            either end of the range of speeds keep their speed. None if every duration can be used

    Attributes:
        unchanged_speed: ids of the utterances that keep their speed
    """

    def __init__(
        self,
        examples: ExampleDataset,
        augmentation: Augmentation,
        *,
        seed: int,
        refuses: Callable[[float], str | None] | None = None,
    ) -> None:
        self._examples = examples
        self.augmentation = augmentation
        self._seed = seed
        self._refuses = refuses
        self._epoch = RawValue("q", 0)  # without a lock, since a lock depends on the start method
        self._ids = list(examples.utterances()["utterance_id"])
        self._repeats = earlier_occurrences(self._ids)
        self.unchanged_speed = self._find_unchanged_speed(examples.durations_s())

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        example = self._examples[index]
        given = example.input
        if given.waveform is None:
            return example
        key = f"seed {self._seed}, epoch {self.epoch}, repeat {self._repeats[index]}, utterance {given.utterance_id}"
        changes_speed = given.utterance_id not in self.unchanged_speed
        augmented = self.augmentation(given.waveform, key, changes_speed=changes_speed)
        audio_sha256 = given.audio_sha256 if augmented is given.waveform else None
        return replace(example, input=replace(given, waveform=augmented, audio_sha256=audio_sha256))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return int(self._epoch.value)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch in this process and in all worker processes that have these examples."""
        self._epoch.value = epoch

    def durations_s(self) -> list[float | None]:
        """Duration of each utterance before augmentation, in seconds; None if it has no audio."""
        return self._examples.durations_s()

    def lengths(self) -> list[float]:
        """Lengths of ``ExampleDataset.lengths``, before augmentation."""
        return self._examples.lengths()

    def truths(self) -> list[str]:
        """Task label of each example, in order."""
        return self._examples.truths()

    def utterances(self) -> pd.DataFrame:
        """The table of ``ExampleDataset.utterances``."""
        return self._examples.utterances()

    def _find_unchanged_speed(self, durations: Sequence[float | None]) -> frozenset[str]:
        speed = self.augmentation.settings.speed
        if self._refuses is None or not speed.p:
            return frozenset()
        slowest, fastest = speed.min_rate / 1.001, speed.max_rate * 1.001  # rates are rounded to whole Hz
        return frozenset(
            name
            for name, duration_s in zip(self._ids, durations, strict=True)
            if duration_s and (self._refuses(duration_s / slowest) or self._refuses(duration_s / fastest))
        )


def earlier_occurrences(values: Sequence[Hashable]) -> list[int]:
    """Number of earlier occurrences of each value in the list.

    Example:
        >>> earlier_occurrences(["a", "b", "a"])
        [0, 0, 1]
    """
    numbers: defaultdict[Hashable, Iterator[int]] = defaultdict(itertools.count)
    return [next(numbers[value]) for value in values]
