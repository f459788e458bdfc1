"""The examples of one side of a fold, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import pandas as pd

from lalm_mer.core.audio import Waveform, decode
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.schema import Example
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.protocols.protocol import COLUMNS, Protocol
from lalm_mer.protocols.splits import Folds, make_folds

__all__ = ["ExampleDataset", "FoldedCorpus", "fold_corpus"]


class ExampleDataset:
    """A map-style dataset of ``Example``; a torch DataLoader takes it as it is.

    Args:
        utterances: the prepared corpus, audio not decoded
        rows: which of its rows, in order
        task: maps the corpus's labels
        sampling_rate: rate the recognizer hears at, in Hz; None leaves the audio alone
    """

    def __init__(self, utterances: datasets.Dataset, rows: list[int], task: Task, sampling_rate: int | None) -> None:
        self._utterances = utterances
        self._rows = rows
        self._task = task
        self._sampling_rate = sampling_rate

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._utterances[self._rows[index]]
        found = row[self._task.column]
        label = self._task.label_of(found)
        if label is None:
            raise CorpusError(
                f"utterance {row['utterance_id']}: {self._task.column} {found!r} is not in task {self._task.name}"
            )
        return Example(row["utterance_id"], row["speaker"], label, row["transcript"], self._waveform(row))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def durations_s(self) -> list[float | None]:
        """Duration of each utterance, in seconds, without decoding it; None where it has no audio."""
        durations = self._utterances["duration_s"][:]
        return [durations[row] for row in self._rows]

    def truths(self) -> list[str]:
        """The task's label of each example, in order."""
        return list(self.utterances()["truth"])

    def utterances(self) -> pd.DataFrame:
        """``utterance_id``, ``speaker``, ``transcript`` and ``truth`` (the task's label) of each example, in order."""
        answer = self._task.column
        columns = self._utterances.select_columns(["utterance_id", "speaker", "transcript", answer]).select(self._rows)
        frame: pd.DataFrame = columns.to_pandas()
        frame["truth"] = [self._task.label_of(found) for found in frame.pop(answer)]
        return frame

    def select(self, indices: Sequence[int]) -> ExampleDataset:
        """The examples at ``indices``, in that order."""
        rows = [self._rows[index] for index in indices]
        return ExampleDataset(self._utterances, rows, self._task, self._sampling_rate)

    def _waveform(self, row: Mapping[str, object]) -> Waveform | None:
        if self._sampling_rate is None:
            return None
        audio = row["audio"]
        if not isinstance(audio, Mapping):
            raise AudioError(f"utterance {row['utterance_id']} has no audio", "missing_audio")
        name = f"utterance {row['utterance_id']} ({audio['path']})"
        return decode(audio["bytes"], name).resampled(self._sampling_rate)


@dataclass(frozen=True)
class FoldedCorpus:
    """A prepared corpus under a protocol.

    Args:
        corpus: the prepared corpus
        task: the protocol's task
        folds: proven folds
        unmapped: how many utterances the task leaves out
    """

    corpus: PreparedCorpus
    task: Task
    folds: Folds
    unmapped: int

    @property
    def label_set(self) -> LabelSet:
        """The K labels of the task."""
        return self.task.labels

    def examples(self, fold: int, split: str, sampling_rate: int | None) -> ExampleDataset:
        """One side of a fold, in the order of utterance ids.

        Args:
            fold: number of the fold, from 1
            split: ``train``, ``dev`` or ``test``
            sampling_rate: in Hz; None for recognizers that do not hear
        """
        position = {name: row for row, name in enumerate(self.corpus.dataset["utterance_id"])}
        rows = [position[name] for name in self.folds.ids(fold, split)]
        return ExampleDataset(self.corpus.dataset, rows, self.task, sampling_rate)


def fold_corpus(corpus: PreparedCorpus, protocol: Protocol) -> FoldedCorpus:
    """Apply a protocol to a prepared corpus.

    Raises:
        ConfigError: if the protocol is for another corpus
        CorpusError: if the task maps no utterance
        SplitLeakError: if a claim of the protocol does not hold
    """
    if protocol.corpus not in (None, corpus.name):
        raise ConfigError(f"protocol {protocol.name} is for corpus {protocol.corpus}, but this is {corpus.name}")
    task = protocol.resolve_task(corpus.tasks)
    utterances = _columns(corpus.dataset, protocol.folds.needs)
    answers = corpus.dataset[task.column][:]
    mapped = utterances[[task.label_of(answer) is not None for answer in answers]]
    if mapped.empty:
        raise CorpusError(f"corpus {corpus.name}: no utterance has a label of task {task.name}")
    return FoldedCorpus(corpus, task, make_folds(mapped, protocol), len(utterances) - len(mapped))


def _columns(dataset: datasets.Dataset, needed: Sequence[str]) -> pd.DataFrame:
    """What folds are made of and compared in, without the audio itself."""
    names = {"utterance_id", "audio_sha256", *needed, *COLUMNS} - {"audio"}
    frame: pd.DataFrame = dataset.select_columns(sorted(names)).to_pandas()
    return frame.rename(columns={"audio_sha256": "audio"})
