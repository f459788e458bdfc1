import pickle

import numpy as np
import pytest
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.collator import IGNORED, AnswerCollator, answer_forms

LABELS = LabelSet(("hap", "sad"), {"hap": ("joy", "ok"), "sad": ("sad",)})
READS = Prompt("reads", None, (("transcript", ""),), {}, "")
HEARS = Prompt("hears", None, (("audio", ""),), {}, "")
AUDIO, STOP, START = 129, 130, 131


def example(label="hap", transcript="hi", samples=30, name="u"):
    return Example(name, "s", label, transcript, Waveform(np.zeros(samples, np.float32), 100))


def test_answers_keep_the_order_of_labels_and_forms():
    assert answer_forms(LABELS) == [(0, "joy"), (0, "ok"), (1, "sad")]


def test_a_training_row_by_hand(toy):
    batch = AnswerCollator(toy, READS, LABELS, every_answer=False)([example("hap", "hi"), example("sad", "h")])
    prompt = [START, *map(ord, "u:hi"), STOP, START]
    joy, sad = [*map(ord, "joy"), STOP], [*map(ord, "sad"), STOP]
    assert batch["input_ids"].tolist() == [prompt + joy, [START, *map(ord, "u:h"), STOP, START, *sad, 0]]
    assert batch["position_ids"].tolist() == [list(range(11)), [*range(10), 0]]
    assert batch["segment_ids"].tolist() == [[0] * 7 + [1] * 4, [0] * 6 + [1] * 4 + [-1]]
    assert batch["sources"].tolist() == [[[6, 7, 8, 9]], [[5, 6, 7, 8]]]
    assert batch["targets"].tolist() == [[joy], [sad]]
    assert batch["labels"].tolist() == batch["targets"].tolist()
    assert batch["truth"].tolist() == [0, 1]
    assert set(batch) == {"input_ids", "position_ids", "segment_ids", "sources", "targets", "truth", "labels"}


def test_a_scoring_row_packs_every_form(toy):
    batch = AnswerCollator(toy, READS, LABELS, every_answer=True)([example("sad", "h")])
    ids = [START, *map(ord, "u:h"), STOP, START]
    for form in ("joy", "ok", "sad"):
        ids += [*map(ord, form), STOP]
    assert batch["input_ids"].tolist() == [ids]
    assert batch["position_ids"].tolist() == [[*range(6), *range(6, 10), *range(6, 9), *range(6, 10)]]
    assert batch["segment_ids"].tolist() == [[0] * 6 + [1] * 4 + [2] * 3 + [3] * 4]
    assert batch["sources"].tolist() == [[[5, 6, 7, 8], [5, 10, 11, 0], [5, 13, 14, 15]]]
    assert batch["targets"][0, 1].tolist() == [*map(ord, "ok"), STOP, IGNORED]
    assert batch["truth"].tolist() == [1]
    assert "labels" not in batch  # the Trainer would take it for something to count


def test_a_prompt_that_hears_brings_its_audio(toy):
    batch = AnswerCollator(toy, HEARS, LABELS, every_answer=False)([example(samples=30), example(samples=55)])
    assert (batch["input_ids"] == AUDIO).sum(dim=1).tolist() == [3, 5]
    assert batch["audio_frames"].tolist() == [3, 5]
    assert "audio_frames" not in AnswerCollator(toy, READS, LABELS, every_answer=False)([example()])


def test_audio_that_was_not_loaded_is_missed(toy):
    deaf = Example("u7", "s", "hap", "hi", None)
    with pytest.raises(ConfigError, match="utterance u7: the prompt hears, but no audio was loaded"):
        AnswerCollator(toy, HEARS, LABELS, every_answer=True)([deaf])
    assert len(AnswerCollator(toy, READS, LABELS, every_answer=True)([deaf])["truth"]) == 1


def test_forms_of_the_same_tokens_are_refused(make_toy):
    class Shouting(make_toy.tokenizer):
        def __call__(self, words, **settings):
            return super().__call__(words.upper(), **settings)

    class Processor(make_toy.processor):
        tokenizer = Shouting()

    with pytest.raises(ConfigError, match=r"two surface forms of \['hap', 'sad'\] have the same tokens"):
        AnswerCollator(make_toy(Processor()), READS, LabelSet(("hap", "sad"), {"hap": ("Sad",)}), every_answer=True)


def test_a_collator_travels_to_worker_processes(family_collator):
    collator, examples = family_collator
    copy = pickle.loads(pickle.dumps(collator))  # noqa: S301 our own bytes
    first, second = collator(examples), copy(examples)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def family_collator(tiny_folder):
    from lalm_mer.models.families import family_class

    family = family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )
    sound = Waveform(np.linspace(-0.1, 0.1, 8000, dtype=np.float32), 16000)
    return AnswerCollator(family, HEARS, LABELS, every_answer=True), [Example("u", None, "sad", None, sound)]
