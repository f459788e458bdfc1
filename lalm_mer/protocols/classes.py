"""Classes of the splits of folds: which are missing, and which have few utterances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import pandas as pd

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.notes import Note, NoteCode, Split
from lalm_mer.protocols.protocol import Protocol

__all__ = ["FEW", "ClassCounts", "class_notes", "count_classes", "describe_classes", "require_classes"]

FEW = 5
"""A class with fewer utterances in a split is reported with its count."""
ClassCounts: TypeAlias = Mapping[int, Mapping[str, Mapping[str, int]]]
"""Fold -> split -> label of the task -> number of utterances, 0 included."""


def count_classes(frame: pd.DataFrame, truths: Mapping[str, Collection[str]], labels: Sequence[str]) -> ClassCounts:
    """Count the classes of each split; an utterance with several labels counts for each of them.

    Args:
        frame: ``utterance_id``, ``fold``, ``split``, as in ``Folds``
        truths: utterance id -> its labels
        labels: the K labels of the task; none of a task on numbers
    """
    counts: dict[int, dict[str, dict[str, int]]] = {}
    for (fold, split), of_split in frame.groupby(["fold", "split"])["utterance_id"]:
        n = Counter(label for name in of_split for label in truths[name])
        counts.setdefault(int(str(fold)), {})[str(split)] = {label: n[label] for label in labels}
    return counts


def require_classes(counts: ClassCounts, protocol: Protocol, labels: Sequence[str]) -> None:
    """Check that each split has every class, except those that the protocol allows it to lack.

    Raises:
        ConfigError: naming fold, split and classes
    """
    unknown = sorted({label for allowed in protocol.may_lack.values() for label in allowed} - set(labels))
    if unknown:
        raise ConfigError(f"protocol {protocol.name}: key 'may_lack': {unknown[0]!r} is not one of {list(labels)}")
    lacking: dict[str, set[str]] = {}
    places = []
    for fold, split, of_split in _sides(counts):
        missing = [label for label in _missing(of_split) if label not in protocol.may_lack.get(split, ())]
        if missing:
            places.append(f"fold {fold}: {split} has no {', '.join(missing)}")
            lacking.setdefault(split, set()).update(missing)
    if places:
        more = f"; {len(places) - 3} more splits lack a class" if len(places) > 3 else ""
        allowed = ", ".join(f"{split}: [{', '.join(sorted(missing))}]" for split, missing in lacking.items())
        raise ConfigError(
            f"protocol {protocol.name}: {'; '.join(places[:3])}{more}; choose fewer folds, another seed or other "
            f"groups, or allow it in the protocol: may_lack: {{{allowed}}}"
        )


def class_notes(counts: Mapping[str, Mapping[str, int]]) -> list[Note]:
    """Notes on missing and rare classes in the splits of one fold."""
    notes = []
    for split, of_split in counts.items():
        if missing := _missing(of_split):
            facts = {"classes": ", ".join(missing)}
            notes.append(Note(NoteCode.MISSING_CLASSES, cast(Split, split), len(missing), facts=facts))
        if rare := _rare(of_split):
            facts = {"classes": ", ".join(rare)}
            notes.append(Note(NoteCode.FEW_UTTERANCES, cast(Split, split), len(rare), facts=facts))
    return notes


def describe_classes(counts: ClassCounts) -> list[str]:
    """What a reader of the results has to know about the classes of all folds, as lines."""
    missing = [f"fold {fold}, {split}: {', '.join(_missing(n))}" for fold, split, n in _sides(counts) if _missing(n)]
    rare = [f"fold {fold}, {split}: {', '.join(_rare(n))}" for fold, split, n in _sides(counts) if _rare(n)]
    lines = [f"classes without an utterance, as the protocol allows: {'; '.join(missing)}"] if missing else []
    return lines + ([f"WARNING: classes with fewer than {FEW} utterances: {'; '.join(rare)}"] if rare else [])


def _sides(counts: ClassCounts) -> Iterator[tuple[int, str, Mapping[str, int]]]:
    return ((fold, split, of_split) for fold, splits in counts.items() for split, of_split in splits.items())


def _missing(counts: Mapping[str, int]) -> list[str]:
    return [label for label, n in counts.items() if n == 0]


def _rare(counts: Mapping[str, int]) -> list[str]:
    return [f"{label} {n}" for label, n in counts.items() if 0 < n < FEW]
