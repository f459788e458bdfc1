"""Which training examples to learn from, and how often: classes and groups made equally frequent, or weighted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Balanced:
    """The examples to train on.

    Args:
        indices: positions in the list that was given, ascending; a repeated example stands there more than once
        before: counts of that list
        after: counts of ``indices``
    """

    indices: list[int]
    before: Counts
    after: Counts


def balance(
    truths: Sequence[str],
    groups: Sequence[str | None] | None = None,
    utterance_ids: Sequence[str] | None = None,
    *,
    sampling: str = "none",
    direction: str = "over",
    max_per_class: int | None = None,
    max_per_group: int | None = None,
    seed: int = 0,
) -> Balanced:
    """Choose the examples to train on; for the training side alone, so that dev and test keep their own frequencies.

    Of a cell of n examples that is wanted m times, each is taken floor(m / n) times and the rest is drawn without
    replacement: ``over`` loses no example, and ``under`` repeats none. Only the caps, which come first, leave out
    examples in both directions.

    ``class``: each class as often as the largest (``over``) or the smallest (``under``). ``group``: the same for
    groups, whatever their classes. ``class_and_group``: each class as in ``class``, and within it its groups as evenly
    as that many examples allow; the largest class under ``over`` gains no example, so its groups stay as they are.

    Args:
        truths: label of each example, N strings
        groups: group of each example (speaker, gender, session ...), N; None where there are none
        utterance_ids: what to call the examples in errors, N; None calls them by their position
        sampling: ``none``, ``class``, ``group`` or ``class_and_group``
        direction: ``over`` repeats the few, ``under`` leaves out of the many
        max_per_class: most distinct examples of a class, drawn at random first; None for no cap
        max_per_group: most distinct examples of a group, over all classes, drawn after that; None for no cap
        seed: of the draws

    Returns:
        positions, with counts before and after; the list as it is for ``none`` without caps

    Raises:
        ConfigError: if a name or number is not one of those above, there is no example, or a group is asked for that
            an example does not have

    Example:
        >>> chosen = balance(["ang", "ang", "ang", "sad"], sampling="class")
        >>> chosen.indices, chosen.before.classes, chosen.after.classes
        ([0, 1, 2, 3, 3, 3], {'ang': 3, 'sad': 1}, {'ang': 3, 'sad': 3})
    """
    _check(truths, groups, utterance_ids, sampling, direction, {"class": max_per_class, "group": max_per_group})
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
    rows = _sampled(rows, labels, names, sampling, direction, random)
    indices = [int(row) for row in np.sort(rows)]
    after = count([truths[row] for row in indices], None if groups is None else [groups[row] for row in indices])
    return Balanced(indices, count(truths, groups), after)


def _sampled(
    rows: _Rows,
    labels: npt.NDArray[np.str_],
    names: npt.NDArray[np.str_] | None,
    sampling: str,
    direction: str,
    random: np.random.Generator,
) -> _Rows:
    if sampling == "class":
        return _level(rows, labels, direction, random)
    if sampling == "group" and names is not None:
        return _level(rows, names, direction, random)
    if sampling == "class_and_group" and names is not None:
        return _level_both(rows, labels, names, direction, random)
    return rows


def count(truths: Sequence[str], groups: Sequence[str | None] | None = None) -> Counts:
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
    """Weight of each class, N / (K * its examples): scikit-learn's ``balanced``.

    Their mean over the training examples is 1, so a weighted sum of losses may be divided by the same count as the
    bare one, and batches accumulate exactly.

    Args:
        truths: label of each training example, after ``balance``
        labels: label set of the task, K strings

    Returns:
        K weights, in the order of ``labels``

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
            "choose class_weights none, or a fold and task where every label is trained on"
        )
    foreign = sorted(found.keys() - set(labels))
    if foreign:
        raise ConfigError(f"training examples have label {foreign[0]!r}, expected one of {', '.join(labels)}")
    from sklearn.utils.class_weight import compute_class_weight  # here, for --help lists the samplings without it

    weights = compute_class_weight("balanced", classes=np.asarray(labels), y=np.asarray(truths))
    return tuple(float(weight) for weight in weights)


def _check(
    truths: Sequence[str],
    groups: Sequence[str | None] | None,
    utterance_ids: Sequence[str] | None,
    sampling: str,
    direction: str,
    caps: dict[str, int | None],
) -> None:
    if sampling not in SAMPLINGS:
        raise ConfigError(f"argument 'sampling': {sampling!r}; expected one of {', '.join(SAMPLINGS)}")
    if direction not in DIRECTIONS:
        raise ConfigError(f"argument 'direction': {direction!r}; expected {' or '.join(DIRECTIONS)}")
    for name, cap in caps.items():
        if cap is not None and cap < 1:
            raise ConfigError(f"argument 'max_per_{name}': {cap}; expected 1 or more, or null for no cap")
    if not truths:
        raise ConfigError("no training example to balance; is the train side of the fold empty?")
    for what, values in (("groups", groups), ("utterance ids", utterance_ids)):
        if values is not None and len(values) != len(truths):
            raise ConfigError(f"{len(values)} {what} for {len(truths)} examples; expected one an example")


def _require_groups(groups: Sequence[str | None] | None, utterance_ids: Sequence[str] | None) -> None:
    if groups is None:
        raise ConfigError("groups are to be balanced or capped, but none were given; give the group of each example")
    missing = [row for row, group in enumerate(groups) if group is None]
    if missing:
        first = missing[0]
        name = f"number {first}" if utterance_ids is None else utterance_ids[first]
        raise ConfigError(
            f"utterance {name}: no group in the column of 'balance.by', nor have {len(missing) - 1} others; choose "
            "another column, or balance.sampling class without balance.max_per_group"
        )


def _capped(rows: _Rows, names: npt.NDArray[np.str_], most: int, random: np.random.Generator) -> _Rows:
    """At most ``most`` rows of each name."""
    kept = []
    for cell in _cells(rows, names).values():
        kept.append(cell if len(cell) <= most else random.choice(cell, most, replace=False))
    return np.sort(np.concatenate(kept))


def _level(rows: _Rows, names: npt.NDArray[np.str_], direction: str, random: np.random.Generator) -> _Rows:
    """Each name as often as the most or the least frequent one."""
    cells = list(_cells(rows, names).values())
    wanted = (max if direction == "over" else min)(map(len, cells))
    return np.concatenate([_taken(cell, wanted, random) for cell in cells])


def _level_both(
    rows: _Rows,
    labels: npt.NDArray[np.str_],
    names: npt.NDArray[np.str_],
    direction: str,
    random: np.random.Generator,
) -> _Rows:
    """Each class equally often, and its groups as evenly as that allows."""
    classes = list(_cells(rows, labels).values())
    wanted = (max if direction == "over" else min)(map(len, classes))
    taken = []
    for members in classes:
        cells = list(_cells(members, names).values())
        shares = _even([len(cell) for cell in cells], wanted, random)
        taken += [_taken(cell, share, random) for cell, share in zip(cells, shares, strict=True)]
    return np.concatenate(taken)


def _even(counts: Sequence[int], total: int, random: np.random.Generator) -> list[int]:
    """Share ``total`` among cells as evenly as can be: none below its count if the total is larger, none above if not.

    Example:
        >>> _even([6, 1, 1], 12, np.random.default_rng(0)), _even([6, 1, 1], 4, np.random.default_rng(0))
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
    if rest:  # fewer than the cells that the next level would give one more
        shares[random.choice(np.flatnonzero(bound(have, low + 1) > shares), rest, replace=False)] += 1
    return [int(share) for share in shares]


def _taken(cell: _Rows, wanted: int, random: np.random.Generator) -> _Rows:
    """``wanted`` rows of a cell: all of them as often as that goes, the rest drawn without replacement."""
    times, rest = divmod(wanted, len(cell))
    return np.concatenate([np.repeat(cell, times), random.choice(cell, rest, replace=False)])


def _cells(rows: _Rows, names: npt.NDArray[np.str_]) -> dict[str, _Rows]:
    """Rows of each name, names in alphabetical order."""
    found = names[rows]
    return {str(name): rows[found == name] for name in np.unique(found)}
