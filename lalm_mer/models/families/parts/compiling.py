"""torch.compile of the language model, layer by layer: its layers are alike, so that what is compiled for one is used
for all.

Graphs take any number of rows and any width (``dynamic``), so that a run has few of them: for the preflight, for
scoring, for the first layer in training, whose input needs no gradient, and for the others; each for one row and for
several. Layers are compiled in place: modules, parameters and state dicts keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from lalm_mer.core.errors import ConfigError, ModelError, one_line

__all__ = ["COMPILED_WIDTHS", "compile_layers", "is_compiled", "naming_compiler", "not_compiled"]

COMPILED_WIDTHS = 16
"""Rows are padded to a multiple of this, since kernels need masks whose rows are aligned"""
_GRAPHS = 32
_SHOWN = 200  # characters of an error


def compile_layers(language_model: nn.Module, classes: Sequence[str], name: str) -> list[nn.Module]:
    """Compile layers when they first run.

    Args:
        language_model: where they are
        classes: names of the classes of layers that are alike
        name: of the family, for the error

    Returns:
        the layers

    Raises:
        ConfigError: if there are none
    """
    layers = [module for module in language_model.modules() if type(module).__name__ in classes]
    if not layers:
        raise ConfigError(
            f"argument 'torch_compile': true; the layers of {name} are not known, or not alike; set it to false"
        )
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)  # beyond it torch no longer compiles
    for layer in layers:
        layer.compile(dynamic=True)
    return layers


def is_compiled(layer: nn.Module) -> bool:
    """Whether a layer is compiled."""
    return layer._compiled_call_impl is not None


@contextmanager
def naming_compiler() -> Iterator[None]:
    """Turn an error of the compiler, such as a missing g++, into one line.

    Raises:
        ModelError: if a pass within the block cannot be compiled
    """
    try:
        yield
    except BackendCompilerFailed as error:
        raise ModelError(
            f"the language model cannot be compiled here ({one_line(error)[:_SHOWN]}); set model.torch_compile=false "
            "and model.attn_implementation=sdpa"
        ) from error


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
