from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import BertModel

from lalm_mer.core.errors import ConfigError, CorpusError, ModelError
from lalm_mer.models.encoders.pretrained_text import PretrainedText
from lalm_mer.models.encoders.settings import ScratchSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.learnt_text import load_tokenizer, train_tokenizer

SCRATCH = TextEncoderSettings(kind="scratch")
TRAIN = ["it was lovely", "it was dreadful", "very very lovely", "sep mask"]


def with_transcript(example, transcript):
    return dataclasses.replace(example, transcript=transcript)


def test_special_tokens_in_a_transcript_are_plain_characters(inputs, bert_folder):
    scratch = train_tokenizer(["[ ] sep mask cls pad unk", *TRAIN], ScratchSettings())
    for tokenizer in (scratch, PretrainedText(bert_folder)._transcripts):
        special = set(tokenizer.tokenizer.all_special_ids) - {tokenizer.tokenizer.unk_token_id}
        ids = tokenizer.ids(with_transcript(inputs[0], "lovely [SEP] [MASK] [CLS] [PAD] dreadful"))
        assert ids[0] == tokenizer.tokenizer.cls_token_id
        assert ids[-1] == tokenizer.tokenizer.sep_token_id
        assert not special & set(ids[1:-1])
    plain = scratch.tokenizer.convert_ids_to_tokens(scratch.ids(with_transcript(inputs[0], "lovely [SEP]")))
    assert plain == ["[CLS]", "lovely", "[", "sep", "]", "[SEP]"]


def test_tokenizer_is_trained_on_the_train_split_only():
    vocabulary = train_tokenizer(TRAIN, ScratchSettings()).tokenizer.get_vocab()
    assert "dreadful" in vocabulary
    assert "horrid" not in vocabulary
    with pytest.raises(CorpusError, match="no transcript to train"):
        train_tokenizer([" "], ScratchSettings())


def test_saved_tokenizer_gives_the_same_ids_and_no_padding(tmp_path, inputs):
    tokenizer = train_tokenizer(TRAIN, ScratchSettings())
    tokenizer.tokenizer(TRAIN, padding=True)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path, SCRATCH)
    assert again.ids(inputs[0]) == tokenizer.ids(inputs[0])
    assert again.ids(with_transcript(inputs[0], "[SEP]")) == tokenizer.ids(with_transcript(inputs[0], "[SEP]"))
    assert again.tokenizer.backend_tokenizer.padding is None
    with pytest.raises(ModelError, match="cannot read a tokenizer"):
        load_tokenizer(tmp_path / "absent", SCRATCH)


def test_missing_and_too_long_transcripts_name_the_utterance(inputs, bert_folder):
    bert = PretrainedText(bert_folder)
    with pytest.raises(CorpusError, match="utterance u00: no transcript"):
        bert.extract(with_transcript(inputs[0], None))
    with pytest.raises(CorpusError, match="utterance u00: its transcript has 52 tokens, the model takes 40"):
        bert.extract(with_transcript(inputs[0], "very " * 50))


def test_frozen_bert_returns_its_last_hidden_states(inputs, bert_folder):
    bert = PretrainedText(bert_folder)
    ids = torch.tensor([bert._transcripts.ids(inputs[0])])
    with torch.no_grad():
        expected = BertModel.from_pretrained(bert_folder).eval()(ids).last_hidden_state[0]
    frames = bert.extract(inputs[0])
    assert frames.shape == (ids.shape[1], bert.size)
    assert_close(frames, expected, 1e-6)
    np.testing.assert_array_equal(bert.extract(inputs[0]), frames)  # no dropout
    assert bert.extract(with_transcript(inputs[0], "")).shape[0] == 2  # the special tokens


def test_frozen_bert_settings_follow_the_weights(tmp_path, bert_folder):
    bert = PretrainedText(bert_folder)
    assert pickle.loads(pickle.dumps(bert)).settings() == bert.settings()  # noqa: S301 our own
    changed = BertModel.from_pretrained(bert_folder)
    with torch.no_grad():
        changed.embeddings.word_embeddings.weight[0, 0] += 1
    changed.save_pretrained(tmp_path)
    bert._transcripts.save(tmp_path)
    assert PretrainedText(str(tmp_path)).settings()["weights"] != bert.settings()["weights"]


def test_a_folder_without_safetensors_is_refused(tmp_path, bert_folder):
    model = BertModel.from_pretrained(bert_folder)
    model.config.save_pretrained(tmp_path)
    PretrainedText(bert_folder)._transcripts.save(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        PretrainedText(str(tmp_path))


def test_scratch_settings_out_of_range():
    with pytest.raises(ConfigError, match="multiple of heads"):
        ScratchSettings(size=65)
