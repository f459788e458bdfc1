"""Memory that a run needs, estimated from its weights and from one pass over one example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

__all__ = [
    "BlockMemory", "Memory", "activation_bytes", "available_bytes", "block_memory", "block_outputs", "blocks_of",
    "estimate_memory", "stored_bytes",
]  # fmt: skip

_STORED_IN_A_BLOCK = 17  # values per token and unit of width: 34 bytes in 16 bits, Korthikanti et al. 2022, section 4.1
_BESIDES_LINEAR = 4  # inputs of two norms and their results, per token and unit of width


@dataclass(frozen=True)
class BlockMemory:
    """Activations of a block for one example.

    Args:
        trained: whether it has trained parameters
        output: bytes of its output
        stored: bytes that it stores for the backward pass
    """

    trained: bool
    output: int
    stored: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a run needs on a device: weights as stored, gradients, AdamW's moments, activations of one batch."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all four."""
        return self.weights + self.gradients + self.optimizer + self.activations


def stored_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers as stored, with the scales of 4-bit weights."""
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        total += tensor.numel() * tensor.element_size()
        state: Any = getattr(tensor, "quant_state", None)  # of bitsandbytes
        while state is not None:
            total += state.absmax.numel() * state.absmax.element_size()
            state = state.state2
    return total


def estimate_memory(
    model: nn.Module, forward: Callable[[], object], *, batch_size: int, learns: bool, checkpointing: bool
) -> Memory:
    """Estimate the memory of a step, whose activations are those of ``activation_bytes``.

    Args:
        model: the recognizer
        forward: runs it over one example, preferably the longest
        batch_size: utterances on the device at once
        learns: whether parameters with ``requires_grad`` are trained
        checkpointing: whether activations are recomputed in the backward pass
    """
    learning = [each for each in model.parameters() if each.requires_grad] if learns else []
    gradients = sum(each.numel() * each.element_size() for each in learning)
    blocks = [block_memory(block, size) for block, size in block_outputs(model, forward)]
    one = activation_bytes(blocks, learns=learns, checkpointing=checkpointing)
    return Memory(stored_bytes(model), gradients, 2 * gradients, one * batch_size)


def block_memory(block: nn.Module, output: int) -> BlockMemory:
    """Activations of a block whose output has ``output`` bytes.

    A block stores 17 times its output; one with wide or gated layers stores more: the outputs of its linear layers, the
    gated product, and inputs and results of two norms.
    """
    widths = [each.out_features for each in _linear_layers(block)]
    values = float(_STORED_IN_A_BLOCK)
    if widths:
        gated = max(widths) if widths.count(max(widths)) == 2 else 0
        values = max(values, (sum(widths) + gated) / widths[-1] + _BESIDES_LINEAR)
    trained = any(each.requires_grad for each in block.parameters())
    return BlockMemory(trained, output, round(values * output))


def _linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Linear layers in their order, without those of an adapter, which are narrow."""
    found: list[nn.Linear] = []
    for child in module.children():
        layer = child.get_base_layer() if isinstance(child, BaseTunerLayer) else child
        found += [layer] if isinstance(layer, nn.Linear) else _linear_layers(layer)
    return found


def activation_bytes(blocks: Sequence[BlockMemory], *, learns: bool, checkpointing: bool) -> int:
    """Bytes of activations of one example.

    Activations are counted by block, the outermost items of module lists, in the order of execution: each stores what
    ``block_memory`` says for the backward pass; with gradient checkpointing each stores its output, and one at a time
    the rest. Blocks before the first with trained parameters store nothing. Without training, one block at a time is
    stored. Logits, masks and fragmentation are not counted.

    Args:
        blocks: in the order of execution
        learns: whether there is a backward pass
        checkpointing: whether activations are recomputed in it
    """
    largest = max((block.stored for block in blocks), default=0)
    if not learns:
        return largest
    trained = [block.trained for block in blocks]
    kept = blocks[trained.index(True) if True in trained else 0 :]
    return sum(block.output for block in kept) + largest if checkpointing else sum(block.stored for block in kept)


def available_bytes(device: torch.device, model: nn.Module) -> int:
    """Bytes available on a device for the model and its activations, including those that it already occupies."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available) + stored_bytes(model)


def block_outputs(model: nn.Module, forward: Callable[[], object]) -> list[tuple[nn.Module, int]]:
    """Blocks in the order of execution, with the bytes of their output in ``forward``."""
    seen: list[tuple[nn.Module, int]] = []

    def record(block: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401 a tensor or a tuple
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor):
            seen.append((block, hidden.numel() * hidden.element_size()))

    handles = [block.register_forward_hook(record) for block in blocks_of(model)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a model: the outermost items of module lists."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found
