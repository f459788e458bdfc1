import pytest
import torch

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models import families
from lalm_mer.models.families import FAMILIES, family_class
from lalm_mer.models.families.parts.in_place import fill_placeholders
from lalm_mer.prompting.conversation import Conversation, Message, Part


def conversation(*parts):
    return Conversation((Message("user", parts),))


def test_a_family_is_found_by_its_name():
    for name in FAMILIES:
        family = family_class(name)
        assert family_class(name) is family
        assert family.name == name
    with pytest.raises(ConfigError, match=r"family 'qwen': expected one of .*qwen2_audio"):
        family_class("qwen")


def test_a_family_that_needs_a_newer_transformers_says_so(monkeypatch):
    monkeypatch.setitem(families.NEEDED_TRANSFORMERS, "qwen2_audio", "99.1")
    with pytest.raises(ModelError, match=r"family qwen2_audio needs transformers 99\.1 or newer, found \d+\.\d"):
        family_class("qwen2_audio")


def test_a_model_without_a_named_tower_is_refused(make_toy):
    with pytest.raises(ModelError, match="toy: no module 'audio' for the audio_tower in Module"):
        make_toy(towers={"language_model": "lm", "projector": "projector", "audio_tower": "audio"})


@pytest.mark.parametrize("name", ["stop_token", "audio_token"])
def test_a_token_outside_the_vocabulary_is_refused(make_toy, name):
    with pytest.raises(ModelError, match="token '<none>' is not in the vocabulary"):
        make_toy(**{name: "<none>"})


def test_slots_are_expanded_and_words_remain_characters(toy):
    ids = toy.prompt_ids(conversation(Part("words", "a<stop>"), Part("audio"), Part("words", "<audio>")), [3])
    start, stop, audio = 131, 130, 129
    expected = [start, *map(ord, "u:a<stop>"), audio, audio, audio, *map(ord, "<audio>"), stop, start]
    assert ids == expected


@pytest.mark.parametrize("counts", [[], [2, 2]])
def test_slots_and_waveforms_must_agree(toy, counts):
    with pytest.raises(ModelError, match=f"1 audio slots, 1 placeholders .* and {len(counts)} waveforms"):
        toy.prompt_ids(conversation(Part("audio")), counts)


def test_a_template_without_placeholder_is_refused(make_toy):
    class WithoutPlaceholder(make_toy.processor):
        def apply_chat_template(self, messages, **settings):
            return super().apply_chat_template(messages, **settings).replace("<audio>", "")

    with pytest.raises(ModelError, match="1 audio slots, 0 placeholders"):
        make_toy(WithoutPlaceholder()).prompt_ids(conversation(Part("audio")), [2])


def test_a_tokenizer_that_reads_added_tokens_in_words_is_refused(make_toy):
    class Naive(make_toy.tokenizer):
        def __call__(self, words, add_special_tokens=False, split_special_tokens=False):
            return super().__call__(words)

    class Processor(make_toy.processor):
        tokenizer = Naive()

    family = make_toy(Processor())
    assert family.word_ids("calm") == [*map(ord, "calm")]
    with pytest.raises(ModelError, match="reads added tokens in plain words: 'so <stop>'"):
        family.word_ids("so <stop>")


def test_answers_end_with_the_stop_token(toy):
    assert toy.answer_ids("sad") == [*map(ord, "sad"), 130]


def test_durations_that_a_family_cannot_take(toy):
    assert toy.refuses(2.0) is None
    assert toy.refuses(0.1) is None
    assert toy.refuses(2.004) == "2.00 s long; toy takes 2 s at most"
    assert toy.refuses(0.09) == "0.090 s is too short for one audio token of toy"


def test_random_weights_are_marked(toy):
    assert not toy.randomly_initialised
    toy.model.config.randomly_initialised = True
    assert toy.randomly_initialised


def test_placeholders_are_filled_in_order_and_nothing_else():
    embeddings = torch.zeros(2, 4, 1)
    is_audio = torch.tensor([[False, True, True, False], [True, False, False, False]])
    projected = torch.tensor([[[1.0], [2.0], [99.0]], [[3.0], [99.0], [99.0]]])
    filled = fill_placeholders(embeddings, is_audio, projected, torch.tensor([2, 1]), "toy")
    assert filled[..., 0].tolist() == [[0, 1, 2, 0], [3, 0, 0, 0]]
    with pytest.raises(ModelError, match="toy: 3 placeholders for 2 frames of audio"):
        fill_placeholders(embeddings, is_audio, projected, torch.tensor([1, 1]), "toy")
