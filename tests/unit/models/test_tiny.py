import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models.families import FAMILIES, family_class
from lalm_mer.models.tiny import build_tiny

SMALL = {"words": ["one two three", "three four"], "window_s": 1, "hidden_size": 32, "layers": 1}


@pytest.fixture(autouse=True)
def openable(request):
    """Skip a family if its tokenizer is not installed."""
    family = getattr(request.node, "callspec", None) and request.node.callspec.params.get("family")
    if family and (required := family_class(family).required_module):
        pytest.importorskip(required, reason=f"the extra `{family}` is not installed")


def test_a_model_that_lacks_weights_is_refused(tmp_path):
    build_tiny("qwen2_audio", tmp_path, **SMALL, vocabulary=300)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[min(name for name in weights if "audio_tower" in name)]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for 1 of its tensors, such as .*audio_tower"):
        family_class("qwen2_audio").load(tmp_path, revision=None, dtype="float32", attn_implementation="sdpa")


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"hidden_size=33, layers=1 cannot be built: .*divisible"):
        build_tiny("qwen2_audio", tmp_path, **SMALL | {"hidden_size": 33}, vocabulary=300)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_can_be_built_and_is_marked_as_random(family, tiny_folder):
    loaded = family_class(family).load(tiny_folder(family), revision=None, dtype="float32", attn_implementation="sdpa")
    assert loaded.randomly_initialised
    assert loaded.longest_audio_s == 2.0
    assert not list(tiny_folder(family).glob("*.bin"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_seed_gives_the_same_bytes_and_another_seed_other_weights(family, tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        build_tiny(family, tmp_path / name, seed=seed, **SMALL)
    assert contents(tmp_path / "first") == contents(tmp_path / "again")
    first, other = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "other"))
    assert first.keys() == other.keys()
    assert any(not torch.equal(first[name], other[name]) for name in first)
    (file,) = [name for name in ("tokenizer.json", "tekken.json") if (tmp_path / "first" / name).is_file()]
    tokenizers = [(tmp_path / name / file).read_bytes() for name in ("first", "other")]
    assert tokenizers[0] == tokenizers[1]


def test_the_order_of_words_does_not_matter(tmp_path):
    build_tiny("qwen2_audio", tmp_path / "a", **SMALL)
    build_tiny("qwen2_audio", tmp_path / "b", **SMALL | {"words": SMALL["words"][::-1]})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_callers_random_state_is_not_changed(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_tiny("qwen2_audio", tmp_path / "a", **SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_sizes_are_those_given(tmp_path):
    build_tiny("qwen2_audio", tmp_path / "a", **SMALL | {"layers": 3, "hidden_size": 64}, vocabulary=300)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == config["audio_config"]["encoder_layers"] == 3
    assert config["text_config"]["hidden_size"] == config["audio_config"]["d_model"] == 64
    assert config["text_config"]["vocab_size"] <= 300
    assert config["audio_config"]["max_source_positions"] == 50  # 1 s


def test_the_tokenizer_encodes_any_string(tmp_path):
    build_tiny("qwen2_audio", tmp_path / "a", **SMALL)
    family = family_class("qwen2_audio").load(
        tmp_path / "a", revision=None, dtype="float32", attn_implementation="eager"
    )
    for words in ("three four", "ÄÖ", "你好", "\x00\t", "<|im_end|>"):
        assert family.tokenizer.decode(family.word_ids(words)) == words


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"family 'gpt': expected one of .*qwen2_audio"):
        build_tiny("gpt", tmp_path / "a", **SMALL)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_folder_that_is_no_model_is_named_in_one_line(family, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        family_class(family).load(tmp_path, revision=None, dtype="float32", attn_implementation="sdpa")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_pickled_weights_are_not_read(family, tmp_path, tiny_folder):
    for path in tiny_folder(family).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(tiny_folder(family) / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        family_class(family).load(tmp_path, revision=None, dtype="float32", attn_implementation="sdpa")
