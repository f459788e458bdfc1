"""Balancing of training examples: sampling of classes and groups to equal frequency, and class weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.run_record import Counts

__all__ = ["DIRECTIONS", "SAMPLINGS", "Balanced", "balance", "class_weights", "count"]

SAMPLINGS = ("none", "class", "group", "class_and_group")
DIRECTIONS = ("over", "under")

_Rows: TypeAlias = npt.NDArray[np.int64]
_Names: TypeAlias = npt.NDArray[np.str_]
_Groups: TypeAlias = Sequence[str | None] | None


@dataclass(frozen=True)
class Balanced:
    """The sampled training examples.

    Args:
        indices: positions in the given list, ascending; a repeated example occurs more than once
        before: counts of the given list
        after: counts of ``indices``
    """

    indices: list[int]
    before: Counts
    after: Counts


def balance(
    truths: Sequence[str],
    groups: _Groups = None,
    utterance_ids: Sequence[str] | None = None,
    *,
    sampling: str = "none",
    direction: str = "over",
    max_per_class: int | None = None,
    max_per_group: int | None = None,
    seed: int = 0,
) -> Balanced:
    """Sample the training examples; only for the training split, so that dev and test keep their frequencies.

    To sample m examples from n, each is taken floor(m / n) times and the rest is drawn without replacement, so ``over``
    drops no example and ``under`` repeats none. Only the caps, which are applied first, drop examples in both
    directions.

    ``class``: each class gets the size of the largest (``over``) or the smallest (``under``). ``group``: the same for
    groups, regardless of class. ``class_and_group``: each class as in ``class``, divided among its groups as evenly as
    its examples allow; with ``over`` the largest class gains no example, so its groups do not change.

    Args:
        truths: label of each example, N strings
        groups: group of each example (speaker, gender, session ...), N; None if there are none
        utterance_ids: names of the examples in errors, N; None for their positions
        sampling: ``none``, ``class``, ``group`` or ``class_and_group``
        direction: ``over`` repeats examples of small classes, ``under`` drops examples of large ones
        max_per_class: largest number of distinct examples per class, drawn at random first; None for no cap
        max_per_group: largest number of distinct examples per group over all classes, drawn second; None for no cap
        seed: seed of the draws

    Raises:
        ConfigError: if a name or number is invalid, there is no example, or an example lacks a required group

    Example:
        >>> chosen = balance(["ang", "ang", "ang", "sad"], sampling="class")
        >>> chosen.indices, chosen.before.classes, chosen.after.classes
        ([0, 1, 2, 3, 3, 3], {'ang': 3, 'sad': 1}, {'ang': 3, 'sad': 3})
    """
    _check_choices(sampling, direction, {"class": max_per_class, "group": max_per_group})
    _check_sizes(truths, groups, utterance_ids)
    if "group" in sampling or max_per_group is not None:
        _require_groups(groups, utterance_ids)
    labels = np.asarray(truths, dtype=str)
    names = None if groups is None else np.asarray(["" if group is None else group for group in groups], dtype=str)
    random = np.random.default_rng(seed)
    rows: _Rows = np.arange(len(truths))
    if max_per_class is not None:
        rows = _capped(rows, labels, max_per_class, random)
    if max_per_group is not None and names is not None:
        rows = _capped(rows, names, max_per_group, random)
    if sampling == "class_and_group" and names is not None:
        rows = _equalise_both(rows, labels, names, direction, random)
    elif sampling != "none":
        rows = _equalise(rows, labels if names is None or sampling == "class" else names, direction, random)
    indices = [int(row) for row in np.sort(rows)]
    after = count([truths[row] for row in indices], None if groups is None else [groups[row] for row in indices])
    return Balanced(indices, count(truths, groups), after)


def count(truths: Sequence[str], groups: _Groups = None) -> Counts:
    """Count examples by class, and by class and group.

    Example:
        >>> count(["sad", "ang", "sad"], ["f", "m", None])
        Counts(examples=3, classes={'ang': 1, 'sad': 2}, groups={'ang': {'m': 1}, 'sad': {'f': 1}}, without_group=1)
    """
    classes = dict(sorted(Counter(truths).items()))
    if groups is None:
        return Counts(len(truths), classes, {})
    cells = Counter((truth, group) for truth, group in zip(truths, groups, strict=True) if group is not None)
    table: dict[str, dict[str, int]] = {label: {} for label in classes}
    for (truth, group), n in sorted(cells.items()):
        table[truth][group] = n
    return Counts(len(truths), classes, table, sum(group is None for group in groups))


def class_weights(truths: Sequence[str], labels: Sequence[str]) -> tuple[float, ...]:
    """Weight of each of K labels, N / (K * its training examples), as ``balanced`` in scikit-learn.

    Their mean over the training examples is 1, so weighted and unweighted losses are divided by the same count, and
    gradient accumulation is exact.

    Raises:
        ConfigError: naming a label without a training example, or one outside ``labels``

    Example:
        >>> class_weights(["ang", "ang", "ang", "sad"], ["ang", "sad"])
        (0.6666666666666666, 2.0)
    """
    found = Counter(truths)
    absent = [label for label in labels if not found[label]]
    if absent:
        raise ConfigError(
            f"label {absent[0]!r} has no training example among {len(truths)}, so it has no balanced class weight; "
            "choose class_weights none, or a fold and task with training examples of every label"
        )
    foreign = sorted(found.keys() - set(labels))
    if foreign:
        raise ConfigError(f"training examples have label {foreign[0]!r}, expected one of {', '.join(labels)}")
    from sklearn.utils.class_weight import compute_class_weight  # imported here, since --help does not need it

    weights = compute_class_weight("balanced", classes=np.asarray(labels), y=np.asarray(truths))
    return tuple(float(weight) for weight in weights)


def _check_choices(sampling: str, direction: str, caps: Mapping[str, int | None]) -> None:
    if sampling not in SAMPLINGS:
        raise ConfigError(f"argument 'sampling': {sampling!r}; expected one of {', '.join(SAMPLINGS)}")
    if direction not in DIRECTIONS:
        raise ConfigError(f"argument 'direction': {direction!r}; expected {' or '.join(DIRECTIONS)}")
    for name, cap in caps.items():
        if cap is not None and cap < 1:
            raise ConfigError(f"argument 'max_per_{name}': {cap}; expected 1 or more, or null for no cap")


def _check_sizes(truths: Sequence[str], groups: _Groups, utterance_ids: Sequence[str] | None) -> None:
    if not truths:
        raise ConfigError("no training examples to balance; is the train split of the fold empty?")
    for what, values in (("groups", groups), ("utterance ids", utterance_ids)):
        if values is not None and len(values) != len(truths):
            raise ConfigError(f"{len(values)} {what} for {len(truths)} examples; expected one per example")


def _require_groups(groups: _Groups, utterance_ids: Sequence[str] | None) -> None:
    if groups is None:
        raise ConfigError("no groups to balance or cap; give the group of each example")
    missing = [row for row, group in enumerate(groups) if group is None]
    if missing:
        first = missing[0]
        name = f"number {first}" if utterance_ids is None else utterance_ids[first]
        raise ConfigError(
            f"utterance {name}: no group in the column of 'balance.by' ({len(missing)} such utterances); choose "
            "another column, or balance.sampling class without balance.max_per_group"
        )


def _capped(rows: _Rows, names: _Names, most: int, random: np.random.Generator) -> _Rows:
    """At most ``most`` rows of each name."""
    cells = _cells(rows, names)
    kept = [cell if len(cell) <= most else random.choice(cell, most, replace=False) for cell in cells]
    return np.sort(np.concatenate(kept))


def _equalise(rows: _Rows, names: _Names, direction: str, random: np.random.Generator) -> _Rows:
    """Sample each name to the size of the most or the least frequent one."""
    cells = _cells(rows, names)
    size = (max if direction == "over" else min)(map(len, cells))
    return np.concatenate([_sample(cell, size, random) for cell in cells])


def _equalise_both(rows: _Rows, labels: _Names, names: _Names, direction: str, random: np.random.Generator) -> _Rows:
    """Sample classes to equal size, divided among their groups as evenly as possible."""
    classes = _cells(rows, labels)
    size = (max if direction == "over" else min)(map(len, classes))
    taken = []
    for members in classes:
        cells = _cells(members, names)
        shares = _shares([len(cell) for cell in cells], size, random)
        taken += [_sample(cell, share, random) for cell, share in zip(cells, shares, strict=True)]
    return np.concatenate(taken)


def _shares(counts: Sequence[int], total: int, random: np.random.Generator) -> list[int]:
    """Share ``total`` among cells as evenly as possible.

    No cell gets less than its count if the total is larger than all counts, and none gets more if it is smaller.

    Example:
        >>> _shares([6, 1, 1], 12, np.random.default_rng(0)), _shares([6, 1, 1], 4, np.random.default_rng(0))
        ([6, 3, 3], [2, 1, 1])
    """
    have = np.asarray(counts)
    bound = np.maximum if total >= have.sum() else np.minimum
    low, high = 0, total  # the highest level whose shares are not more than the total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(bound(have, middle).sum()) <= total else (low, middle - 1)
    shares = bound(have, low)
    rest = total - int(shares.sum())
    if rest:  # fewer than the cells that get one more at the next level
        shares[random.choice(np.flatnonzero(bound(have, low + 1) > shares), rest, replace=False)] += 1
    return [int(share) for share in shares]


def _sample(cell: _Rows, size: int, random: np.random.Generator) -> _Rows:
    """``size`` rows of a cell: all rows equally often, and the rest drawn without replacement."""
    times, rest = divmod(size, len(cell))
    return np.concatenate([np.repeat(cell, times), random.choice(cell, rest, replace=False)])


def _cells(rows: _Rows, names: _Names) -> list[_Rows]:
    """Rows of each name, in alphabetical order of names."""
    found = names[rows]
    return [rows[found == name] for name in np.unique(found)]
