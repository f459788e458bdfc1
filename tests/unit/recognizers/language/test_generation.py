"""Greedy decoding by hand: a toy whose next token is a function of the last."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.collator import PromptCollator
from lalm_mer.recognizers.language.generation import decode_answer, generate, stop_ids

LABELS = LabelSet(("happy", "sad"))
READS = Prompt("reads", None, (("transcript", ""),), {}, "")
WITH_AUDIO = Prompt("with_audio", None, (("audio", ""),), {}, "")
AUDIO, STOP, START = 129, 130, 131


def given(transcript="hi", samples=30):
    return Input("u", transcript, Waveform(np.zeros(samples, np.float32), 100), "s")


@pytest.fixture
def chain(make_toy):
    """A maker of toys that answer START by the first of some tokens, and each of them by the next."""

    def make(*tokens, **attributes):
        following = dict(zip((START, *tokens), tokens, strict=False))

        def hidden_states(self, inputs, audio, cache=None):
            return torch.nn.functional.one_hot(inputs.input_ids, 160).float()

        def logits(self, hidden):
            scores = torch.zeros_like(hidden)
            for row, last in enumerate(hidden.argmax(-1).tolist()):
                scores[row, following.get(last, ord("~"))] = 2.0
                scores[row, ord("?")] = 1.0
            return scores

        return make_toy(hidden_states=hidden_states, logits=logits, **attributes)

    return make


def say(family, *inputs, tokens=8, prompt=READS):
    return generate(family, **PromptCollator(family, prompt, LABELS)(inputs), max_new_tokens=tokens)


def test_an_answer_ends_at_the_stop_token(chain):
    family = chain(*map(ord, "sad"), STOP)
    assert say(family, given("hi"), given("a longer one")) == [[*map(ord, "sad")]] * 2


def test_an_answer_without_stop_token_ends_at_max_new_tokens(chain):
    assert say(chain(*map(ord, "ab")), given(), tokens=5) == [[*map(ord, "ab~~~")]]
    assert say(chain(*map(ord, "ab")), given(), tokens=1) == [[ord("a")]]


def test_an_answer_may_be_empty(chain):
    assert say(chain(STOP), given(), given()) == [[], []]


def test_each_answer_stops_by_itself(chain):
    """The answer of a row depends on its last token, here the last letter of its transcript of one or two words."""
    family = chain(*map(ord, "sad"), STOP)
    batch = PromptCollator(family, READS, LABELS)([given("hi"), given("hi there")])
    ends = batch["prompt_lengths"]
    batch["input_ids"][0, ends[0] - 1] = ord("a")
    assert generate(family, **batch, max_new_tokens=8) == [[ord("d")], [*map(ord, "sad")]]
    assert generate(family, **batch, max_new_tokens=2) == [[ord("d")], [*map(ord, "sa")]]


def test_other_stop_tokens_end_an_answer(chain):
    family = chain(ord("x"), ord("y"), STOP)
    family.model.generation_config = SimpleNamespace(eos_token_id=[ord("y"), STOP])
    assert stop_ids(family) == {ord("y"), STOP}
    assert say(family, given()) == [[ord("x")]]


def test_the_audio_placeholder_is_never_generated(chain):
    assert say(chain(AUDIO), given(), tokens=2) == [[ord("?"), ord("~")]]


def test_special_tokens_are_not_decoded(tiny_folder):
    from lalm_mer.models.families import family_class

    family = family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )
    special = family.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert decode_answer(family, [special, *family.word_ids(" happy"), special]) == "happy"
    assert decode_answer(family, []) == ""


def test_a_batch_of_prompts_by_hand(toy):
    batch = PromptCollator(toy, WITH_AUDIO, LABELS)([given(samples=30), given(samples=55)])
    short = [START, *map(ord, "u:"), *[AUDIO] * 3, STOP, START]
    assert batch["input_ids"].tolist() == [[*short, 0, 0], [*short[:3], *[AUDIO] * 5, STOP, START]]
    assert batch["prompt_lengths"].tolist() == [8, 10]
    assert batch["audio_frames"].tolist() == [3, 5]
    assert set(PromptCollator(toy, READS, LABELS)([given()])) == {"input_ids", "prompt_lengths"}


def test_missing_audio_is_refused(toy):
    with pytest.raises(ConfigError, match="utterance u7: the prompt uses audio, but none was loaded"):
        PromptCollator(toy, WITH_AUDIO, LABELS)([Input("u7", "hi", None)])


def test_a_collator_runs_in_worker_processes(tiny_folder):
    from lalm_mer.models.families import family_class

    family = family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )
    sound = Waveform(np.linspace(-0.1, 0.1, 8000, dtype=np.float32), 16000)
    collator, inputs = PromptCollator(family, WITH_AUDIO, LABELS), [Input("u", None, sound)]
    first, second = collator(inputs), pickle.loads(pickle.dumps(collator))(inputs)  # noqa: S301 our own bytes
    assert all(torch.equal(first[name], second[name]) for name in first)
