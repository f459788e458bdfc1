"""Choice of the training examples for few-shot prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lalm_mer.core.errors import ConfigError

__all__ = ["choose_shots"]


def choose_shots(truths: Sequence[str], labels: Sequence[str], count: int, *, seed: int) -> list[int]:
    """Draw examples of all labels in turn, so that counts differ by one at most while examples last, in random order.

    Args:
        truths: label of each training example, N strings
        labels: the K labels
        count: number of examples to draw
        seed: seed of the draw

    Returns:
        ``count`` distinct indices into ``truths``

    Raises:
        ConfigError: if there are too few examples

    Example:
        >>> sorted(choose_shots(["sad", "hap"], ["hap", "sad"], 2, seed=0))
        [0, 1]
    """
    if count > len(truths):
        raise ConfigError(f"argument 'count': {count}, but train has {len(truths)} utterances; lower it")
    generator = np.random.default_rng(seed)
    found = ([index for index, truth in enumerate(truths) if truth == label] for label in labels)
    pools = [list(generator.permutation(indices)) for indices in found]
    order = list(generator.permutation(len(labels)))
    rounds = max((len(pool) for pool in pools), default=0)
    drawn = [int(pools[label][turn]) for turn in range(rounds) for label in order if turn < len(pools[label])]
    return [drawn[index] for index in generator.permutation(count)]
