"""Audio longer than one window, and behaviour of single families."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import AutoProcessor

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import LanguageInputs
from lalm_mer.prompting.conversation import Conversation, Message, Part

RATE = 16000
OWN = Path(__file__).resolve().parents[2] / "contract/families/own"
WINDOWED = ("audioflamingo3", "musicflamingo", "glmasr")


def opened(name, tiny_folder, dtype="float32"):
    family = family_class(name).load(tiny_folder(name), revision=None, dtype=dtype, attn_implementation="sdpa")
    family.model.eval()
    return family


def noise(seconds, seed):
    values = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * RATE))
    return Waveform(values.astype(np.float32), RATE)


def conversation(words, system=None):
    user = Message("user", (Part("audio"), Part("words", words)))
    return Conversation(((Message("system", (Part("words", system),)),) if system else ()) + (user,))


def run(family, rows, waveforms):
    width = max(map(len, rows))
    ids = torch.tensor([row + [family.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        encoded = family.encode_audio(**family.audio_inputs(waveforms))
        inputs = LanguageInputs(ids, torch.arange(width).expand(len(rows), width), mask)
        ours = family.logits(family.hidden_states(inputs, encoded))
        own = runpy.run_path(str(OWN / f"{family.name}.py"))["own_audio"](family, waveforms)
        own = {name: value for name, value in own.items() if name.startswith("input_features")}
        own = family.model(input_ids=ids, attention_mask=mask, **own).logits
    return ours, own, encoded


@pytest.mark.parametrize("name", WINDOWED)
def test_audio_of_several_windows_is_encoded_as_by_the_model_itself(name, tiny_folder):
    family = opened(name, tiny_folder)
    family.processor.max_audio_len = 7
    assert family.longest_audio_s == 6.0  # full windows of 2 s
    assert family.refuses(6.0) is None
    assert "takes 6 s at most" in family.refuses(6.1)
    waveforms = [noise(0.5, 0), noise(5.3, 1), noise(4.0, 2), noise(1.9, 3)]
    counts = [family.audio_token_count(len(waveform.samples)) for waveform in waveforms]
    rows = [family.prompt_ids(conversation("which\n"), [count]) for count in counts]
    ours, own, encoded = run(family, rows, waveforms)
    assert encoded.lengths.tolist() == counts
    for number, row in enumerate(rows):
        assert_close(ours[number, : len(row)], own[number, : len(row)])
        with torch.no_grad():
            alone = family.encode_audio(**family.audio_inputs(waveforms[number : number + 1])).states[0]
        assert_close(encoded.states[number, : counts[number]], alone)


def test_only_music_flamingo_encodes_later_audio_differently(tiny_folder):
    """The same sound in the first window and in the second: only a rotation by time distinguishes them."""
    once = noise(2.0, 5).samples
    twice = Waveform(np.concatenate([once, once]), RATE)
    for name, same in (("audioflamingo3", True), ("musicflamingo", False)):
        family = opened(name, tiny_folder)
        with torch.no_grad():
            states = family.encode_audio(**family.audio_inputs([twice])).states[0]
        first, second = states.split(len(states) // 2)
        assert bool((first - second).abs().max() <= 1e-5 * first.abs().max()) is same


def test_music_flamingo_marks_where_each_sound_begins_and_ends(tiny_folder):
    family = opened("musicflamingo", tiny_folder)
    turn = Message("user", (Part("audio"), Part("words", "then\n")))
    ids = family.prompt_ids(Conversation((turn, turn)), [2, 3])
    begin, end = family.tokenizer.convert_tokens_to_ids(["<|sound_bos|>", "<|sound_eos|>"])
    marked = [token for token in ids if token in (begin, end, family.audio_token_id)]
    sound = family.audio_token_id
    assert marked == [begin, sound, sound, end, begin, sound, sound, sound, end]
    with pytest.raises(ModelError, match="all three must agree"):
        family.prompt_ids(Conversation((turn, turn)), [2])


def test_qwen3_asr_prompts_equal_the_published_ones_with_all_words_in_the_system_turn(tiny_folder):
    family = opened("qwen3_asr", tiny_folder)
    published = AutoProcessor.from_pretrained(tiny_folder("qwen3_asr"))
    theirs = published.apply_chat_template(
        [
            {"role": "system", "content": [{"type": "text", "text": "Listen.\nWhich emotion?"}]},
            {"role": "user", "content": [{"type": "audio"}]},
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = family.prompt_ids(conversation("Which emotion?", system="Listen."), [1])
    assert family.tokenizer.decode(ids) == theirs
    dropped = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Which emotion?"}]}]
    assert "emotion" not in published.apply_chat_template(dropped, tokenize=False)


def test_qwen3_asr_pads_a_short_clip_with_silence(tiny_folder):
    family = opened("qwen3_asr", tiny_folder)
    assert family.audio_token_count(0) == 0
    assert {family.audio_token_count(samples) for samples in (1, 4000, 8000)} == {7}
    short = noise(0.1, 1)
    filled = Waveform(np.pad(short.samples, (0, 8000 - len(short.samples))), RATE)
    with torch.no_grad():
        one, other = (family.encode_audio(**family.audio_inputs([waveform])).states for waveform in (short, filled))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", [*WINDOWED, "qwen3_asr"])
def test_half_precision_runs_through_both_steps(name, tiny_folder):
    family = opened(name, tiny_folder, dtype="bfloat16")
    waveform = noise(1.0, 1)
    row = family.prompt_ids(conversation("which\n"), [family.audio_token_count(len(waveform.samples))])
    with torch.no_grad():
        encoded = family.encode_audio(**family.audio_inputs([waveform]))
        inputs = LanguageInputs(torch.tensor([row]), torch.arange(len(row))[None], torch.ones(1, len(row)).long())
        logits = family.logits(family.hidden_states(inputs, encoded))
    assert encoded.states.dtype == logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


def test_added_tokens_that_are_not_special_remain_words(tiny_folder):
    family = opened("qwen3_asr", tiny_folder)
    words = "a <asr_text> b <asr_text><|im_end|> <<asr_text>"
    added = family.tokenizer.convert_tokens_to_ids("<asr_text>")
    naive = family.tokenizer(words, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert added in naive  # what the tokenizer would make of it
    ids = family.word_ids(words)
    assert set(ids).isdisjoint(family.tokenizer.added_tokens_decoder)
    assert family.tokenizer.decode(ids) == words
    plain = "Kids are talking by the door."
    assert family.word_ids(plain) == family.tokenizer(plain, add_special_tokens=False)["input_ids"]
    assert family.word_ids("") == []


def test_an_added_token_that_cannot_be_split_is_named(tiny_folder):
    family = opened("qwen3_asr", tiny_folder)
    family.tokenizer.add_tokens(["☃"])
    with pytest.raises(ModelError, match=r"qwen3_asr: its tokenizer reads added tokens in plain words: 'a ☃'"):
        family.word_ids("a ☃")
