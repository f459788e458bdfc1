"""Which training examples stand answered in a prompt (k-shot)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lalm_mer.core.errors import ConfigError

__all__ = ["choose_shots"]


def choose_shots(truths: Sequence[str], labels: Sequence[str], count: int, *, seed: int) -> list[int]:
    """Draw examples of all labels in turn, so that no label has two more than another, in a drawn order.

    Args:
        truths: label of each training example, N strings
        labels: the K labels
        count: how many are wanted
        seed: of the draw

    Returns:
        ``count`` indices into ``truths``, none twice

    Raises:
        ConfigError: if there are too few examples

    Example:
        >>> sorted(choose_shots(["sad", "hap"], ["hap", "sad"], 2, seed=0))
        [0, 1]
    """
    if count > len(truths):
        raise ConfigError(f"argument 'count': {count}, but train has {len(truths)} utterances; lower it")
    draw = np.random.default_rng(seed)
    pools = [
        list(draw.permutation([index for index, truth in enumerate(truths) if truth == label])) for label in labels
    ]
    order = list(draw.permutation(len(labels)))
    rounds = max((len(pool) for pool in pools), default=0)
    dealt = [int(pools[label][turn]) for turn in range(rounds) for label in order if turn < len(pools[label])]
    return [dealt[index] for index in draw.permutation(count)]
