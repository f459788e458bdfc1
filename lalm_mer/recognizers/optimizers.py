"""What an optimiser that was chosen keeps in memory, printed after its first step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

__all__ = ["OptimizerReport", "describe_state"]


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
