import json

import pytest
import torch
from closeness import assert_close
from peft import LoraConfig, get_peft_model
from torch import nn

from lalm_mer.core.errors import ModelError
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.models.families.phi4_multimodal import Phi4Multimodal
from lalm_mer.recognizers.language.generation import generate

SHAPE = TinyShape(("one two three", "three four"), 1, hidden_size=32, initializer_range=0.1)


def load(folder):
    return Phi4Multimodal.load(folder, revision=None, dtype="float32", attn_implementation="sdpa")


@pytest.fixture
def tiny(tmp_path):
    Phi4Multimodal.build_tiny(tmp_path, SHAPE)
    return tmp_path


@pytest.fixture
def published(tiny):
    """Weights marked as trained, and the model with the adapter of their folder."""
    torch.manual_seed(0)
    adapted = get_peft_model(load(tiny).model, LoraConfig(r=4, target_modules=r"model\.layers\..*(qkv|o|down)_proj"))
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tiny / "speech-lora")
    config = json.loads((tiny / "config.json").read_text())
    del config["randomly_initialised"]
    (tiny / "config.json").write_text(json.dumps(config))
    return tiny, adapted.eval()


def test_the_adapter_for_speech_is_merged(published, tmp_path):
    folder, adapted = published
    family = load(folder)
    ids = torch.tensor([family.word_ids("one two three four")])
    with torch.no_grad():
        theirs = adapted(input_ids=ids).logits
        assert_close(family.model(ids).logits, theirs)
        with adapted.disable_adapter():
            assert (family.model(ids).logits - adapted(input_ids=ids).logits).abs().max() > 1e-2
    assert not any("lora_" in name for name, _ in family.model.named_parameters())
    family.model.save_pretrained(tmp_path / "copy")
    type(family).load_processor(str(folder), None).save_pretrained(tmp_path / "copy")
    with torch.no_grad():
        assert_close(load(tmp_path / "copy").model(ids).logits, theirs)


def test_trained_weights_without_it_are_refused(published):
    folder, _ = published
    (folder / "speech-lora" / "adapter_model.safetensors").rename(folder / "speech-lora" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"speech-lora: no adapter_model.safetensors; expected an adapter"):
        load(folder)
    (folder / "speech-lora" / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"no adapter in its folder 'speech-lora'; .* is not trained to use audio"):
        load(folder)


def test_a_projector_inside_its_tower_is_adapted_separately(tiny):
    family = load(tiny)
    assert set(dict(family.submodule("projector").named_children())) == {"up_proj_for_speech", "down_proj_for_speech"}
    _, report = add_adapter(family, {"audio_tower": [ALL_LINEAR]}, {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0})
    modules = {row.tower: row.modules for row in report}
    assert modules["audio_tower"] > 0
    assert modules["projector"] == modules["language_model"] == 0


@pytest.fixture
def long_positions(tiny):
    """The tiny model with rotary positions that change for all tokens of a row of more than 40, as published (4096)."""
    config = json.loads((tiny / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
    config["original_max_position_embeddings"] = 40
    (tiny / "config.json").write_text(json.dumps(config))
    family = load(tiny)
    family.model.eval()
    return family


@pytest.mark.parametrize(("length", "kept"), [(20, True), (24, True), (36, False), (40, False), (41, True), (60, True)])
def test_answers_are_those_of_full_passes_where_positions_change_with_the_length(
    long_positions, monkeypatch, length, kept
):
    family = long_positions
    batch = {"input_ids": torch.arange(length)[None] * 7 % 200 + 5, "prompt_lengths": torch.tensor([length])}
    found = generate(family, **batch, max_new_tokens=16)
    monkeypatch.setattr(type(family), "keeps_keys", lambda *_: False)
    full = generate(family, **batch, max_new_tokens=16)
    monkeypatch.setattr(type(family), "keeps_keys", lambda *_: True)
    stored = generate(family, **batch, max_new_tokens=16)
    assert found == full
    assert (stored == full) is kept
