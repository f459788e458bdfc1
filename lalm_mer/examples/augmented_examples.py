"""Training examples that sound different in every epoch, whichever process asks for them."""

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

__all__ = ["AugmentedExamples", "times_before"]


class AugmentedExamples:
    """Training examples whose waveforms change anew in every epoch.

    What an example sounds like depends on (seed, epoch, utterance id, which of its repeats it is) alone: on no worker,
    order or earlier epoch, so that a run which goes on from a checkpoint hears what it would have heard. The epoch
    lives in memory that worker processes share, also those that stay alive between epochs, whatever their start
    method; set it before the epoch's first example is asked for. Examples without a waveform pass untouched.

    Args:
        examples: of the training side alone
        augmentation: what is done
        seed: of the run
        refuses: why a recognizer cannot take a duration in seconds, or None: utterances that it could not take at
            either end of the range of speeds keep their own speed; None where it takes all

    Attributes:
        augmentation: what is done to them
        keep_their_speed: ids of the utterances that it could not take slower or faster
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
        self._epoch = RawValue("q", 0)  # without a lock: those belong to a start method
        self._ids = list(examples.utterances()["utterance_id"])
        self._repeats = times_before(self._ids)
        self.keep_their_speed = self._keep_their_speed(examples.durations_s())

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        example = self._examples[index]
        given = example.input
        if given.waveform is None:
            return example
        key = f"seed {self._seed}, epoch {self.epoch}, repeat {self._repeats[index]}, utterance {given.utterance_id}"
        free = given.utterance_id not in self.keep_their_speed
        augmented = self.augmentation(given.waveform, key, changes_speed=free)
        return replace(example, input=replace(given, waveform=augmented))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def epoch(self) -> int:
        """From 0."""
        return int(self._epoch.value)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew, in this process and in every worker process that has these examples."""
        self._epoch.value = epoch

    def durations_s(self) -> list[float | None]:
        """Duration of each utterance before augmentation, in seconds; None where it has no audio."""
        return self._examples.durations_s()

    def truths(self) -> list[str]:
        """The task's label of each example, in order."""
        return self._examples.truths()

    def utterances(self) -> pd.DataFrame:
        """The table of the examples, as ``ExampleDataset.utterances`` makes it."""
        return self._examples.utterances()

    def _keep_their_speed(self, durations: Sequence[float | None]) -> frozenset[str]:
        speed = self.augmentation.settings.speed
        if self._refuses is None or not speed.p:
            return frozenset()
        slowest, fastest = speed.min_rate / 1.001, speed.max_rate * 1.001  # rates are rounded to whole Hz
        return frozenset(
            name
            for name, duration_s in zip(self._ids, durations, strict=True)
            if duration_s and (self._refuses(duration_s / slowest) or self._refuses(duration_s / fastest))
        )


def times_before(values: Sequence[Hashable]) -> list[int]:
    """How often each value stood before in the list.

    Example:
        >>> times_before(["a", "b", "a"])
        [0, 0, 1]
    """
    numbers: defaultdict[Hashable, Iterator[int]] = defaultdict(itertools.count)
    return [next(numbers[value]) for value in values]
