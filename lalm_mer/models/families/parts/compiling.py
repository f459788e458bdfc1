"""torch.compile of the language model, layer by layer: its layers are alike, so that what is compiled for one is used
for all.

Graphs take any number of rows and any width (``dynamic``), so that a run has few of them: without gradients, for the
first layer in training, whose input needs no gradient, and for the others; each for one row and for several. Layers are
compiled in place: modules, parameters and state dicts keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["COMPILED_WIDTHS", "compile_layers", "is_compiled", "not_compiled"]

COMPILED_WIDTHS = 16
"""Rows are padded to a multiple of this, since kernels need masks whose rows are aligned"""
_GRAPHS = 32


def compile_layers(layers: Sequence[nn.Module]) -> None:
    """Compile layers when they first run."""
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)  # beyond it torch no longer compiles
    for layer in layers:
        layer.compile(dynamic=True)


def is_compiled(layer: nn.Module) -> bool:
    """Whether a layer is compiled."""
    return layer._compiled_call_impl is not None


@contextmanager
def not_compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Run layers as they are within the block."""
    compiled = [layer._compiled_call_impl for layer in layers]
    try:
        for layer in layers:
            layer._compiled_call_impl = None
        yield
    finally:
        for layer, call in zip(layers, compiled, strict=True):
            layer._compiled_call_impl = call
