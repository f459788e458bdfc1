"""Full trained parameters, if an engine shards them over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["full_parameters", "load_full"]


@contextmanager
def full_parameters(model: nn.Module) -> Iterator[None]:
    """Gather each trained parameter in every process; all processes must enter the block together.

    Only DeepSpeed's ZeRO-3 and PyTorch's FSDP2 shard parameters. Within the block, what is written to a parameter of
    FSDP2 is lost; use ``load_full`` instead.

    Args:
        model: the engine's model, without the engine's wrapper
    """
    sharded: dict[str, tuple[nn.Module, str, DTensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and isinstance(parameter, DTensor):
            path, _, leaf = name.rpartition(".")
            sharded[name] = (model.get_submodule(path), leaf, parameter)
    for module, leaf, shard in sharded.values():
        setattr(module, leaf, nn.Parameter(shard.full_tensor().detach()))
    try:
        with _gathered(model):
            yield
    finally:
        for module, leaf, shard in sharded.values():
            setattr(module, leaf, shard)


def load_full(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write full tensors into trained parameters and buffers; all processes must call it together, with the same state.

    Args:
        model: the engine's model, without the engine's wrapper
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
    shards = [parameter for parameter in model.parameters() if parameter.requires_grad and hasattr(parameter, "ds_id")]
    if not shards:
        return nullcontext()
    import deepspeed  # optional, and slow to import

    modifier = 0 if changed else None
    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(shards, modifier_rank=modifier)
    return gathered
