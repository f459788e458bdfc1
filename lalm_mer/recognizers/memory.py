"""How much memory a run will want, estimated from its weights and from one pass over one example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn

__all__ = ["Memory", "available_bytes", "estimate_memory", "stored_bytes"]

_KEPT_IN_A_BLOCK = 17  # values a token and unit of width: 34 bytes in 16 bits, Korthikanti et al. 2022, section 4.1


@dataclass(frozen=True)
class Memory:
    """Bytes that a run wants on a device.

    Args:
        weights: as they are stored, quantised ones too
        gradients: of what learns
        optimizer: AdamW's two moments
        activations: of one batch
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def stored_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers as they are stored; of 4-bit weights, their scales too."""
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
    """Estimate what a step takes.

    Activations are counted in blocks, the outermost items of module lists: a block keeps 17 times its output (B x T x
    H values) for the backward pass; with gradient checkpointing each keeps its output, and one at a time the rest.
    Blocks before the first in which something learns keep nothing. Where nothing learns, one block at a time is held.
    Logits, masks and what the allocator loses are not counted.

    Args:
        model: the recognizer
        forward: runs it over one example, better the longest
        batch_size: utterances on the device at once
        learns: whether parameters that want a gradient will get one
        checkpointing: whether activations are computed again in the backward pass
    """
    learning = [each for each in model.parameters() if each.requires_grad] if learns else []
    gradients = sum(each.numel() * each.element_size() for each in learning)
    blocks = _block_outputs(model, forward)
    largest = max((size for _, size in blocks), default=0)
    if learns:
        first = next((place for place, (block, _) in enumerate(blocks) if _has_learning(block)), 0)
        kept = sum(size for _, size in blocks[first:])
        one = kept + _KEPT_IN_A_BLOCK * largest if checkpointing else _KEPT_IN_A_BLOCK * kept
    else:
        one = _KEPT_IN_A_BLOCK * largest
    return Memory(stored_bytes(model), gradients, 2 * gradients, one * batch_size)


def available_bytes(device: torch.device, model: nn.Module) -> int:
    """Bytes that the model and its work can have on a device, with what it holds there already."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available) + stored_bytes(model)


def _block_outputs(model: nn.Module, forward: Callable[[], object]) -> list[tuple[nn.Module, int]]:
    """Blocks in the order in which they ran, with the bytes of their output."""
    seen: list[tuple[nn.Module, int]] = []

    def record(block: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401 a tensor or a tuple
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor):
            seen.append((block, hidden.numel() * hidden.element_size()))

    handles = [block.register_forward_hook(record) for block in _blocks(model)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost items of module lists."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else _blocks(child)
    return found


def _has_learning(module: nn.Module) -> bool:
    return any(each.requires_grad for each in module.parameters())
