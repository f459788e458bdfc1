"""Models from their config alone."""

import pytest
import torch

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models.families import family_class
from lalm_mer.models.from_config import random_weights, write_config
from lalm_mer.recognizers.memory import stored_bytes

QWEN = family_class("qwen2_audio")
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1}  # fmt: skip
AUDIO = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "num_mel_bins": 128}


def write(folder, **changes):
    sizes = {"audio_config": AUDIO, "text_config": TEXT}
    options = {"sizes": sizes, "words": ["happy sad"], "window_s": 2, "vocabulary": 300, "initializer_range": 0.02}
    write_config(QWEN, folder, **options | changes)
    return folder


def load(folder, device="cpu", seed=0, **options):
    with random_weights(device, seed):
        return QWEN.load(folder, **options)


def test_tower_and_language_model_have_their_own_sizes_and_no_weights_are_written(tmp_path):
    family = load(write(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))
    assert len(family.submodule("audio_tower").layers) == 3
    assert family.submodule("audio_tower").conv1.weight.shape[:2] == (32, 128)
    assert family.submodule("language_model").embed_tokens.embedding_dim == 64
    assert family.processor.feature_extractor.feature_size == 128
    assert family.longest_audio_s == 2.0
    assert family.randomly_initialised


def test_the_seed_determines_the_weights_and_the_generator_of_the_caller_is_kept(tmp_path):
    write(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (load(tmp_path, seed=seed).model.lm_head.weight for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_outside_of_the_block_weights_are_read_from_files(tmp_path):
    write(tmp_path)
    load(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded as qwen2_audio"):
        QWEN.load(tmp_path)


def test_the_sizes_of_qwen2_audio_7b_give_its_number_of_parameters_without_memory(tmp_path):
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 156032}  # fmt: skip
    write(tmp_path, sizes={"audio_config": {"num_mel_bins": 128, "max_source_positions": 1500}, "text_config": text})
    model = load(tmp_path, "meta", dtype="bfloat16").model
    assert sum(each.numel() for each in model.parameters()) == 8_397_094_912
    assert {each.device.type for each in model.parameters()} == {"meta"}


def test_only_the_language_model_is_quantised_and_it_learns(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    write(tmp_path)
    plain, family = load(tmp_path), load(tmp_path, quantization="nf4")
    layers = [name for name, each in family.model.named_modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 2 * 7
    assert all(name.startswith("model.language_model.") for name in layers)
    assert stored_bytes(family.model) < stored_bytes(plain.model)
    layer, weight = (each.model.get_submodule(layers[0]) for each in (family, plain))
    given = torch.randn(3, 64, requires_grad=True)
    assert (layer(given) - weight(given)).abs().max() < 0.1 * weight(given).abs().max() + 0.05
    layer(given).sum().backward()
    assert given.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vision_config": {}}, r"argument 'sizes': 'vision_config'; the config of qwen2_audio has the parts "),
        ({"text_config": {"hiden_size": 8}}, r"argument 'sizes': text_config has no value 'hiden_size'.*hidden_size"),
        ({"text_config": {"vocab_size": 10}}, r"text_config has 10 tokens, but the tokenizer \d+"),
    ],
)
def test_sizes_that_the_config_does_not_have_are_refused(sizes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        write(tmp_path, sizes=sizes)
