"""Implementations of attention by tower: chosen by transformers' names, and read from the model itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.models.devices import gpu_before_ampere

__all__ = ["DEFAULT", "FLASH", "FLEX", "TowerAttention", "find_attention", "implementation_of", "taking"]

DEFAULT = "sdpa"
FLASH = "flash_attention_2"
FLEX = "flex_attention"
_OWN = "its own attention"
_DECLARED = {DEFAULT: "_supports_sdpa", FLASH: "_supports_flash_attn", FLEX: "_supports_flex_attn"}
"""Implementation -> what a class of transformers declares; eager is always there"""


@dataclass(frozen=True)
class TowerAttention:
    """The attention of one tower.

    Args:
        model: the part of the model whose config names the implementation
        exchangeable: whether its layers look up that name; some towers compute attention in their own way
        unusable: implementations that transformers declares, but that cannot take the tower's mask
    """

    model: Any
    exchangeable: bool
    unusable: Sequence[str] = ()

    @property
    def used(self) -> str:
        """The implementation in use."""
        return str(self.model.config._attn_implementation) if self.exchangeable else _OWN

    @property
    def supported(self) -> list[str]:
        """The implementations that it can use, of those that transformers declares."""
        declared = [name for name, flag in _DECLARED.items() if getattr(self.model, flag, False)]
        return ["eager", *(name for name in declared if name not in self.unusable)]

    def set(self, implementation: str, tower: str) -> None:
        """Use another implementation from now on.

        Args:
            implementation: its name
            tower: name of family and tower, for the error

        Raises:
            ConfigError: if the tower or this machine does not have it
        """
        if self.used == implementation:
            return
        where = f"argument 'attn_implementation': {implementation}"
        if not self.exchangeable:
            raise ConfigError(f"{where}; {tower} has {_OWN}, which no setting changes; name no implementation for it")
        if implementation not in self.supported:
            raise ConfigError(
                f"{where}; {tower} supports {', '.join(self.supported)}; name one of these for it, or only those of "
                f"other towers, as in {{language_model: {implementation}}}"
            )
        if implementation == FLASH and not is_flash_attn_2_available():  # transformers may download a replacement
            raise ConfigError(f"{where}; it needs the package flash-attn and a GPU, which are not found; use sdpa")
        if implementation == FLASH and (older := _gpu_before_ampere()) is not None:  # its kernels would fail
            raise ConfigError(f"{where}; it needs a GPU of compute capability 8.0 or more, found {older}; use sdpa")
        if implementation == FLEX and not _has_gpu():  # torch generates wrong code for the CPU
            raise ConfigError(f"{where}; it needs a GPU, and none is found; use sdpa")
        try:
            self.model.set_attn_implementation({"": implementation})
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{where}; {tower} cannot use it here: {one_line(error)}") from error


@contextmanager
def taking(attention: TowerAttention | None, mask: object) -> Iterator[None]:
    """Use sdpa within the block, if the implementation does not take this form of mask, or only slowly.

    FlashAttention takes no pattern of pairs of tokens, (B, 1, T, T). FlexAttention makes a block mask of a mask of
    padding, (B, T), by compiled code, which would be compiled again for every length.
    """
    used, dimensions = attention and attention.used, mask.ndim if isinstance(mask, Tensor) else 0
    if attention is None or (used, dimensions) not in ((FLASH, 4), (FLEX, 2)):
        yield
        return
    attention.model.set_attn_implementation({"": DEFAULT})
    try:
        yield
    finally:
        attention.model.set_attn_implementation({"": used})


def find_attention(
    model: nn.Module, path: str, tower: nn.Module, unusable: Sequence[str] = ()
) -> TowerAttention | None:
    """The attention of a tower; None if it has no layers of attention.

    Args:
        model: the complete model
        path: path of the tower in it
        tower: the module of the tower, or its part of the module at ``path``
        unusable: see ``TowerAttention``
    """
    layers: set[Any] = {type(module) for module in tower.modules() if "Attention" in type(module).__name__}
    if not layers:
        return None
    names = path.split(".")
    around = [model.get_submodule(".".join(names[:count])) for count in range(len(names) - 1, -1, -1)]
    models = (module for module in (*tower.modules(), *around) if isinstance(module, PreTrainedModel))
    return TowerAttention(next(models), any(_looks_up(layer) for layer in layers), unusable)


def _has_gpu() -> bool:
    return torch.accelerator.current_accelerator(check_available=True) is not None


def _gpu_before_ampere() -> str | None:
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else gpu_before_ampere(found)


@cache
def _looks_up(layer: Any) -> bool:  # noqa: ANN401 a class
    """Whether a layer of attention looks up the implementation that the config names."""
    return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(layer)


def implementation_of(chosen: str | Mapping[str, str], tower: str) -> str | None:
    """The implementation that a setting names for a tower; None if it names none for it."""
    return chosen if isinstance(chosen, str) else chosen.get(tower)
