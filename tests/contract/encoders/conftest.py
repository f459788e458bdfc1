"""Tiny random models of real architectures, in local folders."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    HubertConfig,
    HubertModel,
    RobertaConfig,
    RobertaModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from lalm_mer.models.clap import Clap
from lalm_mer.models.encoders.settings import ScratchSettings
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer

WAVEFORM = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8, 8),
    "conv_kernel": (10, 8), "conv_stride": (10, 8), "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _waveform_model(kind, config, folder):
    kind(config(**WAVEFORM)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def _whisper(folder):
    config = WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=20, max_source_positions=100, vocab_size=60,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)


def _ast(folder):
    config = ASTConfig(**TEXT, max_length=104, num_mel_bins=32, patch_size=16, frequency_stride=16, time_stride=16)
    ASTModel(config).save_pretrained(folder)
    ASTFeatureExtractor(max_length=104, num_mel_bins=32).save_pretrained(folder)


def _clap(folder):
    Clap.build_tiny(folder, TinyShape(("it was lovely",), 2, 32, 1, 320, 0.1))


MODELS = {
    "wav2vec2": lambda folder: _waveform_model(Wav2Vec2Model, Wav2Vec2Config, folder),
    "hubert": lambda folder: _waveform_model(HubertModel, HubertConfig, folder),
    "wavlm": lambda folder: _waveform_model(WavLMModel, WavLMConfig, folder),
    "whisper": _whisper,
    "ast": _ast,
    "clap": _clap,
}


@pytest.fixture(scope="session")
def audio_model(tmp_path_factory):
    """The folder of a tiny model of an architecture."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            MODELS[name](made[name])
        return str(made[name])

    return make


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """The folder of a tiny model of an architecture, with a tokenizer of whole words."""
    kinds = {
        "bert": (BertModel, BertConfig), "roberta": (RobertaModel, RobertaConfig),
        "distilbert": (DistilBertModel, DistilBertConfig),
    }  # fmt: skip

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        tokenizer = train_tokenizer(["it was lovely", "it was dreadful", "very very"], ScratchSettings())
        tokenizer.save(folder)
        model, config = kinds[name]
        torch.manual_seed(0)
        model(config(vocab_size=len(tokenizer.tokenizer), max_position_embeddings=40, **TEXT)).save_pretrained(folder)
        return str(folder)

    return make
