"""Questions about the audio of utterances, with two answers of which one is right, to align a composed model.

The right answers are what the corpus states or what is measured: the transcript, the gender of the speaker, and pitch,
energy and speaking rate of the voice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from multiprocessing import RawValue
from typing import Any, TypeAlias, TypeVar

import pandas as pd

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Example, Input
from lalm_mer.core.words import words_of
from lalm_mer.examples.dataset import ExampleDataset
from lalm_mer.examples.descriptors import Descriptors, levels_of

__all__ = [
    "ANSWERS", "TRANSCRIPTS", "VOICE", "DescribedUtterance", "Question", "QuestionDataset", "described_utterances",
]  # fmt: skip

T = TypeVar("T")
ANSWERS = ("first", "second")
"""Labels of the two answers"""
TRANSCRIPTS = ("transcribe", "sentence")
"""Kinds of questions whose answers are transcripts"""
VOICE = {"gender": "gender", "pitch": "pitch", "energy": "energy", "rate": "speaking rate"}
"""Kinds of questions about the voice -> gender, or the title of a measure"""
Choices: TypeAlias = Mapping[str, Mapping[str, str]]
"""Kind of a question about the voice -> value -> its answer"""


@dataclass(frozen=True)
class Question(Input):
    """An input with a question about its audio.

    Args:
        kind: one of ``TRANSCRIPTS`` or ``VOICE``, the name of its prompt
        answers: two different answers, one of them right
    """

    kind: str = ""
    answers: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class DescribedUtterance:
    """An utterance with what is known about its words and its voice.

    Args:
        examples: the split that it is in
        index: its place there
        utterance_id: unique in its corpus
        transcript: None if there is none
        voice: kind of a question -> the true value, for those that are known
    """

    examples: ExampleDataset
    index: int
    utterance_id: str
    transcript: str | None
    voice: Mapping[str, str]


def described_utterances(examples: ExampleDataset, described: Descriptors) -> list[DescribedUtterance]:
    """The utterances of a split with audio, with transcript, gender and levels of their voices, in order.

    Args:
        examples: a split
        described: measures of its utterances, and terciles of train
    """
    table, genders = examples.utterances(), examples.column("gender")
    found = []
    for index, (name, transcript) in enumerate(zip(table["utterance_id"], table["transcript"], strict=True)):
        if name not in described.measures:
            continue
        levels = levels_of(described.measures[name], described.terciles)
        known = {kind: genders[index] if kind == "gender" else levels[title] for kind, title in VOICE.items()}
        voice = {kind: value for kind, value in known.items() if value is not None}
        words = transcript if words_of(transcript or "") else None
        found.append(DescribedUtterance(examples, index, name, words, voice))
    return found


class QuestionDataset:
    """Questions about utterances as examples, whose label names the right answer; map-style, also for a DataLoader.

    In training each utterance has one question an epoch, of a kind that is drawn anew in every epoch; else it has one
    of each kind. The wrong answer and the order of the two are drawn. All draws depend on seed, epoch, utterance and
    kind alone.

    Args:
        utterances: with what is known about them
        kinds: kinds of questions
        choices: the answers to questions about the voice
        seed: seed of the draws
        trains: whether the questions are to train on
        most: largest number of questions; those that are left out are drawn. None for all

    Raises:
        ConfigError: if no utterance has a question of these kinds
    """

    def __init__(
        self,
        utterances: Sequence[DescribedUtterance],
        kinds: Sequence[str],
        choices: Choices,
        *,
        seed: int = 0,
        trains: bool = False,
        most: int | None = None,
    ) -> None:
        self._choices, self._seed, self._trains = choices, seed, trains
        self._epoch = RawValue("q", 0)  # in memory that all worker processes share
        self._texts = _distinct([each.transcript for each in utterances if each.transcript])
        rows = [(each, self._possible(each, kinds)) for each in utterances]
        rows = [(each, possible) for each, possible in rows if possible]
        if not rows:
            raise ConfigError(
                f"none of {len(utterances)} utterances has a question of the kinds {', '.join(kinds)}; expected two "
                "different transcripts, or a gender or a level of the voice with an answer in its prompt; name prompts "
                "of other kinds, or another corpus"
            )
        if not trains:
            rows = [(each, [kind]) for each, possible in rows for kind in possible]
        if most is not None and most < len(rows):
            chosen = random.Random(f"questions/{seed}/chosen").sample(range(len(rows)), most)
            rows = [rows[number] for number in sorted(chosen)]
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        utterance, kinds = self._rows[index]
        draw = random.Random(f"questions/{self._seed}/{self.epoch}/{utterance.utterance_id}/{kinds}")
        kind = draw.choice(kinds)
        right = self._right(utterance, kind)
        wrong = draw.choice(self._wrong(utterance, kind)) if kind in VOICE else self._other_text(right, draw)
        number = draw.randrange(2)
        answers = (wrong, right) if number else (right, wrong)
        given = utterance.examples[utterance.index].input
        return Example(Question(**_fields(given), kind=kind, answers=answers), ANSWERS[number])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0; always 0 if the questions are not to train on."""
        return int(self._epoch.value) if self._trains else 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch in this process and in all worker processes that have these questions."""
        self._epoch.value = epoch

    def kinds(self) -> list[str]:
        """Kind of each question, in order, if the questions are not to train on."""
        return [kinds[0] for _, kinds in self._rows]

    def lengths(self) -> list[float]:
        """About the number of tokens of each question in which questions differ, without decoding."""
        return self._of_rows(lambda examples: examples.lengths())

    def durations_s(self) -> list[float | None]:
        """Duration of the audio of each question in seconds, without decoding."""
        return self._of_rows(lambda examples: examples.durations_s())

    def utterances(self) -> pd.DataFrame:
        """``utterance_id`` and ``transcript`` of each question, in order."""
        known = [(utterance.utterance_id, utterance.transcript) for utterance, _ in self._rows]
        return pd.DataFrame(known, columns=["utterance_id", "transcript"])

    def _of_rows(self, known: Callable[[ExampleDataset], Sequence[T]]) -> list[T]:
        """For each question what is known of its utterance, from a function of all examples of a split."""
        splits = {id(utterance.examples): utterance.examples for utterance, _ in self._rows}
        found = {name: known(examples) for name, examples in splits.items()}
        return [found[id(utterance.examples)][utterance.index] for utterance, _ in self._rows]

    def _possible(self, utterance: DescribedUtterance, kinds: Sequence[str]) -> list[str]:
        """The kinds of which the utterance has a question: its right answer is known, and there is a wrong one."""
        return [
            kind
            for kind in kinds
            if (kind in VOICE and utterance.voice.get(kind) in self._choices[kind])
            or (kind in TRANSCRIPTS and utterance.transcript is not None and len(self._texts) > 1)
        ]

    def _right(self, utterance: DescribedUtterance, kind: str) -> str:
        return self._choices[kind][utterance.voice[kind]] if kind in VOICE else str(utterance.transcript)

    def _wrong(self, utterance: DescribedUtterance, kind: str) -> list[str]:
        return [answer for value, answer in self._choices[kind].items() if value != utterance.voice[kind]]

    def _other_text(self, right: str, draw: random.Random) -> str:
        words = words_of(right)
        while words_of(other := draw.choice(self._texts)) == words:
            pass
        return other


def _distinct(texts: Sequence[str]) -> list[str]:
    """Texts with different words, the first of each."""
    return list({" ".join(words_of(text)): text for text in reversed(texts)}.values())[::-1]


def _fields(given: Input) -> dict[str, Any]:
    return {field.name: getattr(given, field.name) for field in fields(Input)}
