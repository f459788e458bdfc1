"""A prepared corpus with the task and the folds of a protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.names import ASR, FROM_CORPUS, SIMULATED
from lalm_mer.core.suggestions import nearest
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.evaluation.target_metrics import metric_names, primary_metrics
from lalm_mer.protocols.classes import ClassCounts, count_classes, describe_classes, require_classes
from lalm_mer.protocols.protocol import COLUMNS, Protocol
from lalm_mer.protocols.splits import Folds, make_folds

__all__ = ["FoldedCorpus", "compared_columns", "fold_corpus"]


@dataclass(frozen=True)
class FoldedCorpus:
    """A prepared corpus with the task and the folds of a protocol.

    Args:
        corpus: the prepared corpus
        task: task of the protocol
        folds: its folds, whose claims have been verified
        unmapped: number of utterances without a label of the task
        unmapped_labels: label of the corpus -> how many of them have it, for a task on labels
        classes: number of utterances of each class in each split
    """

    corpus: PreparedCorpus
    task: Task
    folds: Folds
    unmapped: int
    unmapped_labels: Mapping[str, int] = field(default_factory=dict)
    classes: ClassCounts = field(default_factory=dict)

    def describe(self) -> list[str]:
        """What a reader of the results has to know about folds, classes and labels that are left out, as lines."""
        lines = [*self.folds.describe(), *describe_classes(self.classes)]
        if self.unmapped:
            named = sum(self.unmapped_labels.values())
            found = [f"{n} {label!r}{self._alike(label)}" for label, n in _most_frequent(self.unmapped_labels)]
            column = {"label": "label", "ratings": "consensus of the raters"}.get(
                self.task.column, f"{self.task.column} that the task covers"
            )
            found += [f"{self.unmapped - named} without a {column}"] if self.unmapped > named else []
            lines.append(f"not in task {self.task.name}, left out: {self.unmapped} utterances: {', '.join(found)}")
        if self.folds.extra_train:
            numbers = ", ".join(f"{len(ids)} of fold {fold}" for fold, ids in self.folds.extra_train.items())
            lines.append(f"of these in train by their votes, without a consensus: {numbers}")
        return lines

    def _alike(self, label: str) -> str:
        found = nearest(label, self.task.targets)
        return f" (nearest label of the task: {found!r})" if found else ""

    @property
    def label_set(self) -> LabelSet:
        """The K labels of the task."""
        return self.task.labels

    @property
    def truths(self) -> dict[str, str]:
        """Utterance id -> label of a ``single`` task, for all utterances that are in a fold."""
        cells = dict(zip(self.table["utterance_id"], self.table[self.task.column], strict=True))
        labels = {name: self.task.label_of(cells[name]) for name in self.folds.frame["utterance_id"]}
        return {name: label for name, label in labels.items() if label is not None}

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest value of each target of a ``scalar`` task, as the corpus states them; else empty.

        Raises:
            CorpusError: if the corpus states no range of a target
        """
        if self.task.kind != "scalar":
            return ()
        known = self.corpus.summary.get("ranges") or {}
        missing = [name for name in self.task.targets if name not in known]
        if missing:
            raise CorpusError(
                f"corpus {self.corpus.name}: its summary.json states no range of {missing[0]!r}, which task "
                f"{self.task.name} predicts; prepare the corpus again, a manifest with corpus.ranges"
            )
        return tuple((float(known[name][0]), float(known[name][1])) for name in self.task.targets)

    @property
    def with_audio(self) -> list[str]:
        """Ids of the utterances in a fold that have audio."""
        ids = set(self.table.loc[self.table["audio_sha256"].notna(), "utterance_id"])
        return sorted(ids & set(self.folds.frame["utterance_id"]))

    @property
    def transcript_source(self) -> str:
        """Source of the transcripts: the last of ``corpus``, ``asr`` and ``simulated`` that an utterance in a fold has.

        The transcripts of a synthetic corpus are part of its design and count as ``corpus``.
        """
        used = self.table[self.table["utterance_id"].isin(set(self.folds.frame["utterance_id"]))]
        sources = set() if self.corpus.summary["synthetic"] else set(used["transcript_source"])
        return next((source for source in (SIMULATED, ASR) if source in sources), FROM_CORPUS)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Ids, speakers, transcripts, hashes of audio and columns of the task of all utterances, read once."""
        names = ("utterance_id", "speaker", "transcript", "transcript_source", "audio_sha256")
        return self.corpus.columns(sorted({*names, *self.task.columns}))

    @cached_property
    def positions(self) -> dict[str, int]:
        """Utterance id -> its row number."""
        return {name: row for row, name in enumerate(self.table["utterance_id"])}


def fold_corpus(corpus: PreparedCorpus, protocol: Protocol, *, soft_labels: bool = False) -> FoldedCorpus:
    """Apply a protocol to a prepared corpus.

    Args:
        corpus: the prepared corpus
        protocol: its task must have the kind of the primary metric
        soft_labels: whether train may also use utterances that have votes for labels of the task, but no consensus

    Raises:
        ConfigError: if the protocol is for another corpus, its metric is of another kind of task, a split lacks a class
            without being allowed to, or soft labels are set for a task of another kind than ``single``
        CorpusError: if the task maps no utterance, or none to one of its labels, or no utterance has votes
        SplitLeakError: if a claim of the protocol is not fulfilled
    """
    if protocol.corpus not in (None, corpus.name):
        raise ConfigError(f"protocol {protocol.name} is for corpus {protocol.corpus}, but this is {corpus.name}")
    task = protocol.resolve_task(corpus.tasks)
    _require_metric(protocol, task)
    utterances = compared_columns(corpus, protocol.folds.needs)
    cells = corpus.columns(task.columns)
    values = [task.values_of(list(row)) for row in zip(*(cells[name] for name in task.columns), strict=True)]
    utterances["truth"] = [_truth(task, value) for value in values]
    mapped = utterances.dropna(subset=["truth"])
    left_out = cells[task.column][utterances["truth"].isna()]
    unmapped = dict(Counter(left_out.dropna())) if task.column == "label" else {}
    if mapped.empty:
        raise CorpusError(f"corpus {corpus.name}: no utterance has a label of task {task.name}{_others(unmapped)}")
    present = [frozenset() if value is None else _present(task, value) for value in values]
    _require_labels(frozenset().union(*present, protocol.may_lack.get("test", ())), corpus, task, unmapped)
    folds = make_folds(mapped, protocol, _voted(corpus, task, utterances) if soft_labels else None)
    labels = () if task.kind == "scalar" else task.targets
    of_utterance = dict(zip(utterances["utterance_id"], present, strict=True))
    classes = count_classes(folds.frame, of_utterance, labels)
    require_classes(classes, protocol, labels)
    return FoldedCorpus(corpus, task, folds, len(left_out), unmapped, classes)


def _require_metric(protocol: Protocol, task: Task) -> None:
    names = [name for name in metric_names(task.kind) if name in primary_metrics()]
    if protocol.primary_metric not in names:
        raise ConfigError(
            f"protocol {protocol.name}: key 'primary_metric': {protocol.primary_metric!r}, but task {task.name} is "
            f"{task.kind}; expected one of {', '.join(names)}"
        )


def _present(task: Task, values: Sequence[float]) -> frozenset[str]:
    """The labels of an utterance; none for a task on numbers."""
    if task.kind == "scalar":
        return frozenset()
    return frozenset(label for label, value in zip(task.targets, values, strict=True) if value)


def _truth(task: Task, values: Sequence[float] | None) -> str | None:
    """A class of the utterance, by which groups are distributed over folds: its labels; None if it is unmapped."""
    if values is None:
        return None
    return "+".join(label for label in task.targets if label in _present(task, values))


def _voted(corpus: PreparedCorpus, task: Task, utterances: pd.DataFrame) -> pd.DataFrame:
    """The utterances without a label of the task that have votes for one."""
    if task.kind != "single":
        raise ConfigError(f"argument 'soft_labels': task {task.name} is {task.kind}; only a single one is voted on")
    votes = [task.votes_of(cell) for cell in corpus.columns(["ratings"])["ratings"]]
    has_votes = pd.Series([shares is not None for shares in votes], index=utterances.index)
    if not has_votes.any():
        raise CorpusError(
            f"corpus {corpus.name}: no utterance has votes for labels of task {task.name}, which soft labels need; set "
            "loss.soft_labels=false"
        )
    return utterances[utterances["truth"].isna() & has_votes]


def _require_labels(found: Set[str], corpus: PreparedCorpus, task: Task, unmapped: Mapping[str, int]) -> None:
    """Refuse a label of the task that no utterance has, with the nearest label that is left out."""
    labels = () if task.kind == "scalar" else task.targets
    label = next((label for label in labels if label not in found), None)
    if label is None:
        return
    alike = nearest(label, unmapped)
    hint = f"; {unmapped[alike]} utterances have the label {alike!r}" if alike else _others(unmapped)
    raise CorpusError(
        f"corpus {corpus.name}: no utterance has the label {label!r} of task {task.name}{hint}; correct the labels or "
        f"their map, or allow it in the protocol: may_lack: {{train: [{label}], dev: [{label}], test: [{label}]}}"
    )


def _most_frequent(counts: Mapping[str, int], n: int = 10) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]


def _others(unmapped: Mapping[str, int]) -> str:
    names = ", ".join(f"{label!r} ({n})" for label, n in _most_frequent(unmapped, 5))
    return f"; labels outside the task: {names}" if names else ""


def compared_columns(corpus: PreparedCorpus, needed: Sequence[str] = ()) -> pd.DataFrame:
    """Read ``utterance_id``, ``COLUMNS`` and further ``needed`` columns, from which folds are made and verified.

    ``audio`` is the hash of the decoded samples.
    """
    names = {"utterance_id", "samples_sha256", *needed, *COLUMNS} - {"audio"}
    return corpus.columns(sorted(names)).rename(columns={"samples_sha256": "audio"})
