"""Memory, by hand for a small module."""

import pytest
import torch
from torch import nn

from lalm_mer.recognizers.memory import Memory, available_bytes, estimate_memory, stored_bytes


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
