"""Choice of a part of the training examples, as if fewer had been labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lalm_mer.core.errors import ConfigError

__all__ = ["choose_subset"]


def choose_subset(truths: Sequence[str], speakers: Sequence[str | None], count: int, *, seed: int) -> list[int]:
    """Draw examples with the shares of classes and speakers of all; a smaller draw is a part of a larger one.

    Of the examples in the order of the draw, the first ones are of all classes in turn; then each class has its share,
    rounded up or down, and the next example of a class is of the speaker with the smallest drawn share.

    Args:
        truths: label of each example, N strings
        speakers: speaker of each example, N strings; those without one count as one speaker
        count: number of examples to draw
        seed: seed of the draw

    Returns:
        ``count`` distinct indices, ascending

    Raises:
        ConfigError: if there are too few examples

    Example:
        >>> choose_subset(["sad", "hap", "sad", "hap"], ["s1", "s1", "s2", "s2"], 2, seed=0)
        [0, 3]
    """
    if count > len(truths):
        raise ConfigError(f"argument 'count': {count}, but train has {len(truths)} utterances; lower it")
    order = _order(truths, [speaker or "" for speaker in speakers], np.random.default_rng(seed))
    return sorted(index for index, _ in zip(order, range(count), strict=False))


def _order(truths: Sequence[str], speakers: Sequence[str], generator: np.random.Generator) -> Iterator[int]:
    """All indices in the order of the draw."""
    _, class_of = np.unique(np.asarray(truths, dtype=str), return_inverse=True)
    _, speaker_of = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    of_class, of_speaker = np.bincount(class_of), np.bincount(speaker_of)
    left: dict[tuple[int, int], list[int]] = {}
    for index in generator.permutation(len(class_of)):
        left.setdefault((int(class_of[index]), int(speaker_of[index])), []).append(int(index))
    remaining = np.zeros((len(of_class), len(of_speaker)), dtype=np.int64)
    np.add.at(remaining, (class_of, speaker_of), 1)
    drawn = np.zeros(len(of_speaker))
    tie = generator.permutation(len(of_speaker)) / (len(of_speaker) * len(class_of) * 2)  # decides between equal shares
    first = generator.permutation(len(of_class))
    turns = [(number / of_class[label], place, label) for place, label in enumerate(first)
             for number in range(of_class[label])]  # fmt: skip
    for _, _, label in sorted(turns):
        shares = np.where(remaining[label] > 0, drawn / of_speaker + tie, np.inf)
        speaker = int(shares.argmin())
        remaining[label, speaker] -= 1
        drawn[speaker] += 1
        yield left[int(label), speaker].pop()
