"""Trained parameters in one piece, where an engine keeps a share of each in every process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["load_whole", "whole_parameters"]


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Let every process read each trained parameter whole; all processes must enter together.

    DeepSpeed's ZeRO-3 and PyTorch's FSDP2 share parameters out; with any other engine nothing happens. What is written
    to a parameter of FSDP2 inside is lost: ``load_whole`` is for that.

    Args:
        model: as the engine keeps it, without the engine's own wrapper
    """
    homes: dict[str, tuple[nn.Module, str, DTensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and isinstance(parameter, DTensor):
            path, _, leaf = name.rpartition(".")
            homes[name] = (model.get_submodule(path), leaf, parameter)
    for module, leaf, share in homes.values():
        setattr(module, leaf, nn.Parameter(share.full_tensor().detach()))
    try:
        with _gathered(model):
            yield
    finally:
        for module, leaf, share in homes.values():
            setattr(module, leaf, share)


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write whole tensors into trained parameters and buffers; all processes must call it together, with the same.

    Args:
        model: as the engine keeps it, without the engine's own wrapper
        state: name of a parameter or buffer -> its new value
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad(), _gathered(model, changed=True):
        for name, value in state.items():
            target = tensors[name]
            if isinstance(target, DTensor):
                value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
            target.copy_(value)


def _gathered(model: nn.Module, *, changed: bool = False) -> AbstractContextManager[None]:
    shares = [parameter for parameter in model.parameters() if parameter.requires_grad and hasattr(parameter, "ds_id")]
    if not shares:
        return nullcontext()
    import deepspeed  # optional, and slow to import

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        shares, modifier_rank=0 if changed else None
    )
    return gathered
