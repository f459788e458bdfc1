import json

import numpy as np
import pytest
import torch
from closeness import assert_close
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from lalm_mer.core.errors import ModelError
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.granite_speech import GraniteSpeech, TorchMelExtractor
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.conversation import Conversation, Message, Part

SHAPE = TinyShape(("one two three", "three four"), 1, hidden_size=32, initializer_range=0.1)


def load(folder):
    return GraniteSpeech.load(folder, revision=None, dtype="float32", attn_implementation="sdpa")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("granite_speech")
    GraniteSpeech.build_tiny(folder, SHAPE)
    return folder


@pytest.fixture
def with_adapter(folder, tmp_path):
    """The weights with an adapter in their folder, as published."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def make(std):
        torch.manual_seed(0)
        model = get_peft_model(load(folder).model, LoraConfig(r=4, target_modules=r".*language_model.*\.[qv]_proj"))
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=std)
        model.save_pretrained(tmp_path)
        return tmp_path, model.eval()

    return make


def test_mel_bands_are_those_of_another_implementation():
    samples = np.random.default_rng(0).normal(scale=0.1, size=4801).astype(np.float32)
    filters = mel_filter_bank(257, 80, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    mel = spectrogram(
        samples, window_function(400, "hann"), 400, 160, fft_length=512, power=2.0, mel_filters=filters, mel_floor=1e-10
    )
    log_mel = np.log10(mel.T)
    expected = np.maximum(log_mel, log_mel.max() - 8) / 4 + 1
    features = TorchMelExtractor()([samples])["input_features"]
    assert features.shape == (1, 15, 160)
    assert_close(features[0].reshape(-1, 80), expected[:30], 1e-4)


def test_a_saved_extractor_has_the_name_of_transformers_own(folder):
    saved = json.loads((folder / "processor_config.json").read_text())
    assert saved["audio_processor"]["feature_extractor_type"] == "GraniteSpeechFeatureExtractor"


def test_the_adapter_of_the_weights_is_merged(with_adapter):
    folder, adapted = with_adapter(0.2)
    family = load(folder)
    ids = torch.tensor([family.word_ids("one two three four")])
    with torch.no_grad():
        assert_close(family.model(ids).logits, adapted(input_ids=ids).logits)
        with adapted.disable_adapter():
            assert (family.model(ids).logits - adapted(input_ids=ids).logits).abs().max() > 1e-2
    assert not any("lora_" in name for name, _ in family.model.named_parameters())
    family.model.save_pretrained(folder / "copy")
    family.processor.save_pretrained(folder / "copy")
    with torch.no_grad():
        torch.testing.assert_close(load(folder / "copy").model(ids).logits, family.model(ids).logits)
    _, report = add_adapter(family, {"language_model": ["q_proj"]}, {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0})
    assert report[-1].modules == 2


def test_an_empty_adapter_is_an_error(with_adapter):
    folder, _ = with_adapter(0.0)
    with pytest.raises(ModelError, match="granite_speech: the adapter of the weights has no tensors in this model"):
        load(folder)


def test_a_pickled_adapter_of_the_weights_is_not_read(with_adapter):
    folder, _ = with_adapter(0.2)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=rf"{folder}: no adapter_model.safetensors; expected an adapter saved by peft"):
        load(folder)


def test_a_prompt_has_no_date(folder):
    family = load(folder)
    family.tokenizer.chat_template = "{{ strftime_now('%Y') }}"  # such a template is refused
    ids = family.prompt_ids(Conversation((Message("user", (Part("audio"), Part("words", "three"))),)), [3])
    said = family.tokenizer.decode(ids)
    assert said.startswith("<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n")
    assert said.endswith(
        "<|start_of_role|>user<|end_of_role|><|audio|><|audio|><|audio|>three<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    )


def test_logits_are_scaled_as_the_language_model_was_trained(folder):
    family = load(folder)
    hidden = torch.ones(1, 32)
    with torch.no_grad():
        before = family.logits(hidden)
        family.model.config.text_config.logits_scaling = 8.0
        torch.testing.assert_close(family.logits(hidden) * 8, before)


def test_training_does_not_change_the_statistics_of_a_frozen_tower(folder):
    family = load(folder)
    family.model.train()
    before = {name: value.clone() for name, value in family.model.named_buffers() if "running" in name}
    family.encode_audio(audio_features=torch.randn(2, 30, 160), audio_frames=torch.tensor([30, 20]))
    assert before
    for name, value in family.model.named_buffers():
        if name in before:
            assert torch.equal(value, before[name])
