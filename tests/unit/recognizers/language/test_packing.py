"""The rows of a batch, and their attention mask."""

import numpy as np
import pytest
import torch

from lalm_mer.recognizers.language.answers import answer_tree
from lalm_mer.recognizers.language.packing import attention_mask, rows_of


@pytest.mark.parametrize("hidden_size", [32, 256, 4096])
@pytest.mark.parametrize(("count", "bound"), [(8, 1.2), (32, 1.12), (64, 1.12)])
def test_rows_hold_every_utterance_once_and_little_padding(hidden_size, count, bound):
    random = np.random.default_rng(0)
    used = tokens = padded = 0
    for _ in range(20):
        lengths = [int(each) for each in 80 + 28 * random.lognormal(0.88, 0.7, count).clip(0.3, 30)]
        rows = rows_of(lengths, hidden_size)
        assert sorted(index for row in rows for index in row) == list(range(count))
        assert all(row == sorted(row) for row in rows)
        used += len(rows) * max(sum(lengths[index] for index in row) for row in rows)
        padded += count * max(lengths)
        tokens += sum(lengths)
    assert padded / tokens > 1.5
    assert used / tokens < bound


def test_rows_are_wide_where_masked_scores_cost_little():
    lengths = [100, 50, 60, 30, 80, 20, 90]
    assert rows_of(lengths, 8) == [[0], [1, 2], [3, 4], [5, 6]]
    assert rows_of(lengths, 4096) == [[0, 1, 2, 3, 4, 5, 6]]
    assert rows_of([100] * 32, 4096) == [[index] for index in range(32)]  # nothing is padded


def test_the_mask_is_that_of_the_drawing():
    """Utterances of three and two prompt tokens, each with the answers "sad", "unhappy" and "unsure"."""
    tree = answer_tree([[1, 0], [2, 3, 0], [2, 4, 0]])
    until = [7] * 3 + [3 + end for end in tree.ends] + [13] * 2 + [9 + end for end in tree.ends] + [0]
    mask = attention_mask(torch.tensor([until]), torch.float32)
    assert mask.shape == (1, 1, 14, 14)
    first = ["#", "##", "###", "####", "###.#", "###.##", "###.#.#"]
    second = ["#", "##", "###", "##.#", "##.##", "##.#.#"]
    drawn = [*first, *("." * 7 + line for line in second), "#" * 14]
    expected = torch.tensor([[mark == "#" for mark in line.ljust(14, ".")] for line in drawn])
    assert torch.equal(mask[0, 0] == 0, expected)
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.float32).min}
