from collections import Counter

import numpy as np
import pytest

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Example, Input
from lalm_mer.core.words import words_of
from lalm_mer.examples.questions import ANSWERS, DescribedUtterance, Question, QuestionDataset

KINDS = ("transcribe", "sentence", "gender", "pitch")
CHOICES = {
    "gender": {"female": "female", "male": "male"},
    "pitch": {"low": "low", "medium": "in between", "high": "high"},
}
TEXTS = ["The door is open.", "the DOOR is open", "It rains again.", None]
LEVELS = ["low", "medium", "high", "high"]


class Examples:
    """Four utterances."""

    def __getitem__(self, index):
        waveform = Waveform(np.zeros(100, np.float32), 100)
        return Example(Input(f"u{index}", TEXTS[index], waveform, "s1"), "happy")

    def lengths(self):
        return [1.0, 2.0, 3.0, 4.0]


EXAMPLES = Examples()


@pytest.fixture
def utterances():
    voices = [{"gender": "female", "pitch": level} for level in LEVELS[:3]] + [{"gender": "other", "pitch": "high"}]
    return [DescribedUtterance(EXAMPLES, index, f"u{index}", TEXTS[index], voice) for index, voice in enumerate(voices)]


def right(example):
    return example.input.answers[ANSWERS.index(example.label)]


def test_dev_has_a_question_of_each_kind_whose_answer_is_known(utterances):
    dev = QuestionDataset(utterances, KINDS, CHOICES)
    found = [(example.input.utterance_id, example.input.kind) for example in dev]
    assert found == [(f"u{n}", kind) for n in range(3) for kind in KINDS] + [("u3", "pitch")]
    assert dev.kinds() == [kind for _, kind in found]
    for example in dev:
        number = int(example.input.utterance_id[1:])
        known = {"gender": "female", "pitch": CHOICES["pitch"][LEVELS[number]]}
        assert right(example) == known.get(example.input.kind, TEXTS[number])
        first, second = example.input.answers
        assert first != second
        assert words_of(first) != words_of(second)  # two spellings of one text are no choice


def test_a_question_is_an_input_without_the_emotion_label(utterances):
    example = QuestionDataset(utterances, KINDS, CHOICES)[0]
    assert isinstance(example.input, Question)
    assert example.label in ANSWERS
    assert example.input.waveform is not None


def test_the_right_answer_is_first_and_second_about_as_often(utterances):
    many = [DescribedUtterance(EXAMPLES, 0, f"many{n}", "The door is open.", {"gender": "male"}) for n in range(200)]
    places = Counter(example.label for example in QuestionDataset(many, ["gender"], CHOICES))
    assert min(places.values()) > 70


def test_training_draws_one_kind_an_epoch_and_another_in_another_epoch(utterances):
    train = QuestionDataset(utterances, KINDS, CHOICES, trains=True)
    assert len(train) == 4
    seen = []
    for epoch in range(6):
        train.set_epoch(epoch)
        seen.append([(example.input.kind, example.input.answers) for example in train])
        assert seen[-1] == [(example.input.kind, example.input.answers) for example in train]
    assert len({kinds[0] for row in seen for kinds in row}) == 4
    assert seen[0] != seen[1]
    assert train.lengths() == [1.0, 2.0, 3.0, 4.0]
    assert QuestionDataset(utterances, KINDS, CHOICES).lengths() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4 + [4.0]


def test_questions_that_are_too_many_are_drawn(utterances):
    few, again = (QuestionDataset(utterances, KINDS, CHOICES, seed=3, most=5) for _ in range(2))
    assert len(few) == 5
    assert [example.input.answers for example in few] == [example.input.answers for example in again]


def test_no_question_of_the_kinds_is_an_error(utterances):
    with pytest.raises(ConfigError, match="none of 4 utterances has a question of the kinds energy; expected"):
        QuestionDataset(utterances, ["energy"], {"energy": {"low": "low", "high": "high"}})
    with pytest.raises(ConfigError, match="none of 1 utterances"):  # one text alone has no other to choose from
        QuestionDataset(utterances[:1], ["transcribe"], CHOICES)
