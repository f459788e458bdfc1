"""The examples of one split of a fold, decoded when they are accessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import datasets
import pandas as pd

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import EncodedAudio, Example, Input, Turn
from lalm_mer.corpora import waveform_of
from lalm_mer.examples.transcripts import Transcripts
from lalm_mer.protocols.folded_corpus import FoldedCorpus

__all__ = ["ExampleDataset", "ExampleSource", "InputDataset"]

_TOKENS_PER_S, _TOKENS_PER_CHARACTER = 25.0, 0.25  # of audio, as most families have; of a transcript


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
    """

    folded: FoldedCorpus
    transcripts: Transcripts | None = None
    context: Mapping[str, tuple[Turn, ...]] = field(default_factory=dict)
    descriptors: Mapping[str, str] = field(default_factory=dict)
    without_audio: bool = False
    encoded: Callable[[str], EncodedAudio] | None = None

    @property
    def transcript_source(self) -> str:
        """Source of the transcripts: ``corpus``, ``asr`` or ``simulated``."""
        return self.folded.transcript_source if self.transcripts is None else self.transcripts.source

    def examples(self, fold: int, split: str, sampling_rate: int | None) -> ExampleDataset:
        """One split of a fold, in the order of utterance ids; ``sampling_rate`` in Hz, None to load no audio."""
        return self.examples_of(self.folded.folds.ids(fold, split), sampling_rate)

    def examples_of(self, utterance_ids: Iterable[str], sampling_rate: int | None) -> ExampleDataset:
        """Examples of utterances that are in any fold, in the order of ``utterance_ids``."""
        return ExampleDataset(self, [self.folded.positions[name] for name in utterance_ids], sampling_rate)


class ExampleDataset:
    """A map-style dataset of ``Example``, also for a torch DataLoader.

    Args:
        source: the source of the examples
        rows: row numbers in the corpus, in order
        sampling_rate: sampling rate of the waveforms, in Hz; None to load no audio
    """

    def __init__(self, source: ExampleSource, rows: list[int], sampling_rate: int | None) -> None:
        self._source = source
        self._utterances: datasets.Dataset = source.folded.corpus.dataset
        if source.encoded is not None or sampling_rate is None:
            self._utterances = self._utterances.remove_columns("audio")  # not even read
        self._task = source.folded.task
        self._rows = rows
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
        return Example(given, label)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

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
        return ExampleDataset(replace(self._source, encoded=encoded), self._rows, self._sampling_rate)

    def truths(self) -> list[str]:
        """Task label of each example, in order."""
        return list(self.utterances()["truth"])

    def utterances(self) -> pd.DataFrame:
        """``utterance_id``, ``speaker``, ``transcript`` and ``truth`` (the task label) of each example, in order."""
        label_column = self._task.column
        names = ["utterance_id", "speaker", "transcript", label_column]
        frame: pd.DataFrame = self._utterances.select_columns(names).select(self._rows).to_pandas()
        if self._source.transcripts is not None:
            frame["transcript"] = [self._source.transcripts.by_id.get(name) for name in frame["utterance_id"]]
        frame["truth"] = [self._task.label_of(found) for found in frame.pop(label_column)]
        return frame

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
        return ExampleDataset(self._source, list(dict.fromkeys(self._rows)), self._sampling_rate)

    def select(self, indices: Sequence[int]) -> ExampleDataset:
        """The examples at ``indices``, in that order."""
        return ExampleDataset(self._source, [self._rows[index] for index in indices], self._sampling_rate)

    def without_waveforms(self) -> ExampleDataset:
        """The same examples without waveforms, for recognizers that use stored features."""
        return ExampleDataset(self._source, self._rows, None)


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

    def without_waveforms(self) -> InputDataset:
        """The same inputs without waveforms, to look up stored features; examples of another kind are not changed."""
        return InputDataset(self._examples.without_waveforms()) if isinstance(self._examples, ExampleDataset) else self
