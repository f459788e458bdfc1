import pickle

import numpy as np
import pytest
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.answers import answer_forms
from lalm_mer.recognizers.language.collator import IGNORED, AnswerCollator, TrainingAnswerCollator

LABELS = LabelSet(("hap", "sad"), {"hap": ("joy", "ok"), "sad": ("sad",)})
READS = Prompt("reads", None, (("transcript", ""),), {}, "")
WITH_AUDIO = Prompt("with_audio", None, (("audio", ""),), {}, "")
AUDIO, STOP, START = 129, 130, 131


def given(transcript="hi", samples=30, name="u"):
    return Input(name, transcript, Waveform(np.zeros(samples, np.float32), 100), "s")


def example(label="hap", *changes):
    return Example(given(*changes), label)


def test_answers_keep_the_order_of_labels_and_forms():
    assert answer_forms(LABELS) == [(0, "joy"), (0, "ok"), (1, "sad")]


def test_a_training_row_by_hand(toy):
    batch = TrainingAnswerCollator(toy, READS, LABELS)([example("hap", "hi"), example("sad", "h")])
    prompt = [START, *map(ord, "u:hi"), STOP, START]
    joy, sad = [*map(ord, "joy"), STOP], [*map(ord, "sad"), STOP]
    assert batch["input_ids"].tolist() == [prompt + joy, [START, *map(ord, "u:h"), STOP, START, *sad, 0]]
    assert batch["position_ids"].tolist() == [list(range(11)), [*range(10), 0]]
    assert batch["visible_until"].tolist() == [[11] * 11, [10] * 10 + [0]]
    assert batch["sources"].tolist() == [[6, 7, 8, 9], [5, 6, 7, 8]]
    assert batch["source_of"].tolist() == [[[0, 1, 2, 3]]] * 2
    assert batch["targets"].tolist() == [[joy], [sad]]
    assert batch["labels"].tolist() == batch["targets"].tolist()
    assert batch["truth"].tolist() == [0, 1]
    assert batch["label_of_answer"].tolist() == [[0], [1]]
    assert set(batch) == {
        "input_ids", "position_ids", "visible_until", "sources", "source_of", "targets", "label_of_answer", "truth",
        "labels",
    }  # fmt: skip


def test_a_scoring_row_contains_every_form(toy):
    batch = AnswerCollator(toy, READS, LABELS)([given("h"), given("h")])
    ids = [START, *map(ord, "u:h"), STOP, START, *map(ord, "joyoksad")]
    assert batch["input_ids"].tolist() == [ids] * 2
    assert batch["position_ids"].tolist() == [[*range(6), 6, 7, 8, 6, 7, 6, 7, 8]] * 2
    assert batch["visible_until"].tolist() == [[14] * 6 + [9] * 3 + [11] * 2 + [14] * 3] * 2
    assert batch["sources"].tolist() == [list(range(5, 14))] * 2
    assert batch["source_of"].tolist() == [[[0, 1, 2, 3], [0, 4, 5, 0], [0, 6, 7, 8]]] * 2
    assert batch["targets"][0, 1].tolist() == [*map(ord, "ok"), STOP, IGNORED]
    assert batch["label_of_answer"].tolist() == [[0, 0, 1]] * 2
    # no truth, for an input has none; no labels, for the Trainer would count them
    assert set(batch) == {
        "input_ids", "position_ids", "visible_until", "sources", "source_of", "targets", "label_of_answer",
    }  # fmt: skip


def test_the_batch_of_a_prompt_with_audio_has_audio(toy):
    batch = AnswerCollator(toy, WITH_AUDIO, LABELS)([given(samples=30), given(samples=55)])
    assert (batch["input_ids"] == AUDIO).sum(dim=1).tolist() == [3, 5]
    assert batch["audio_frames"].tolist() == [3, 5]
    trained = TrainingAnswerCollator(toy, WITH_AUDIO, LABELS)([example("hap", "hi", 30), example("sad", "hi", 55)])
    assert trained["audio_frames"].tolist() == [3, 5]
    assert "audio_frames" not in AnswerCollator(toy, READS, LABELS)([given()])
    assert "audio_frames" not in TrainingAnswerCollator(toy, READS, LABELS)([example()])


def test_missing_audio_is_refused(toy):
    without_audio = Input("u7", "hi", None)
    for collator, item in ((AnswerCollator, without_audio), (TrainingAnswerCollator, Example(without_audio, "hap"))):
        with pytest.raises(ConfigError, match="utterance u7: the prompt uses audio, but none was loaded"):
            collator(toy, WITH_AUDIO, LABELS)([item])
        assert len(collator(toy, READS, LABELS)([item])["input_ids"]) == 1


def test_forms_of_the_same_tokens_are_refused(make_toy):
    class Shouting(make_toy.tokenizer):
        def __call__(self, words, **settings):
            return super().__call__(words.upper(), **settings)

    class Processor(make_toy.processor):
        tokenizer = Shouting()

    with pytest.raises(ConfigError, match=r"two surface forms of \['hap', 'sad'\] have the same tokens"):
        AnswerCollator(make_toy(Processor()), READS, LabelSet(("hap", "sad"), {"hap": ("Sad",)}))


@pytest.mark.parametrize("collator_class", [AnswerCollator, TrainingAnswerCollator])
def test_a_collator_runs_in_worker_processes(collator_class, tiny_folder):
    from lalm_mer.models.families import family_class

    family = family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )
    with_sound = Input("u", None, Waveform(np.linspace(-0.1, 0.1, 8000, dtype=np.float32), 16000))
    items = [with_sound if collator_class is AnswerCollator else Example(with_sound, "sad")]
    collator = collator_class(family, WITH_AUDIO, LABELS)
    copy = pickle.loads(pickle.dumps(collator))  # noqa: S301 our own bytes
    first, second = collator(items), copy(items)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
