"""The examples of one side of a fold, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import datasets
import pandas as pd

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.schema import Example, Turn
from lalm_mer.corpora import PreparedCorpus, waveform_of
from lalm_mer.protocols.protocol import COLUMNS, Protocol
from lalm_mer.protocols.splits import Folds, make_folds
from lalm_mer.protocols.transcripts import Transcripts

__all__ = ["Beside", "ExampleDataset", "FoldedCorpus", "compared_columns", "fold_corpus"]


@dataclass(frozen=True)
class Beside:
    """What examples take from elsewhere than the row of their utterance.

    Args:
        transcripts: read in place of the corpus's own; None for those
        context: utterance id -> the turns before it
        descriptors: utterance id -> its voice in words
        without_audio: whether an utterance that has no audio is read all the same; else it is an error to hear it
    """

    transcripts: Transcripts | None = None
    context: Mapping[str, tuple[Turn, ...]] = field(default_factory=dict)
    descriptors: Mapping[str, str] = field(default_factory=dict)
    without_audio: bool = False


class ExampleDataset:
    """A map-style dataset of ``Example``; a torch DataLoader takes it as it is.

    Args:
        utterances: the prepared corpus, audio not decoded
        rows: which of its rows, in order
        task: maps the corpus's labels
        sampling_rate: rate the recognizer hears at, in Hz; None leaves the audio alone
        beside: what comes from elsewhere
    """

    def __init__(
        self,
        utterances: datasets.Dataset,
        rows: list[int],
        task: Task,
        sampling_rate: int | None,
        beside: Beside = Beside(),
    ) -> None:
        self._utterances = utterances
        self._rows = rows
        self._task = task
        self._sampling_rate = sampling_rate
        self._beside = beside

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
        name, beside = row["utterance_id"], self._beside
        without_audio = self.hears and row["audio"] is None and beside.without_audio
        return Example(
            name,
            row["speaker"],
            label,
            row["transcript"] if beside.transcripts is None else beside.transcripts.by_id.get(name),
            None if self._sampling_rate is None or without_audio else waveform_of(row, self._sampling_rate),
            without_audio=without_audio,
            context=beside.context.get(name, ()),
            descriptors=beside.descriptors.get(name),
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def hears(self) -> bool:
        """Whether the examples come with their waveforms."""
        return self._sampling_rate is not None

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
        if self._beside.transcripts is not None:
            frame["transcript"] = [self._beside.transcripts.by_id.get(name) for name in frame["utterance_id"]]
        frame["truth"] = [self._task.label_of(found) for found in frame.pop(answer)]
        return frame

    def column(self, name: str) -> list[str | None]:
        """Any other column of the utterance table, as strings: ``gender``, ``session`` ...; None where it is missing.

        Raises:
            ConfigError: if there is no such column
        """
        if name not in self._utterances.column_names or name == "audio":
            raise ConfigError(
                f"no column {name!r} in the utterance table; it has {', '.join(self._utterances.column_names)}"
            )
        values = self._utterances[name][:]
        return [None if values[row] is None else str(values[row]) for row in self._rows]

    def distinct(self) -> ExampleDataset:
        """The same examples, each once."""
        return self._with(list(dict.fromkeys(self._rows)), self._sampling_rate)

    def select(self, indices: Sequence[int]) -> ExampleDataset:
        """The examples at ``indices``, in that order."""
        return self._with([self._rows[index] for index in indices], self._sampling_rate)

    def unheard(self) -> ExampleDataset:
        """The same examples without their waveforms, for what keeps its own features of them."""
        return self._with(self._rows, None)

    def _with(self, rows: list[int], sampling_rate: int | None) -> ExampleDataset:
        return ExampleDataset(self._utterances, rows, self._task, sampling_rate, self._beside)


@dataclass(frozen=True)
class FoldedCorpus:
    """A prepared corpus under a protocol.

    Args:
        corpus: the prepared corpus
        task: the protocol's task
        folds: proven folds
        unmapped: how many utterances the task leaves out
        beside: what examples take from elsewhere; the folds are made and proven with the corpus's own in any case
    """

    corpus: PreparedCorpus
    task: Task
    folds: Folds
    unmapped: int
    beside: Beside = field(default_factory=Beside)

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
        return self.examples_of(self.folds.ids(fold, split), sampling_rate)

    def examples_of(self, utterance_ids: Iterable[str], sampling_rate: int | None) -> ExampleDataset:
        """Some examples, in the order of ``utterance_ids``; whatever side they are on.

        Args:
            utterance_ids: of utterances in a fold
            sampling_rate: in Hz; None for recognizers that do not hear
        """
        rows = [self._position[name] for name in utterance_ids]
        return ExampleDataset(self.corpus.dataset, rows, self.task, sampling_rate, self.beside)

    @property
    def truths(self) -> dict[str, str]:
        """Utterance id -> the task's label, of every utterance that is in a fold."""
        answers = dict(zip(self._table["utterance_id"], self._table[self.task.column], strict=True))
        labels = {name: self.task.label_of(answers[name]) for name in self.folds.frame["utterance_id"]}
        return {name: label for name, label in labels.items() if label is not None}

    @property
    def heard(self) -> list[str]:
        """Ids of the utterances in a fold that have audio."""
        with_audio = set(self._table.loc[self._table["audio_sha256"].notna(), "utterance_id"])
        return sorted(with_audio & set(self.folds.frame["utterance_id"]))

    @property
    def transcript_source(self) -> str:
        """``corpus``, ``asr`` or ``simulated``: the last of these that any utterance in a fold has; it names labels.

        A synthetic corpus's own transcripts are part of its design and count as ``corpus``.
        """
        if self.beside.transcripts is not None:
            return self.beside.transcripts.source
        used = self._table[self._table["utterance_id"].isin(set(self.folds.frame["utterance_id"]))]
        sources = set() if self.corpus.summary["synthetic"] else set(used["transcript_source"])
        return next((source for source in ("simulated", "asr") if source in sources), "corpus")

    @cached_property
    def _table(self) -> pd.DataFrame:
        """What is asked of every utterance here, read once."""
        return self.corpus.columns(
            list(dict.fromkeys(["utterance_id", self.task.column, "audio_sha256", "transcript_source"]))
        )

    @cached_property
    def _position(self) -> dict[str, int]:
        """Utterance id -> its row."""
        return {name: row for row, name in enumerate(self._table["utterance_id"])}


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
    utterances = compared_columns(corpus, protocol.folds.needs)
    answers = corpus.columns([task.column])[task.column]
    mapped = utterances[[task.label_of(answer) is not None for answer in answers]]
    if mapped.empty:
        raise CorpusError(f"corpus {corpus.name}: no utterance has a label of task {task.name}")
    return FoldedCorpus(corpus, task, make_folds(mapped, protocol), len(utterances) - len(mapped))


def compared_columns(corpus: PreparedCorpus, needed: Sequence[str] = ()) -> pd.DataFrame:
    """What folds are made of and compared in, without the audio itself.

    Args:
        corpus: the prepared corpus
        needed: further columns

    Returns:
        ``utterance_id``, ``COLUMNS`` and ``needed``; ``audio`` is the hash of its content, and transcripts are
        compared without case and spacing; an empty one says nothing
    """
    names = {"utterance_id", "audio_sha256", *needed, *COLUMNS} - {"audio"}
    frame = corpus.columns(sorted(names))
    words = frame["transcript"].astype("string").str.casefold().str.split().str.join(" ")
    frame["transcript"] = words.mask(words == "")
    return frame.rename(columns={"audio_sha256": "audio"})
