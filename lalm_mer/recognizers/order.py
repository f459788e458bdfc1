"""Batches of utterances of similar length, of a number of utterances or of tokens, the same in any number of processes.

Lengths come from a dataset's ``lengths``, which decodes no audio; a dataset without it keeps its order. Results of an
utterance differ by rounding from batch to batch, so processes share complete batches, never the utterances of one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from lalm_mer.core.errors import ConfigError

__all__ = [
    "GroupedByLength",
    "TokenBatches",
    "batches_left",
    "divided",
    "lengths_of",
    "longest_first",
    "of_size",
    "token_lengths",
    "within",
]

ItemT = TypeVar("ItemT")


def lengths_of(items: Sized) -> Sequence[float] | None:
    """Approximate length of each item of a map-style dataset; None if it does not know them."""
    lengths = getattr(items, "lengths", None)
    return None if lengths is None else lengths()


def longest_first(items: Sized) -> list[int]:
    """Indices of the items, the longest first, so that the largest batch is the first; equal lengths in their order."""
    lengths = lengths_of(items)
    if lengths is None:
        return list(range(len(items)))
    return [int(index) for index in np.argsort(-np.asarray(lengths), kind="stable")]


def of_size(size: int, order: Sequence[ItemT]) -> list[list[ItemT]]:
    """Batches of ``size`` items that follow each other; the last one may have fewer.

    Example:
        >>> of_size(2, [4, 2, 0, 1, 3])
        [[4, 2], [0, 1], [3]]
    """
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def batches_left(batches: Sequence[list[ItemT]], done: Container[ItemT]) -> list[list[ItemT]]:
    """Batches that are not done completely.

    A batch that is done in part remains as it is, so that its results do not depend on where a run was interrupted.

    Example:
        >>> batches_left([[4, 2], [0, 1], [3]], done={4, 2, 0})
        [[0, 1], [3]]
    """
    return [batch for batch in batches if any(item not in done for item in batch)]


class GroupedByLength(Sampler[int]):
    """All indices, shuffled in every epoch and then sorted by length within windows of up to 50 batches.

    It is transformers' order, but drawn from seed and epoch alone: its ``LengthGroupedSampler`` draws from the global
    generator, so that a resumed epoch and other processes would have another order.

    Args:
        lengths: of each item
        batch_size: items of a training step, over all processes and accumulated batches
        seed: seed of the order
    """

    def __init__(self, lengths: Sequence[float], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; accelerate calls it."""
        self._epoch = epoch


def token_lengths(
    items: Any,  # noqa: ANN401 map-style
    collate: Callable[[Sequence[Any]], Mapping[str, Tensor]],
) -> list[float]:
    """About the number of tokens of each item in a batch, its prompt and answers included.

    The approximate lengths of a dataset are scaled and shifted so that they are right for its shortest and its longest
    item, which alone are accessed.

    Args:
        items: N items
        collate: makes the batches; its ``input_ids`` are counted

    Raises:
        ConfigError: if the items do not know their lengths
    """
    known = [0.0] if len(items) == 1 else lengths_of(items)
    if known is None:
        raise ConfigError("argument 'tokens_per_batch': the examples have no lengths(); give a batch size instead")
    lengths = np.asarray(known, dtype=np.float64)
    if not len(lengths):
        return []
    shortest, longest = int(lengths.argmin()), int(lengths.argmax())
    low, high = (collate([items[index]])["input_ids"].numel() for index in (shortest, longest))
    span = lengths[longest] - lengths[shortest]
    slope = max(0.0, (high - low) / span) if span else 0.0
    return [float(length) for length in low + slope * (lengths - lengths[shortest])]


def within(tokens: int, order: Sequence[int], lengths: Sequence[float]) -> list[list[int]]:
    """Batches of items that follow each other, as many in each as fit into ``tokens``, padding included.

    An item longer than that is a batch of its own.

    Args:
        tokens: largest number of items x tokens of the longest, in a batch
        order: indices of all items
        lengths: tokens of each item

    Example:
        >>> within(10, [0, 1, 2, 3, 4], [12, 4, 4, 3, 5])
        [[0], [1, 2], [3, 4]]
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in order:
        longest = max(longest, lengths[index])
        if batches and (len(batches[-1]) + 1) * longest <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches


def divided(batches: Sequence[list[int]], count: int) -> list[list[int]]:
    """At least ``count`` batches of the same items in the same order, as far as they can be divided, the largest first.

    Example:
        >>> divided([[0], [1, 2, 3], [4, 5]], 5)
        [[0], [1], [2], [3], [4, 5]]
    """
    parts = [[batch] for batch in batches]
    heap = [(-len(batch), number) for number, batch in enumerate(batches)]
    heapq.heapify(heap)
    for _ in range(count - len(batches)):
        size, number = heap[0]
        if size == -1:
            break
        pieces = len(parts[number]) + 1
        batch = batches[number]
        parts[number] = [part.tolist() for part in np.array_split(batch, pieces)]
        heapq.heapreplace(heap, (-math.ceil(len(batch) / pieces), number))
    return [part for of_batch in parts for part in of_batch]


class TokenBatches(Sampler[list[int]]):
    """Batches of at most about ``tokens`` tokens of all examples, drawn anew in every epoch from seed and epoch alone.

    As in ``GroupedByLength``, examples are shuffled and sorted by length within windows; the batches are shuffled, too.
    Every epoch has the same number of batches, so that the number of steps is known: that of the epoch with most,
    rounded up to complete training steps. Others get as many by dividing some of theirs. Each example is used once an
    epoch. The batches of a step do not depend on how they are divided between processes and accumulation.

    Args:
        lengths: tokens of each example
        tokens: largest number of examples x tokens of the longest, in a batch
        seed: seed of the order
        step: batches of a training step, over all processes and accumulated batches
        epochs: number of epochs
        max_steps: number of training steps, which determines that of the epochs; None for that of ``epochs``
    """

    def __init__(
        self,
        lengths: Sequence[float],
        tokens: int,
        seed: int,
        *,
        step: int = 1,
        epochs: int = 1,
        max_steps: int | None = None,
    ) -> None:
        self._lengths = lengths
        self._tokens = tokens
        self._seed = seed
        self._step = step
        self._epoch = 0
        in_order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        self._window = max(1, round(len(lengths) / max(1, len(within(tokens, in_order, lengths))))) * step
        most = len(self._filled(0))
        if max_steps is not None:
            epochs = math.ceil(max_steps * step / max(1, most))
        for epoch in range(1, epochs):
            most = max(most, len(self._filled(epoch)))
        self._count = min(math.ceil(most / step) * step, len(lengths))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        batches = divided(self._filled(self._epoch), self._count)
        order = torch.randperm(len(batches), generator=self._generator(self._epoch)).tolist()
        return iter([batches[number] for number in order])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        self._epoch = epoch

    def _filled(self, epoch: int) -> list[list[int]]:
        order = get_length_grouped_indices(self._lengths, self._window, generator=self._generator(epoch))
        return within(self._tokens, order, self._lengths)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed + epoch)
