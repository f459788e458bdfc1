"""Protocol files: the task, the folds, what their splits are disjoint in, and their known utterances."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.notes import Split
from lalm_mer.core.settings import setting
from lalm_mer.core.spelling import normalised
from lalm_mer.evaluation.metrics import UAR
from lalm_mer.evaluation.target_metrics import primary_metrics

__all__ = ["COLUMNS", "SPLITS", "FoldRule", "InlineTask", "KnownSplit", "Protocol", "load_protocol"]

COLUMNS = ("speaker", "session", "script", "transcript", "audio")
"""Columns in which the splits of a fold are compared; ``audio`` is the decoded samples."""
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class FoldRule:
    """How utterances are assigned to folds."""

    rule: str = setting(
        choices=("listed", "grouped", "column", "crossed", "file", "test"),
        help="listed: the test groups of each fold are listed; grouped: groups are distributed over k folds, each with "
        "about the same share of every class; column: a column has the split; file: a file has the split for each "
        "value of a column; crossed: a fold tests one session and, of its scripted part, one script (see "
        "lalm_mer/protocols/splits.py); test: one fold tests all utterances, without train and dev",
    )
    column: str = setting("", help="the column that groups utterances or has the split")
    test: dict[int, list[str]] = setting({}, help="listed: fold -> groups; crossed: fold -> [session, script]")
    dev: dict[int, list[str]] = setting({}, help="listed: fold -> groups; by default the test groups of the next fold")
    map: dict[str, str] = setting(
        {}, choices=SPLITS, help="column: its value -> train, dev or test; other values are in no split"
    )
    k: int = setting(5, help="grouped: number of folds")
    seed: int = setting(0, help="grouped: seed of the order of groups with equal classes")
    file: str = setting("", help="file: a CSV next to the protocol with column, split and, if there are several, fold")

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the utterance table that the rule uses."""
        return {"crossed": ("session", "script"), "test": ()}.get(self.rule, (self.column,))


@dataclass(frozen=True)
class InlineTask:
    """A task for a corpus without tasks; labels map onto themselves unless ``map`` is given."""

    name: str
    labels: dict[str, list[str]]
    map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownSplit:
    """One split of a fold as published.

    Args:
        n: number of utterances
        sha256: SHA-256 of the sorted ids, one per line; null if the ids are not public
    """

    n: int
    sha256: str | None = None


@dataclass(frozen=True)
class Protocol:
    """Content of a protocol file."""

    name: str = setting(help="name of the protocol")
    version: int = setting(help="version, which is raised whenever a fold changes")
    source: str = setting(help="publication of the folds")
    folds: FoldRule = setting(help="rule that makes the folds")
    disjoint_in: list[str] = setting(
        choices=COLUMNS, help="columns in which train, dev and test share no value; verified for every fold"
    )
    shared_in: list[str] = setting(
        [], choices=COLUMNS, help="columns in which they may share values; a shared column in neither list is an error"
    )
    unknown_in: list[str] = setting(
        [], choices=COLUMNS, help="columns of disjoint_in that some utterances lack; they are disjoint for the others"
    )
    may_lack: dict[str, list[str]] = setting(
        {}, help="split -> labels that it may lack in some fold; any other label missing from a split is an error"
    )
    corpus: str | None = setting(None, help="its corpus; null for any")
    release: str | None = setting(None, help="the release of the corpus that 'known' describes")
    task: str | None = setting(None, help="name of a task of the corpus")
    inline_task: InlineTask | None = setting(None, help="the task itself, for a corpus without tasks")
    primary_metric: str = setting(UAR, choices=primary_metrics, help="metric on dev that selects the checkpoint")
    known: dict[int, dict[str, KnownSplit]] = setting(
        {}, help="fold -> split -> number of utterances and hash of their ids; a corpus that differs is reported"
    )

    def resolve_task(self, tasks: Mapping[str, Task]) -> Task:
        """Return the named task of the corpus, or the inline task.

        Raises:
            ConfigError: if the corpus has no task of that name, or the file gives no task or two
        """
        if (self.task is None) == (self.inline_task is None):
            raise ConfigError(f"protocol {self.name}: give either 'task' or 'inline_task'")
        if self.inline_task is not None:
            labels = tuple(self.inline_task.labels)
            forms = {label: tuple(forms) for label, forms in self.inline_task.labels.items()}
            mapping = self.inline_task.map or {normalised(label): label for label in labels}
            return Task(self.inline_task.name, LabelSet(labels, forms), mapping)
        if self.task is None or self.task not in tasks:
            raise ConfigError(f"protocol {self.name}: no task {self.task!r}; the corpus has {sorted(tasks) or 'none'}")
        return tasks[self.task]


def load_protocol(path: Path) -> Protocol:
    """Read a protocol file.

    Raises:
        ConfigError: naming the file and key
    """
    protocol = _normalised(load_config(Protocol, path))
    rule = protocol.folds
    if not re.fullmatch(r"\w[\w.-]*", protocol.name):  # it names a file of the prepared corpus
        raise ConfigError(f"{path}: key 'name': {protocol.name!r}; expected letters, digits, '_', '-' and '.'")
    if rule.rule in ("listed", "grouped") and rule.column not in COLUMNS:
        raise ConfigError(f"{path}: key 'folds.column': {rule.column!r}; expected one of {', '.join(COLUMNS)}")
    both = sorted(set(protocol.disjoint_in) & set(protocol.shared_in))
    if both:
        raise ConfigError(f"{path}: keys 'disjoint_in' and 'shared_in': {both[0]!r} is in both")
    if set(protocol.may_lack) - set(SPLITS):
        raise ConfigError(f"{path}: key 'may_lack': found {', '.join(protocol.may_lack)}; expected some of {SPLITS}")
    stray = sorted(set(protocol.unknown_in) - ({"speaker", "session"} & set(protocol.disjoint_in)))
    if stray:
        raise ConfigError(
            f"{path}: key 'unknown_in': {stray[0]!r}; expected speaker or session, if 'disjoint_in' has it"
        )
    if rule.rule == "file":
        return _resolve_file(protocol, path)
    return protocol


def _normalised(protocol: Protocol) -> Protocol:
    """The protocol with the values of columns that it names as the utterance table has them."""
    rule, task = protocol.folds, protocol.inline_task
    rule = replace(
        rule,
        test={fold: list(map(normalised, groups)) for fold, groups in rule.test.items()},
        dev={fold: list(map(normalised, groups)) for fold, groups in rule.dev.items()},
        map={normalised(value): split for value, split in rule.map.items()},
    )
    if task is not None:
        task = replace(task, map={normalised(found): label for found, label in task.map.items()})
    return replace(protocol, folds=rule, inline_task=task)


def _resolve_file(protocol: Protocol, path: Path) -> Protocol:
    file = path.parent / protocol.folds.file
    if not protocol.folds.file or not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
        raise ConfigError(f"{path}: key 'folds.file': {protocol.folds.file!r}; expected a CSV next to the protocol")
    return replace(protocol, folds=replace(protocol.folds, file=str(file)))
