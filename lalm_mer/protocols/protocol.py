"""Protocol files: which task, which folds, what their sides are disjoint in, and which utterances they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.evaluation.metrics import METRICS, UAR

__all__ = ["COLUMNS", "FoldRule", "InlineTask", "KnownSide", "Protocol", "load_protocol"]

COLUMNS = ("speaker", "session", "script", "transcript", "audio")
"""What the sides of a split are compared in; ``audio`` is the content of the file."""

_RULES = ("listed", "grouped", "column", "crossed", "file")


@dataclass(frozen=True)
class FoldRule:
    """How utterances are dealt to folds.

    Args:
        rule: ``listed``: the groups tested in each fold are listed; ``grouped``: groups are dealt to ``k`` folds by
            size; ``column``: a column says the split; ``file``: a file says it for each value of a column;
            ``crossed``: a fold tests one session, and of what is scripted one script (see ``splits``)
        column: the column that groups utterances or says the split
        test: for ``listed``: fold -> groups; for ``crossed``: fold -> [session, script]
        dev: for ``listed``: fold -> groups; by default the groups tested in the next fold
        map: for ``column``: its value -> train, dev or test; other values are on no side
        k: for ``grouped``: number of folds
        seed: for ``grouped``: of the order in which groups of one size are dealt
        file: for ``file``: a CSV of ``column``, ``split`` and, if there are several, ``fold``, beside the protocol
    """

    rule: str
    column: str = ""
    test: dict[int, list[str]] = field(default_factory=dict)
    dev: dict[int, list[str]] = field(default_factory=dict)
    map: dict[str, str] = field(default_factory=dict)
    k: int = 5
    seed: int = 0
    file: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the utterance table that the rule reads."""
        return ("session", "script") if self.rule == "crossed" else (self.column,)


@dataclass(frozen=True)
class InlineTask:
    """A task for a corpus that has none of its own; labels map onto themselves unless ``map`` says otherwise."""

    name: str
    labels: dict[str, list[str]]
    map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownSide:
    """One side of a fold as published: how many utterances and, where their ids can be known, the hash of these.

    Args:
        n: utterances
        sha256: of the sorted ids, one a line; null where only the release tells them
    """

    n: int
    sha256: str | None = None


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
        unknown_in: columns of ``disjoint_in`` that some utterances lack; the claim then holds for the others alone
        corpus: the corpus it is for; None for any
        release: which release of it the known sides are of
        task: a task of the corpus, by name
        inline_task: the task itself, for a corpus without tasks of its own
        primary_metric: one of ``METRICS``: what dev chooses a checkpoint by
        known: fold -> side -> what is known of it; a corpus at hand that differs is said so
    """

    name: str
    version: int
    source: str
    folds: FoldRule
    disjoint_in: list[str]
    shared_in: list[str] = field(default_factory=list)
    unknown_in: list[str] = field(default_factory=list)
    corpus: str | None = None
    release: str | None = None
    task: str | None = None
    inline_task: InlineTask | None = None
    primary_metric: str = UAR
    known: dict[int, dict[str, KnownSide]] = field(default_factory=dict)

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
    rule = protocol.folds
    if rule.rule not in _RULES:
        raise ConfigError(f"{path}: key 'folds.rule': {rule.rule!r}; expected one of {', '.join(_RULES)}")
    if protocol.primary_metric not in METRICS:
        raise ConfigError(
            f"{path}: key 'primary_metric': {protocol.primary_metric!r}; expected one of {', '.join(METRICS)}"
        )
    named = [("folds.column", list(rule.needs))] if rule.rule in ("listed", "grouped", "crossed") else []
    for key in ("disjoint_in", "shared_in", "unknown_in"):
        named.append((key, getattr(protocol, key)))
    for key, columns in named:
        for column in columns:
            if column not in COLUMNS:
                raise ConfigError(f"{path}: key {key!r}: {column!r}; expected one of {', '.join(COLUMNS)}")
    both = sorted(set(protocol.disjoint_in) & set(protocol.shared_in))
    if both:
        raise ConfigError(f"{path}: keys 'disjoint_in' and 'shared_in': {both[0]!r} is in both")
    stray = sorted(set(protocol.unknown_in) - ({"speaker", "session"} & set(protocol.disjoint_in)))
    if stray:
        raise ConfigError(
            f"{path}: key 'unknown_in': {stray[0]!r}; expected speaker or session, where 'disjoint_in' has it"
        )
    if rule.rule == "file":
        return _with_file_beside(protocol, path)
    return protocol


def _with_file_beside(protocol: Protocol, path: Path) -> Protocol:
    file = path.parent / protocol.folds.file
    if not protocol.folds.file or not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
        raise ConfigError(f"{path}: key 'folds.file': {protocol.folds.file!r}; expected a CSV beside the protocol")
    return replace(protocol, folds=replace(protocol.folds, file=str(file)))
