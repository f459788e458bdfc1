"""Full trained parameters, if an engine shards them over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lalm_mer.core.processes import is_first_process

__all__ = ["full_parameters", "load_full"]


@contextmanager
def full_parameters(model: nn.Module, *, frozen: bool = False) -> Iterator[None]:
    """Gather each trained parameter in the first process; all processes must enter the block together.

    Only DeepSpeed's ZeRO-3 and PyTorch's FSDP2 shard parameters. Those of FSDP2 are gathered one after another in the
    memory of the CPU; within the block, what is written to them is lost; use ``load_full`` instead.

    Args:
        model: the engine's model, without the engine's wrapper
        frozen: whether those that are not trained are gathered, too
    """
    owners: dict[DTensor, list[tuple[nn.Module, str]]] = {}  # a tied parameter has several
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, DTensor) and (frozen or parameter.requires_grad):
            path, _, leaf = name.rpartition(".")
            owners.setdefault(parameter, []).append((model.get_submodule(path), leaf))
    for shard, places in owners.items():
        full = shard.full_tensor().detach()
        if is_first_process():
            gathered = nn.Parameter(full.cpu(), requires_grad=shard.requires_grad)
            for module, leaf in places:
                setattr(module, leaf, gathered)
    try:
        with _gathered(model, frozen=frozen):
            yield
    finally:
        for shard, places in owners.items():
            for module, leaf in places:
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


def _gathered(model: nn.Module, *, changed: bool = False, frozen: bool = False) -> AbstractContextManager[None]:
    shards = [each for each in model.parameters() if (frozen or each.requires_grad) and hasattr(each, "ds_id")]
    if not shards:
        return nullcontext()
    import deepspeed  # optional, and slow to import

    modifier = 0 if changed else None
    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(shards, modifier_rank=modifier)
    return gathered
