"""A prepared corpus with the task and the folds of a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.names import ASR, FROM_CORPUS, SIMULATED
from lalm_mer.corpora import PreparedCorpus
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
    """

    corpus: PreparedCorpus
    task: Task
    folds: Folds
    unmapped: int

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
        ConfigError: if the protocol is for another corpus
        CorpusError: if the task maps no utterance
        SplitLeakError: if a claim of the protocol is not fulfilled
    """
    if protocol.corpus not in (None, corpus.name):
        raise ConfigError(f"protocol {protocol.name} is for corpus {protocol.corpus}, but this is {corpus.name}")
    task = protocol.resolve_task(corpus.tasks)
    utterances = compared_columns(corpus, protocol.folds.needs)
    cells = corpus.columns([task.column])[task.column]
    mapped = utterances[[task.label_of(cell) is not None for cell in cells]]
    if mapped.empty:
        raise CorpusError(f"corpus {corpus.name}: no utterance has a label of task {task.name}")
    return FoldedCorpus(corpus, task, make_folds(mapped, protocol), len(utterances) - len(mapped))


def compared_columns(corpus: PreparedCorpus, needed: Sequence[str] = ()) -> pd.DataFrame:
    """Read ``utterance_id``, ``COLUMNS`` and further ``needed`` columns, from which folds are made and verified.

    ``audio`` is the hash of the audio; transcripts are normalised in case and spacing, and an empty one is missing.
    """
    names = {"utterance_id", "audio_sha256", *needed, *COLUMNS} - {"audio"}
    frame = corpus.columns(sorted(names))
    words = frame["transcript"].astype("string").str.casefold().str.split().str.join(" ")
    frame["transcript"] = words.mask(words == "")
    return frame.rename(columns={"audio_sha256": "audio"})
