"""Learning rates of parts of a recognizer, and what an optimiser keeps in memory, printed after its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState

__all__ = ["OptimizerReport", "describe_state", "set_learning_rates"]


def set_learning_rates(optimizer: torch.optim.Optimizer, parts: Iterable[tuple[nn.Module, float]]) -> None:
    """Move the parameters of some modules to groups with a learning rate of their own, after those of the others.

    Args:
        optimizer: before its first step, and before its schedule is made
        parts: modules, and the maximum of their learning rate

    Example:
        >>> encoder, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
        >>> set_learning_rates(optimizer, [(encoder, 1e-5)])
        >>> [(group["lr"], len(group["params"])) for group in optimizer.param_groups]
        [(0.001, 2), (1e-05, 2)]
    """
    for module, rate in parts:
        own = {id(parameter) for parameter in module.parameters()}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in own]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
                optimizer.add_param_group({**group, "params": moved, "lr": rate})


class OptimizerReport(TrainerCallback):  # type: ignore[misc]
    """Prints, after the first step, the class of the optimiser and the data types of its state.

    The first steps in float16 may be skipped, until the scale of the loss is small enough.
    """

    def __init__(self) -> None:
        self._printed = False

    def on_step_end(self, args: Any, state: TrainerState, *_: Any, optimizer: Any = None, **__: Any) -> None:  # noqa: ANN401
        """Print the line."""
        if getattr(optimizer, "step_was_skipped", False):
            return
        if not self._printed and state.is_world_process_zero:
            print(f"optimizer: {describe_state(getattr(optimizer, 'optimizer', optimizer))}", flush=True)  # noqa: T201
        self._printed = True


def describe_state(optimizer: torch.optim.Optimizer) -> str:
    """Class of an optimiser, and how many trained values have their state in which data type.

    Args:
        optimizer: after a step

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(4))
        >>> optimizer = torch.optim.AdamW([weight], fused=False)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> describe_state(optimizer)
        'AdamW of torch; state of 4 trained values in float32'
    """
    values: Counter[str] = Counter()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            tensors = [each for each in optimizer.state.get(parameter, {}).values() if isinstance(each, Tensor)]
            kept = max(tensors, key=lambda each: each.numel() * each.ndim, default=None)
            values["no state" if kept is None else str(kept.dtype).removeprefix("torch.")] += parameter.numel()
    own: Any = optimizer
    paged = ", paged" if getattr(own, "is_paged", False) else ""
    name = f"{type(optimizer).__name__} of {type(optimizer).__module__.partition('.')[0]}{paged}"
    kinds = ", ".join(f"{count:,} trained values in {dtype}" for dtype, count in values.most_common())
    smallest = getattr(getattr(own, "args", None), "min_8bit_size", None)
    why = f" (tensors of fewer than {smallest} values keep 32 bits)" if smallest and "uint8" in values else ""
    return f"{name}; state of {kinds}{why}"
