"""Batches of similar length."""

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from lalm_mer.recognizers.order import GroupedByLength, batches_left, longest_first


class Lengths:
    """Items that know their lengths."""

    def __init__(self, lengths):
        self._lengths = lengths

    def __len__(self):
        return len(self._lengths)

    def lengths(self):
        return self._lengths


def padded(lengths, batches):
    """Positions of all batches, as a multiple of those that are not padding."""
    return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches) / sum(lengths)


@pytest.fixture(scope="module")
def lengths():
    """Tokens of 8000 utterances of about MELD's lengths: 3.1 s in the mean, and a prompt of 80 tokens."""
    seconds = np.random.default_rng(0).lognormal(0.88, 0.7, 8000).clip(0.3, 30)
    return list(80 + 28 * seconds)


@pytest.mark.parametrize(("size", "unsorted"), [(8, 1.5), (32, 1.9)])
def test_little_is_padded(lengths, size, unsorted):
    at_random = np.random.default_rng(1).permutation(8000)
    assert padded(lengths, np.array_split(at_random, range(size, 8000, size))) > unsorted
    assert padded(lengths, BatchSampler(longest_first(Lengths(lengths)), size, drop_last=False)) < 1.05
    assert padded(lengths, BatchSampler(GroupedByLength(lengths, size, 0), size, drop_last=False)) < 1.07


def test_the_longest_are_first_and_equal_lengths_in_their_order():
    assert longest_first(Lengths([1, 3, 2, 3, 1])) == [1, 3, 2, 0, 4]
    assert longest_first([5, 6, 7]) == [0, 1, 2]


def test_the_order_depends_on_seed_and_epoch_alone(lengths):
    orders = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0), (1, 5)):
        sampler = GroupedByLength(lengths, 8, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(8000)) for order in orders)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3  # seed 0 in epoch 1 is seed 1 in epoch 0


def test_two_processes_share_the_epoch(lengths):
    of_rank = [
        list(BatchSamplerShard(BatchSampler(GroupedByLength(lengths, 16, 0), 8, drop_last=False), 2, rank))
        for rank in range(2)
    ]
    assert sorted(index for batches in of_rank for batch in batches for index in batch) == list(range(8000))
    assert len(of_rank[0]) == len(of_rank[1])
    assert all(padded(lengths, batches) < 1.6 for batches in of_rank)
    longest = [[max(lengths[index] for index in batch) for batch in batches] for batches in of_rank]
    assert np.mean(np.abs(np.subtract(*longest)) / np.mean(longest, axis=0)) < 0.05  # no process waits for the other


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("done", [set(), {0, 5, 6}, set(range(10))])
def test_processes_share_the_batches_that_one_process_would_run(processes, done):
    order = [3, 0, 5, 1, 2, 9, 4, 6, 8, 7]
    whole = [[3, 0, 5], [1, 2, 9], [4, 6, 8], [7]]
    left = [batch for batch in whole if not done.issuperset(batch)]
    shares = [batches_left(order, 3, done)[process::processes] for process in range(processes)]
    assert sorted(batch for share in shares for batch in share) == sorted(left)
