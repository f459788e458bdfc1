"""The examples of one split of a fold, decoded when they are accessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import datasets
import numpy as np
import numpy.typing as npt
import pandas as pd

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.labels import Task
from lalm_mer.core.schema import EncodedAudio, Example, Input, Turn
from lalm_mer.corpora import waveform_of
from lalm_mer.examples.feature_store import FeatureStore
from lalm_mer.examples.transcripts import Transcripts
from lalm_mer.protocols.folded_corpus import FoldedCorpus

__all__ = ["ExampleDataset", "ExampleSource", "InputDataset"]

_TOKENS_PER_S, _TOKENS_PER_CHARACTER = 25.0, 0.25  # of audio, as most families have; of a transcript

_OF_INPUT = ("utterance_id", "audio", "audio_sha256", "transcript", "speaker")
"""Columns that an input is made of; to read all takes four times as long."""


@dataclass(frozen=True)
class ExampleSource:
    """The source of examples: a folded corpus, and data that replaces or extends its rows.

    Args:
        folded: corpus, task and folds; the folds are always made and verified with the transcripts of the corpus
        transcripts: transcripts to use instead of those of the corpus; None for those of the corpus
        context: utterance id -> the turns before it
        descriptors: utterance id -> description of its voice
        without_audio: whether an utterance without audio becomes an example without a waveform; if not, accessing it is
            an error
        encoded: hash of the audio -> its stored tower output, of which an example gets the output and no waveform; None
            to decode all audio
        soft_labels: whether the target of an example of train is the distribution of its votes, and train has the
            utterances without consensus
    """

    folded: FoldedCorpus
    transcripts: Transcripts | None = None
    context: Mapping[str, tuple[Turn, ...]] = field(default_factory=dict)
    descriptors: Mapping[str, str] = field(default_factory=dict)
    without_audio: bool = False
    encoded: Callable[[str], EncodedAudio] | None = None
    soft_labels: bool = False

    @property
    def transcript_source(self) -> str:
        """Source of the transcripts: ``corpus``, ``asr`` or ``simulated``."""
        return self.folded.transcript_source if self.transcripts is None else self.transcripts.source

    def examples(self, fold: int, split: str, sampling_rate: int | None) -> ExampleDataset:
        """One split of a fold, in the order of utterance ids; ``sampling_rate`` in Hz, None to load no audio."""
        folds = self.folded.folds
        names = folds.ids(fold, split)
        if self.soft_labels and split == "train":
            names = sorted([*names, *folds.extra_train.get(fold, ())])
        rows = [self.folded.positions[name] for name in names]
        return ExampleDataset(self, rows, sampling_rate, soft=self.soft_labels and split == "train")

    def examples_of(self, utterance_ids: Iterable[str], sampling_rate: int | None) -> ExampleDataset:
        """Examples of utterances of the corpus, in the order of ``utterance_ids``."""
        return ExampleDataset(self, [self.folded.positions[name] for name in utterance_ids], sampling_rate)


class ExampleDataset:
    """A map-style dataset of ``Example``, also for a torch DataLoader.

    Args:
        source: the source of the examples
        rows: row numbers in the corpus, in order
        sampling_rate: sampling rate of the waveforms, in Hz; None to load no audio
        soft: whether the target of an example is the distribution of its votes
    """

    def __init__(
        self, source: ExampleSource, rows: list[int], sampling_rate: int | None, *, soft: bool = False
    ) -> None:
        self._source = source
        self._utterances: datasets.Dataset = source.folded.corpus.dataset
        if source.encoded is not None or sampling_rate is None:
            self._utterances = self._utterances.remove_columns("audio")  # not even read
        self._task = source.folded.task
        names = {*_OF_INPUT, *self._task.columns, *(["ratings"] if soft else [])}
        self._read = self._utterances.select_columns([name for name in self._utterances.column_names if name in names])
        self._rows = rows
        self._sampling_rate = sampling_rate
        self._soft = soft

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._read[self._rows[index]]
        label, target = self._truth(row)
        name, source = row["utterance_id"], self._source
        without_audio = self.uses_audio and row["audio_sha256"] is None and source.without_audio
        decodes = self.uses_audio and not without_audio
        given = Input(
            name,
            row["transcript"] if source.transcripts is None else source.transcripts.by_id.get(name),
            waveform_of(row, cast(int, self._sampling_rate)) if decodes and source.encoded is None else None,
            encoded=source.encoded(row["audio_sha256"]) if decodes and source.encoded is not None else None,
            speaker=row["speaker"],
            without_audio=without_audio,
            context=source.context.get(name, ()),
            descriptors=source.descriptors.get(name),
            audio_sha256=row["audio_sha256"],
        )
        return Example(given, label, target)

    def _truth(self, row: Mapping[str, Any]) -> tuple[str, tuple[float, ...]]:
        """Label and target values of a row.

        Raises:
            CorpusError: naming the utterance, if it is not in the task, or has no votes that soft labels need
        """
        task = self._task
        target = task.values_of([row[column] for column in task.columns])
        soft = task.votes_of(row["ratings"]) if self._soft else None
        if soft is None and (self._soft or target is None):
            what = "ratings" if self._soft else task.column
            raise CorpusError(f"utterance {row['utterance_id']}: {what} {row[what]!r} is not in task {task.name}")
        label = _first_label(task, soft if target is None else target)
        return label, cast(tuple[float, ...], target if soft is None else soft)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def task(self) -> Task:
        """The task that gives the truths."""
        return self._task

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest value of each target of a ``scalar`` task; else empty."""
        return self._source.folded.ranges

    @property
    def uses_audio(self) -> bool:
        """Whether the examples have waveforms."""
        return self._sampling_rate is not None

    def durations_s(self) -> list[float | None]:
        """Duration of each utterance in seconds, without decoding; None if it has no audio."""
        durations = self._utterances["duration_s"][:]
        return [durations[row] for row in self._rows]

    def audio_lengths(self) -> list[float]:
        """About the number of tokens of the audio of each example; 0 if the examples have no waveforms."""
        durations = self.durations_s() if self.uses_audio else [None] * len(self)
        return [_TOKENS_PER_S * (duration_s or 0.0) for duration_s in durations]

    def text_lengths(self) -> list[float]:
        """About the number of tokens of the transcript of each example and of the turns before it."""
        table, context = self.utterances(), self._source.context
        return [
            _TOKENS_PER_CHARACTER * (len(words or "") + sum(len(turn.transcript) for turn in context.get(name, ())))
            for name, words in zip(table["utterance_id"], table["transcript"], strict=True)
        ]

    def lengths(self) -> list[float]:
        """About the number of tokens of each example in which examples differ, without decoding, to batch by length."""
        return [audio + text for audio, text in zip(self.audio_lengths(), self.text_lengths(), strict=True)]

    def audio_hashes(self) -> list[str | None]:
        """Hash of the audio of each example, without decoding; None if it has no audio."""
        hashes = self._utterances["audio_sha256"][:]
        return [hashes[row] for row in self._rows]

    def with_encoded(self, encoded: Callable[[str], EncodedAudio]) -> ExampleDataset:
        """The same examples with stored tower outputs in place of waveforms."""
        source = replace(self._source, encoded=encoded)
        return ExampleDataset(source, self._rows, self._sampling_rate, soft=self._soft)

    def truths(self) -> list[str]:
        """Task label of each example, in order; empty texts if the task is not ``single``."""
        return list(self.utterances()["truth"])

    def targets(self) -> npt.NDArray[np.float64]:
        """True value of each target of each example, (N, T), as ``Task.values_of`` gives them, also with soft labels.

        Raises:
            CorpusError: if an utterance is not in the task, such as one of train without consensus
        """
        columns = self._utterances.select_columns(list(self._task.columns)).select(self._rows).to_dict()
        values = [self._task.values_of(list(row)) for row in zip(*columns.values(), strict=True)]
        if None in values:
            raise CorpusError(f"{values.count(None)} utterances have no value of task {self._task.name}")
        return np.array(values, dtype=np.float64).reshape(len(values), len(self._task.targets))

    def votes(self) -> npt.NDArray[np.float64] | None:
        """Shares of the votes of raters, (N, K), rows of NaN where there are none for the task.

        None if no example has any, or the task is not ``single``.
        """
        if self._task.kind != "single":
            return None
        cells = self._utterances.select_columns(["ratings"]).select(self._rows)["ratings"][:]
        found = [self._task.votes_of(cell) for cell in cells]
        missing = (np.nan,) * len(self._task.targets)
        return np.array([shares or missing for shares in found]) if any(found) else None

    def without_votes(self) -> list[str]:
        """Ids of the examples without a vote for a label of the task, which soft labels cannot use."""
        votes, names = self.votes(), list(self.utterances()["utterance_id"])
        if votes is None:
            return names
        return [name for name, shares in zip(names, votes, strict=True) if np.isnan(shares).any()]

    def utterances(self) -> pd.DataFrame:
        """``utterance_id``, ``speaker``, ``transcript`` and ``truth`` of each example, in order.

        ``truth`` is the label of a ``single`` task, of an utterance without consensus the first with most votes, and
        empty for other kinds.
        """
        table = self._source.folded.table.iloc[self._rows].reset_index(drop=True)
        frame = table[["utterance_id", "speaker", "transcript"]].copy()
        if self._source.transcripts is not None:
            frame["transcript"] = [self._source.transcripts.by_id.get(name) for name in frame["utterance_id"]]
        frame["truth"] = self._labels(table[self._task.column]) if self._task.kind == "single" else ""
        return frame

    def _labels(self, cells: Iterable[Any]) -> list[str | None]:
        task = self._task
        labels = [task.label_of(cell) for cell in cells]
        if self._soft and None in labels:
            table = self._utterances.select_columns(["ratings"]).select(self._rows)
            votes = [task.votes_of(cell) for cell in table["ratings"][:]]
            labels = [
                _first_label(task, shares) if label is None and shares is not None else label
                for label, shares in zip(labels, votes, strict=True)
            ]
        return labels

    def column(self, name: str) -> list[str | None]:
        """Another column of the utterance table as strings: ``gender``, ``session`` ...; None where a value is missing.

        Raises:
            ConfigError: if there is no such column
        """
        if name not in self._utterances.column_names or name == "audio":
            known = ", ".join(self._utterances.column_names)
            raise ConfigError(f"no column {name!r} in the utterance table; it has {known}")
        values = self._utterances[name][:]
        return [None if values[row] is None else str(values[row]) for row in self._rows]

    def distinct(self) -> ExampleDataset:
        """The same examples, each once."""
        return self._of_rows(list(dict.fromkeys(self._rows)))

    def select(self, indices: Sequence[int]) -> ExampleDataset:
        """The examples at ``indices``, in that order."""
        return self._of_rows([self._rows[index] for index in indices])

    def without_waveforms(self) -> ExampleDataset:
        """The same examples without waveforms, for recognizers that use stored features."""
        return ExampleDataset(self._source, self._rows, None, soft=self._soft)

    def _of_rows(self, rows: list[int]) -> ExampleDataset:
        return ExampleDataset(self._source, rows, self._sampling_rate, soft=self._soft)


def _first_label(task: Task, values: Sequence[float] | None) -> str:
    """The first label with the largest value; an empty text if the task is not ``single``."""
    if task.kind != "single" or values is None:
        return ""
    return task.targets[max(range(len(values)), key=values.__getitem__)]


class InputDataset:
    """The inputs of examples without their truths, for scoring; also for a torch DataLoader.

    Args:
        examples: a map-style dataset of ``Example``
    """

    def __init__(self, examples: Sequence[Example] | ExampleDataset) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Input:
        return self._examples[index].input

    def __iter__(self) -> Iterator[Input]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> list[float]:
        """Lengths of ``ExampleDataset.lengths``; 0 for examples of another kind, which are not known before access."""
        return self._examples.lengths() if isinstance(self._examples, ExampleDataset) else [0.0] * len(self)

    def select(self, indices: Sequence[int]) -> InputDataset:
        """The inputs at ``indices``, in that order."""
        if isinstance(self._examples, ExampleDataset):
            return InputDataset(self._examples.select(indices))
        return InputDataset([self._examples[index] for index in indices])

    def not_stored(self, store: FeatureStore) -> InputDataset:
        """The inputs whose features are to be added to a store; the audio of the others is not decoded."""
        return self.select(store.missing(self.without_waveforms()))

    def without_waveforms(self) -> InputDataset:
        """The same inputs without waveforms, to look up stored features; examples of another kind are not changed."""
        return InputDataset(self._examples.without_waveforms()) if isinstance(self._examples, ExampleDataset) else self
