"""Memory, by hand for a small module."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import Qwen2Config, Qwen2Model

from lalm_mer.recognizers.memory import (
    BlockMemory,
    Memory,
    available_bytes,
    block_memory,
    estimate_memory,
    stored_bytes,
)


class Small(nn.Module):
    """An embedding of 4, two blocks of 4x4 without bias, and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(2)])
        self.register_buffer("scale", torch.ones(3, dtype=torch.float16))

    def forward(self, ids):
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


WEIGHTS = (40 + 16 + 16) * 4 + 3 * 2
BLOCK = 5 * 4 * 4  # 5 tokens, width 4, float32


def estimate(model, **options):
    ids = torch.zeros((1, 5), dtype=torch.long)
    return estimate_memory(
        model, lambda: model(ids), **{"batch_size": 3, "learns": True, "checkpointing": False} | options
    )


def test_memory_of_training_all_parameters():
    memory = estimate(Small())
    assert memory == Memory(WEIGHTS, 72 * 4, 2 * 72 * 4, 3 * 17 * 2 * BLOCK)
    assert memory.total == WEIGHTS + 3 * 72 * 4 + 3 * 17 * 2 * BLOCK


def test_checkpointing_stores_outputs_and_one_block():
    assert estimate(Small(), checkpointing=True).activations == 3 * (2 * BLOCK + 17 * BLOCK)


def test_blocks_before_the_first_trained_one_store_nothing():
    model = Small()
    model.requires_grad_(False)
    model.blocks[1].weight.requires_grad_(True)
    assert estimate(model) == Memory(WEIGHTS, 16 * 4, 2 * 16 * 4, 3 * 17 * BLOCK)


def test_scoring_stores_one_block_and_no_gradients():
    assert estimate(Small(), learns=False) == Memory(WEIGHTS, 0, 0, 3 * 17 * BLOCK)


class Gated(nn.Module):
    """Attention and a gated layer of a language model, without what has no weights."""

    def __init__(self, width, inner):
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in "qkvo"})
        self.gate, self.up, self.down = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)


def test_a_gated_block_stores_its_wide_layers():
    assert block_memory(Gated(8, 32), 1000) == BlockMemory(True, 1000, (4 + 4 + 4 + 1 + 4 + 4) * 1000)
    assert block_memory(Gated(8, 8), 1000).stored == 17 * 1000
    adapted = get_peft_model(Gated(8, 32), LoraConfig(r=2, target_modules=["gate", "q"]))
    assert block_memory(adapted, 1000) == block_memory(Gated(8, 32), 1000)


def test_the_estimate_is_near_what_a_language_model_stores():
    """Tensors that autograd keeps, without the weights, of Qwen2 with adapted layers."""
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=344,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=16,
    )
    model = get_peft_model(Qwen2Model(config), LoraConfig(r=4, target_modules="all-linear"))
    ids = torch.zeros((1, 100), dtype=torch.long)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    stored = {}

    def keep(tensor):
        stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids)
    measured = sum(size for place, (size, _) in stored.items() if place not in weights)
    expected = estimate_memory(
        model, lambda: model(input_ids=ids), batch_size=1, learns=True, checkpointing=False
    ).activations
    assert 0.75 < expected / measured < 1.1


def test_hooks_are_removed_afterwards():
    model = Small()
    estimate(model)
    assert not any(block._forward_hooks for block in model.blocks)


def test_half_precision_counts_half():
    model = nn.Linear(8, 8, bias=False)
    assert (stored_bytes(model), stored_bytes(model.to(torch.bfloat16))) == (256, 128)


def test_four_bit_weights_count_as_they_are_stored():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    layer = bitsandbytes.nn.Linear4bit(256, 256, bias=False, compress_statistics=True, quant_type="nf4").to("cpu")
    layer(torch.zeros(1, 256))
    scales = 256 * 256 // 64
    assert stored_bytes(layer) == 256 * 256 // 2 + scales + 4 * (scales // 256)


def test_the_available_memory_of_a_cpu_includes_the_model(monkeypatch):
    model = Small()
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Ram", (), {"available": 1000}))
    assert available_bytes(torch.device("cpu"), model) == 1000 + WEIGHTS
