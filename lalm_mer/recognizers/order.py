"""Batches of utterances: of similar length, so that less is padded, and the same in any number of processes.

Lengths come from a dataset's ``lengths``, which decodes no audio; a dataset without it keeps its order. Results of an
utterance differ by rounding from batch to batch, so processes share complete batches, never the utterances of one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence, Sized
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

__all__ = ["GroupedByLength", "batches_left", "lengths_of", "longest_first"]

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


def batches_left(order: Sequence[ItemT], size: int, done: Container[ItemT]) -> list[list[ItemT]]:
    """Batches of a run in one process, without those that are done completely.

    A batch that is done in part remains as it is, so that its results do not depend on where a run was interrupted.

    Args:
        order: positions of all inputs
        size: inputs per batch; the last batch may have fewer
        done: positions with a result

    Example:
        >>> batches_left([4, 2, 0, 1, 3], 2, done={4, 2, 0})
        [[0, 1], [3]]
    """
    batches = [list(order[start : start + size]) for start in range(0, len(order), size)]
    return [batch for batch in batches if any(position not in done for position in batch)]


class GroupedByLength(Sampler[int]):
    """All indices, shuffled in every epoch and then sorted by length within windows of up to 50 batches.

    It is transformers' order, but drawn from seed and epoch alone: its ``LengthGroupedSampler`` draws from the global
    generator, so that a resumed epoch and other processes would have another order.

    Args:
        lengths: of each item
        batch_size: items that are processed at the same time, over all processes
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
