"""Label sets, their surface forms, and tasks that map the labels of a corpus onto them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lalm_mer.core.errors import ConfigError

__all__ = ["NUMBERS", "UNPARSED", "UNSCORED", "Interval", "LabelSet", "Task", "plurality", "vote_distribution"]

UNPARSED = "<unparsed>"
UNSCORED = "<unscored>"
NUMBERS = ("valence", "arousal", "dominance", "sentiment")
"""Numeric columns of the utterance table that a task may predict."""

_INTERVAL = re.compile(r"(?P<left>[\[(])\s*(?P<low>-?\d+(?:\.\d+)?)\s*,\s*(?P<high>-?\d+(?:\.\d+)?)\s*(?P<right>[\])])")


@dataclass(frozen=True)
class LabelSet:
    """The K labels of a task, in the order of the score columns.

    Args:
        labels: K distinct labels, in order
        forms: label -> answers that mean it, its surface forms; the first is the training target. A label without
            an entry is its own only form.

    Raises:
        ConfigError: if there are fewer than two labels, a duplicate, a form shared by two labels, or forms of an
            unknown label

    Example:
        >>> LabelSet(("hap", "sad"), {"hap": ("happy", "excited")}).forms_of("hap")
        ('happy', 'excited')
    """

    labels: tuple[str, ...]
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"a label set needs two or more distinct labels, found {list(self.labels)}")
        reserved = {UNPARSED, UNSCORED} & set(self.labels)
        if reserved:
            raise ConfigError(f"label {sorted(reserved)[0]!r} is reserved for rows without a prediction; rename it")
        unknown = sorted(set(self.forms) - set(self.labels))
        if unknown:
            raise ConfigError(f"surface forms for {unknown}, which are not among the labels {list(self.labels)}")
        owner: dict[str, str] = {}
        for label in self.labels:
            if not self.forms_of(label) or not all(form.strip() for form in self.forms_of(label)):
                raise ConfigError(f"label {label!r} has an empty surface form; every form needs a visible character")
            for form in self.forms_of(label):
                if owner.setdefault(form, label) != label:
                    raise ConfigError(f"surface form {form!r} belongs to both {owner[form]!r} and {label!r}")

    def forms_of(self, label: str) -> tuple[str, ...]:
        """The surface forms of ``label``; the label itself if none are given."""
        return self.forms.get(label, (label,))

    def index(self, label: str) -> int:
        """Position of ``label`` among the K labels."""
        return self.labels.index(label)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Interval:
    """A range of numbers with open or closed ends.

    Example:
        >>> 0.0 in Interval.parse("[-3, 0)"), -3 in Interval.parse("[-3, 0)")
        (False, True)
    """

    low: float
    high: float
    low_in: bool
    high_in: bool

    @classmethod
    def parse(cls, written: str) -> Interval:
        """Parse an interval such as ``[-3, 0)``.

        Raises:
            ConfigError: if it has another form, or is empty
        """
        found = _INTERVAL.fullmatch(written.strip())
        if found is None or float(found["low"]) > float(found["high"]):
            raise ConfigError(f"interval {written!r}: expected two numbers in order, such as [-3, 0) or (0, 3]")
        return cls(float(found["low"]), float(found["high"]), found["left"] == "[", found["right"] == "]")

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.low_in else value > self.low
        below = value <= self.high if self.high_in else value < self.high
        return above and below


@dataclass(frozen=True)
class Task:
    """A prediction task on a corpus: a label set, and how the annotations of the corpus map onto it.

    Args:
        name: name of the task, for example ``ravdess_8``
        label_set: the K labels to predict; None for a ``scalar`` task
        label_map: corpus label -> task label; a corpus label without an entry is unmapped
        kind: ``single`` (one label per utterance), ``multi`` (all labels whose intensity is above zero) or
            ``scalar`` (one or several numbers)
        columns: columns of the utterance table that have the truth: ``label``, ``ratings`` (the label with most votes;
            a tie is unmapped), ``intensities``, or one of ``NUMBERS``; of a ``scalar`` task one or several of these
        channel: the rated channel to use, for ``ratings`` in several channels
        intervals: task label -> interval of numbers that it covers, for a ``single`` task on one of ``NUMBERS``

    Raises:
        ConfigError: if the map has a label outside the label set, or kind, column, labels and intervals do not fit
    """

    name: str
    label_set: LabelSet | None
    label_map: Mapping[str, str] = field(default_factory=dict)
    kind: str = "single"
    columns: tuple[str, ...] = ("label",)
    channel: str | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = self.label_set.labels if self.label_set else ()
        for source, label in (*self.label_map.items(), *((label, label) for label in self.intervals)):
            if label not in labels:
                raise ConfigError(
                    f"task {self.name}: label {source!r} maps to {label!r}, which is not one of {list(labels)}"
                )
        allowed = {"single": ("label", "ratings", *NUMBERS), "multi": ("intensities",), "scalar": NUMBERS}
        refused = [column for column in self.columns if column not in allowed.get(self.kind, ())]
        if refused or not self.columns:
            found = f"column {refused[0]!r}" if refused else "no column"
            raise ConfigError(f"task {self.name}: {found} cannot be used for a {self.kind!r} task")
        if len(set(self.columns)) != len(self.columns) or (len(self.columns) > 1 and self.kind != "scalar"):
            raise ConfigError(
                f"task {self.name}: columns {list(self.columns)}; expected one, or different ones of a scalar task"
            )
        if (self.kind == "scalar") != (self.label_set is None) or bool(self.intervals) != (
            self.kind == "single" and self.column in NUMBERS
        ):
            raise ConfigError(
                f"task {self.name}: labels, map and intervals do not fit a {self.kind} task on {self.column}"
            )

    @property
    def column(self) -> str:
        """The column that has the truth, the first one if there are several."""
        return self.columns[0]

    @property
    def labels(self) -> LabelSet:
        """The label set.

        Raises:
            ConfigError: if the task predicts numbers
        """
        if self.label_set is None:
            raise ConfigError(f"task {self.name} predicts numbers and has no labels; choose a task with labels")
        return self.label_set

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what is predicted: the K labels, or the T columns of numbers."""
        return self.columns if self.label_set is None else self.label_set.labels

    def values_of(self, cells: Sequence[Any]) -> tuple[float, ...] | None:
        """The target values of an utterance, from its cells in ``columns``; None if it is unmapped.

        They are 1 for the label and 0 for the others (``single``), 1 for each label that is present (``multi``), or the
        numbers (``scalar``), all of which the utterance needs.

        Example:
            >>> Task("two", LabelSet(("a", "b")), {"a": "a", "b": "b"}).values_of(["b"])
            (0.0, 1.0)
        """
        if self.kind == "scalar":
            return None if any(cell is None or cell != cell for cell in cells) else tuple(map(float, cells))
        found = self.targets_of(cells[0])
        return None if found is None else tuple(float(label in found) for label in self.labels.labels)

    def votes_of(self, ratings: Sequence[Mapping[str, Any]] | None) -> tuple[float, ...] | None:
        """The distribution of the votes over the K labels; None without a vote for one of them.

        ``label_map`` applies, and votes for other labels of the corpus are left out.

        Args:
            ratings: the cell ``ratings`` of an utterance; of a task with a channel only that channel counts

        Example:
            >>> task = Task("two", LabelSet(("hap", "sad")), {"hap": "hap", "exc": "hap", "sad": "sad"})
            >>> votes = [("exc", 1), ("hap", 1), ("sad", 2), ("fru", 5)]
            >>> task.votes_of([{"label": label, "votes": n} for label, n in votes])
            (0.5, 0.5)
        """
        shares = dict.fromkeys(self.labels.labels, 0.0)
        for found, share in vote_distribution([] if ratings is None else ratings, self.channel).items():
            if found in self.label_map:
                shares[self.label_map[found]] += share
        total = sum(shares.values())
        return tuple(share / total for share in shares.values()) if total else None

    def targets_of(self, value: Any) -> tuple[str, ...] | None:  # noqa: ANN401 a cell of the table
        """The task labels of an utterance, from its cell in ``column``; None if it is unmapped.

        A scalar task has no labels: () if there is a number.
        """
        if value is None:
            return None
        if self.kind == "scalar":
            return ()
        if self.kind == "multi":
            names = [self.label_map.get(row["label"]) for row in value if row["intensity"] > 0]
            return tuple(name for name in self.labels.labels if name in names)
        if self.column == "ratings":
            value = plurality(vote_distribution(value, self.channel))
        if self.intervals:
            return next(((label,) for label, interval in self.intervals.items() if value in interval), None)
        return (self.label_map[value],) if value in self.label_map else None

    def label_of(self, value: Any) -> str | None:  # noqa: ANN401 a cell of the table
        """The single label of an utterance, from its cell in ``column``; None if it is unmapped.

        Raises:
            ConfigError: if the task is not ``single``
        """
        if self.kind != "single":
            raise ConfigError(f"task {self.name} is {self.kind}: an utterance has no single label in it")
        targets = self.targets_of(value)
        return targets[0] if targets else None


def vote_distribution(ratings: Sequence[Mapping[str, Any]], channel: str | None = None) -> dict[str, float]:
    """Fraction of the votes for each label; empty if there are no votes.

    Args:
        ratings: ``label`` and ``votes`` of each row, as in the utterance table
        channel: which of several channels; its name is removed from the labels

    Example:
        >>> vote_distribution([{"label": "voice:sad", "votes": 3}, {"label": "face:sad", "votes": 9}], "voice")
        {'sad': 1.0}
    """
    prefix = "" if channel is None else f"{channel}:"
    votes = {row["label"].removeprefix(prefix): row["votes"] for row in ratings if row["label"].startswith(prefix)}
    total = sum(votes.values())
    return {label: n / total for label, n in votes.items()} if total else {}


def plurality(distribution: Mapping[str, float]) -> str | None:
    """The label with the most votes; None if there is a tie or no vote."""
    most = max(distribution.values(), default=0.0)
    first = [label for label, share in distribution.items() if share == most]
    return first[0] if len(first) == 1 else None
