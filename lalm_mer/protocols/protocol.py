"""Protocol files: which task, which folds, and what their sides are disjoint in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task

__all__ = ["COLUMNS", "FoldRule", "InlineTask", "Protocol", "load_protocol"]

COLUMNS = ("speaker", "session", "script", "transcript", "audio")
"""What the sides of a split are compared in; ``audio`` is the content of the file."""


@dataclass(frozen=True)
class FoldRule:
    """How utterances are dealt to folds.

    Args:
        rule: ``listed`` (the test groups of each fold are listed; dev is the next fold's test groups), ``grouped``
            (groups are dealt to ``k`` folds by size; dev likewise) or ``column`` (a column holds the split itself)
        column: the column that groups utterances, or that holds ``train``, ``dev`` and ``test``
        test: for ``listed``: fold -> groups
        k: for ``grouped``: number of folds
        seed: for ``grouped``: of the order in which groups of one size are dealt
    """

    rule: str
    column: str
    test: dict[int, list[str]] = field(default_factory=dict)
    k: int = 5
    seed: int = 0


@dataclass(frozen=True)
class InlineTask:
    """A task for a corpus that has none of its own; labels map onto themselves unless ``map`` says otherwise."""

    name: str
    labels: dict[str, list[str]]
    map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """What a protocol file holds.

    Args:
        name: name of the protocol
        version: raised whenever a fold changes
        source: who published it
        folds: the rule
        disjoint_in: columns in which train, dev and test share nothing; proven for every fold, or an error
        shared_in: columns that they do share, declared; a column in neither list that turns out shared is an error
        corpus: the corpus it is for; None for any
        task: a task of the corpus, by name
        inline_task: the task itself, for a corpus without tasks of its own
        primary_metric: what models are selected by and compared in
    """

    name: str
    version: int
    source: str
    folds: FoldRule
    disjoint_in: list[str]
    shared_in: list[str] = field(default_factory=list)
    corpus: str | None = None
    task: str | None = None
    inline_task: InlineTask | None = None
    primary_metric: str = "uar"

    def resolve_task(self, tasks: Mapping[str, Task]) -> Task:
        """The task, by name among the corpus's own, or as the file spells it out.

        Raises:
            ConfigError: if the corpus has no task of that name, or the file names none or two
        """
        if (self.task is None) == (self.inline_task is None):
            raise ConfigError(f"protocol {self.name}: give either 'task' or 'inline_task'")
        if self.inline_task is not None:
            labels = tuple(self.inline_task.labels)
            forms = {label: tuple(forms) for label, forms in self.inline_task.labels.items()}
            mapping = self.inline_task.map or {label: label for label in labels}
            return Task(self.inline_task.name, LabelSet(labels, forms), mapping)
        if self.task is None or self.task not in tasks:
            raise ConfigError(f"protocol {self.name}: no task {self.task!r}; the corpus has {sorted(tasks) or 'none'}")
        return tasks[self.task]


def load_protocol(path: Path) -> Protocol:
    """Read a protocol file.

    Raises:
        ConfigError: naming the file and key
    """
    protocol = load_config(Protocol, path)
    if protocol.folds.rule not in ("listed", "grouped", "column"):
        raise ConfigError(f"{path}: key 'folds.rule': {protocol.folds.rule!r}; expected listed, grouped or column")
    named = (("folds.column", [protocol.folds.column]), ("disjoint_in", protocol.disjoint_in))
    for key, columns in (*named, ("shared_in", protocol.shared_in)):
        for column in columns:
            if column not in COLUMNS:
                raise ConfigError(f"{path}: key {key!r}: {column!r}; expected one of {', '.join(COLUMNS)}")
    both = set(protocol.disjoint_in) & set(protocol.shared_in)
    if both or not protocol.disjoint_in:
        raise ConfigError(f"{path}: keys 'disjoint_in' and 'shared_in': {sorted(both) or 'disjoint in nothing'}")
    return protocol
