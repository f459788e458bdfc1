"""Protocol files: which task, which folds, what their sides are disjoint in, and which utterances they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.settings import setting
from lalm_mer.evaluation.metrics import METRICS, UAR

__all__ = ["COLUMNS", "FoldRule", "InlineTask", "KnownSide", "Protocol", "load_protocol"]

COLUMNS = ("speaker", "session", "script", "transcript", "audio")
"""What the sides of a split are compared in; ``audio`` is the content of the file."""


@dataclass(frozen=True)
class FoldRule:
    """How utterances are dealt to folds."""

    rule: str = setting(
        choices=("listed", "grouped", "column", "crossed", "file"),
        help="listed: the groups tested in each fold are listed; grouped: groups are dealt to k folds by size; column: "
        "a column says the split; file: a file says it for each value of a column; crossed: a fold tests one session, "
        "and of what is scripted one script (see lalm_mer/protocols/splits.py)",
    )
    column: str = setting("", help="the column that groups utterances or says the split")
    test: dict[int, list[str]] = setting({}, help="listed: fold -> groups; crossed: fold -> [session, script]")
    dev: dict[int, list[str]] = setting({}, help="listed: fold -> groups; by default those tested in the next fold")
    map: dict[str, str] = setting({}, help="column: its value -> train, dev or test; other values are on no side")
    k: int = setting(5, help="grouped: number of folds")
    seed: int = setting(0, help="grouped: of the order in which groups of one size are dealt")
    file: str = setting("", help="file: a CSV of column, split and, if there are several, fold, beside the protocol")

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
    """What a protocol file holds."""

    name: str = setting(help="of the protocol")
    version: int = setting(help="raised whenever a fold changes")
    source: str = setting(help="who published it")
    folds: FoldRule = setting(help="the rule")
    disjoint_in: list[str] = setting(
        choices=COLUMNS, help="columns in which train, dev and test share nothing; proven for every fold, or an error"
    )
    shared_in: list[str] = setting(
        [], choices=COLUMNS, help="columns that they do share; a column in neither list that is shared is an error"
    )
    unknown_in: list[str] = setting(
        [], choices=COLUMNS, help="columns of disjoint_in that some utterances lack; it then holds for the others alone"
    )
    corpus: str | None = setting(None, help="the corpus it is for; null for any")
    release: str | None = setting(None, help="which release of it the known sides are of")
    task: str | None = setting(None, help="a task of the corpus, by name")
    inline_task: InlineTask | None = setting(None, help="the task itself, for a corpus without tasks of its own")
    primary_metric: str = setting(UAR, choices=lambda: tuple(METRICS), help="what dev chooses a checkpoint by")
    known: dict[int, dict[str, KnownSide]] = setting(
        {}, help="fold -> side -> what is known of it; a corpus that differs is reported"
    )

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
    if rule.rule in ("listed", "grouped") and rule.column not in COLUMNS:
        raise ConfigError(f"{path}: key 'folds.column': {rule.column!r}; expected one of {', '.join(COLUMNS)}")
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
