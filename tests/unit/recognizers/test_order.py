"""Batches of similar length."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from lalm_mer.recognizers.order import (
    GroupedByLength,
    TokenBatches,
    batches_left,
    divided,
    longest_first,
    of_size,
    token_lengths,
    within,
)


class Lengths:
    """Items that know their lengths."""

    def __init__(self, lengths):
        self._lengths = lengths

    def __len__(self):
        return len(self._lengths)

    def __getitem__(self, index):
        return self._lengths[index]

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


def test_batches_of_tokens_are_full_and_shuffled_and_have_every_example_once(lengths):
    sampler = TokenBatches(lengths, 4096, 0, step=8, epochs=3)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        epochs.append(batches)
        assert sorted(index for batch in batches for index in batch) == list(range(8000))
        assert len(batches) == len(sampler)
        assert len(batches) % 8 == 0  # complete steps
        assert all(len(batch) * max(lengths[index] for index in batch) <= 4096 for batch in batches)
        assert padded(lengths, batches) < 1.05
    assert len({str(batches) for batches in epochs}) == 3
    assert len(sampler) < 1.1 * sum(lengths) / 4096 + 8
    again = TokenBatches(lengths, 4096, 0, step=8, epochs=3)
    again.set_epoch(2)
    assert list(again) == epochs[2]
    first = [max(lengths[index] for index in batch) for batch in epochs[0]]
    assert first != sorted(first, reverse=True)  # a step has utterances of all lengths


def test_the_number_of_steps_is_that_of_the_epoch_with_most_batches(lengths):
    counts = [len(TokenBatches(lengths[:400], 600, 0, epochs=epochs)) for epochs in (1, 20)]
    assert counts[0] < counts[1]
    for epoch in range(20):
        sampler = TokenBatches(lengths[:400], 600, 0, epochs=20)
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == counts[1]
    steps = 20 * counts[1]
    assert len(TokenBatches(lengths[:400], 600, 0, max_steps=steps)) == counts[1]


@pytest.mark.parametrize("step", [1, 2, 4])
def test_processes_share_batches_of_tokens_step_by_step(lengths, step):
    one = list(TokenBatches(lengths, 4096, 0, step=4))
    sampler = TokenBatches(lengths, 4096, 0, step=4)
    processes = 4 // step  # with as many accumulated batches as keep the batches of a step
    shards = [list(BatchSamplerShard(sampler, processes, rank)) for rank in range(processes)]
    for start in range(0, len(one), 4):
        part = [shard[start // processes : (start + 4) // processes] for shard in shards]
        assert sorted(batch for of_rank in part for batch in of_rank) == sorted(one[start : start + 4])


def test_a_long_example_is_a_batch_of_its_own_and_few_examples_are_not_divided_further():
    assert within(10, [0, 1, 2, 3], [12, 4, 4, 3]) == [[0], [1, 2], [3]]
    assert divided([[0], [1, 2, 3], [4, 5]], 4) == [[0], [1, 2], [3], [4, 5]]
    assert divided([[0], [1]], 5) == [[0], [1]]
    sampler = TokenBatches([9.0, 9.0, 9.0], 10, 0, step=2)
    assert sorted(sampler) == [[0], [1], [2]]
    assert [len(list(BatchSamplerShard(sampler, 2, rank))) for rank in range(2)] == [2, 2]


def test_lengths_are_scaled_to_the_tokens_of_batches_of_which_only_two_are_made():
    items = Lengths([100, 300, 200, 250])
    made = []

    def collate(batch):
        made.append(batch)
        return {"input_ids": torch.zeros(1, 40 + batch[0] // 2)}

    assert token_lengths(items, collate) == [90, 190, 140, 165]
    assert made == [[100], [300]]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("done", [set(), {0, 5, 6}, set(range(10))])
def test_processes_share_the_batches_that_one_process_would_run(processes, done):
    order = [3, 0, 5, 1, 2, 9, 4, 6, 8, 7]
    whole = [[3, 0, 5], [1, 2, 9], [4, 6, 8], [7]]
    left = [batch for batch in whole if not done.issuperset(batch)]
    shares = [batches_left(of_size(3, order), done)[process::processes] for process in range(processes)]
    assert sorted(batch for share in shares for batch in share) == sorted(left)
