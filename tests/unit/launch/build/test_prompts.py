"""Prompts of settings, and settings that do not fit."""

from types import SimpleNamespace

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.language import LanguageBuilder
from lalm_mer.launch.build.prompts import open_prompts, take_shots
from lalm_mer.launch.config.sections import (
    AdapterSettings,
    DataSettings,
    FinetuneOutputSettings,
    ModelSettings,
    OutputSettings,
    PromptSettings,
    SplitSettings,
)
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings

LABELS = LabelSet(("hap", "ang", "sad", "neu"))
PLACE = (DataSettings(""), SplitSettings(""))


def scoring(file="prompts/audio.yaml", **prompt):
    return ZeroShotSettings(*PLACE, ModelSettings("", ""), OutputSettings(""), PromptSettings(file, **prompt))


def learning(file="prompts/audio.yaml", **prompt):
    model, adapter = ModelSettings("", ""), AdapterSettings({})
    return FinetuneSettings(*PLACE, model, FinetuneOutputSettings(""), PromptSettings(file, **prompt), adapter)


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (1, [("hap", "ang", "sad", "neu")]),
        (2, [("hap", "ang", "sad", "neu"), ("sad", "neu", "hap", "ang")]),
        (4, [("hap", "ang", "sad", "neu"), ("ang", "sad", "neu", "hap"), ("sad", "neu", "hap", "ang"),
             ("neu", "hap", "ang", "sad")]),
    ],
)  # fmt: skip
def test_label_lists_are_rotated_so_that_every_label_has_every_position(orders, expected):
    assert list(open_prompts(scoring(label_orders=orders), LABELS).orders) == expected


def test_everything_that_scores_depend_on_is_in_the_digests():
    plain = open_prompts(scoring(), LABELS)
    several = open_prompts(scoring(also=["prompts/brief_audio.yaml"]), LABELS)
    assert set(plain.digests()) == {"prompt"}
    assert set(several.digests()) == {"prompt", "also"}
    assert several.digests()["prompt"] == plain.digests()["prompt"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (scoring(also=["prompts/audio_transcript.yaml"]), "'prompt.also': prompts/audio_transcript.yaml uses audio"),
        (scoring(label_orders=5), "'prompt.label_orders': 5; expected 1 to 4"),
        (scoring("prompts/brief_audio.yaml", label_orders=2), "a prompt lists no labels"),
        (scoring(context_turns=3), "'prompt.context_turns': 3, and the prompt has no slot"),
        (scoring("prompts/dialogue/transcript.yaml"), "'prompt.context_turns': 0, and the prompt has a slot"),
        (learning(label_orders=2), "ways of scoring"),
        (learning(also=["prompts/brief_audio.yaml"]), "ways of scoring"),
        (learning(label_score="pmi"), "ways of scoring"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        open_prompts(settings, LABELS)


class Train(list):
    """Examples of a split, with the methods used here."""

    def truths(self):
        return [example.label for example in self]

    def select(self, indices):
        return Train(self[index] for index in indices)


@pytest.fixture
def data():
    rows = [Example(Input(f"u{n}", None, None), LABELS.labels[n % 4]) for n in range(12)]
    return RunData(None, Train(rows), None, None, [], {})


def test_shots_are_drawn_from_train_and_removed_from_it(data):
    setup = open_prompts(scoring(shots=4), LABELS)
    family = SimpleNamespace(name="toy", single_turn_reason=None)
    shown, rest = take_shots(setup, data, PromptSettings("", shots=4), family, seed=0)
    drawn = {shot.input.utterance_id for shot in shown.shots}
    assert sorted(shot.label for shot in shown.shots) == sorted(LABELS.labels)
    assert drawn | {row.input.utterance_id for row in rest.train} == {f"u{n}" for n in range(12)}
    assert not drawn & {row.input.utterance_id for row in rest.train}
    assert "shots" in shown.digests()
    assert shown.digests() != take_shots(setup, data, PromptSettings("", shots=4), family, seed=1)[0].digests()
    assert len(shown.shots) == 4


def test_shots_that_a_family_does_not_support_are_refused(data):
    family = SimpleNamespace(name="toy", single_turn_reason="it takes one waveform")
    with pytest.raises(ConfigError, match="toy: it takes one waveform"):
        take_shots(open_prompts(scoring(), LABELS), data, PromptSettings("", shots=2), family, seed=0)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (
            SimpleNamespace(name="leaky", batch_tolerance=0.5, single_pass_reason=None),
            "scores of leaky differ by up to 0.5",
        ),
        (
            SimpleNamespace(name="generic", batch_tolerance=float("inf"), single_pass_reason="so"),
            "generic takes one utterance at a time: set",
        ),
    ],
)
def test_batches_are_refused_for_a_family_that_needs_single_utterances(family, says):
    with pytest.raises(ConfigError, match=rf"'scoring.per_device_eval_batch_size': 8; {says}"):
        LanguageBuilder().check(family, scoring())
