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
            column = "label" if self.task.column == "label" else f"{self.task.column} that the task covers"
            found += [f"{self.unmapped - named} without a {column}"] if self.unmapped > named else []
            lines.append(f"not in task {self.task.name}, left out: {self.unmapped} utterances: {', '.join(found)}")
        return lines

    def _alike(self, label: str) -> str:
        found = nearest(label, self.label_set.labels)
        return f" (nearest label of the task: {found!r})" if found else ""

    @property
    def label_set(self) -> LabelSet:
        """The K labels of the task."""
        return self.task.labels

    @property
    def truths(self) -> dict[str, str]:
        """Utterance id -> task label, for all utterances that are in a fold."""
        cells = dict(zip(self._table["utterance_id"], self._table[self.task.column], strict=True))
        labels = {name: self.task.label_of(cells[name]) for name in self.folds.frame["utterance_id"]}
        return {name: label for name, label in labels.items() if label is not None}

    @property
    def with_audio(self) -> list[str]:
        """Ids of the utterances in a fold that have audio."""
        ids = set(self._table.loc[self._table["audio_sha256"].notna(), "utterance_id"])
        return sorted(ids & set(self.folds.frame["utterance_id"]))

    @property
    def transcript_source(self) -> str:
        """Source of the transcripts: the last of ``corpus``, ``asr`` and ``simulated`` that an utterance in a fold has.

        The transcripts of a synthetic corpus are part of its design and count as ``corpus``.
        """
        used = self._table[self._table["utterance_id"].isin(set(self.folds.frame["utterance_id"]))]
        sources = set() if self.corpus.summary["synthetic"] else set(used["transcript_source"])
        return next((source for source in (SIMULATED, ASR) if source in sources), FROM_CORPUS)

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The columns that this class uses, read once."""
        return self.corpus.columns(sorted({"utterance_id", self.task.column, "audio_sha256", "transcript_source"}))

    @cached_property
    def positions(self) -> dict[str, int]:
        """Utterance id -> its row number."""
        return {name: row for row, name in enumerate(self._table["utterance_id"])}


def fold_corpus(corpus: PreparedCorpus, protocol: Protocol) -> FoldedCorpus:
    """Apply a protocol to a prepared corpus.

    Raises:
        ConfigError: if the protocol is for another corpus, or a split lacks a class without being allowed to
        CorpusError: if the task maps no utterance, or none to one of its labels
        SplitLeakError: if a claim of the protocol is not fulfilled
    """
    if protocol.corpus not in (None, corpus.name):
        raise ConfigError(f"protocol {protocol.name} is for corpus {protocol.corpus}, but this is {corpus.name}")
    task = protocol.resolve_task(corpus.tasks)
    utterances = compared_columns(corpus, protocol.folds.needs)
    cells = corpus.columns([task.column])[task.column]
    utterances["truth"] = [task.label_of(cell) for cell in cells]
    mapped = utterances.dropna(subset=["truth"])
    left_out = cells[utterances["truth"].isna()]
    unmapped = dict(Counter(left_out.dropna())) if task.column == "label" else {}
    if mapped.empty:
        raise CorpusError(f"corpus {corpus.name}: no utterance has a label of task {task.name}{_others(unmapped)}")
    labels = task.labels.labels
    _require_labels(set(mapped["truth"]) | set(protocol.may_lack.get("test", ())), corpus, task, unmapped)
    folds = make_folds(mapped, protocol)
    classes = count_classes(folds.frame, dict(zip(mapped["utterance_id"], mapped["truth"], strict=True)), labels)
    require_classes(classes, protocol, labels)
    return FoldedCorpus(corpus, task, folds, len(left_out), unmapped, classes)


def _require_labels(found: Set[str], corpus: PreparedCorpus, task: Task, unmapped: Mapping[str, int]) -> None:
    """Refuse a label of the task that no utterance has, with the nearest label that is left out."""
    label = next((label for label in task.labels.labels if label not in found), None)
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
