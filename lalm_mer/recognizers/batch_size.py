"""The largest batch that fits into memory, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from lalm_mer.core.errors import ModelError

__all__ = ["largest_divisor", "leaving_no_trace"]


def largest_divisor(size: int, attempt: Callable[[int], None]) -> int:
    """The largest divisor of ``size`` with which ``attempt`` does not run out of memory, by accelerate's search.

    Args:
        size: the first batch size that is tried
        attempt: takes a batch size, and runs out of memory or not

    Raises:
        ModelError: if it runs out of memory with 1

    Example:
        >>> def attempt(size: int) -> None:
        ...     if size > 3:
        ...         raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        >>> largest_divisor(12, attempt)
        3
    """
    smaller = iter([each for each in range(size - 1, 0, -1) if size % each == 0])

    def measured(batch_size: int) -> int:
        try:
            attempt(batch_size)
        except RuntimeError as error:
            if batch_size == 1 and should_reduce_batch_size(error):
                raise ModelError(
                    "out of memory with a batch of one utterance, the longest; set train.gradient_checkpointing=true, "
                    "or, with an adapter, model.quantization=nf4"
                ) from error
            raise
        return batch_size

    search = find_executable_batch_size(measured, size, reduce_batch_size_fn=lambda: next(smaller))
    return int(search())


@contextmanager
def leaving_no_trace(model: nn.Module, copies: int) -> Iterator[None]:
    """Take the memory of an optimiser's state during the block; then buffers and random generators are as before.

    Args:
        model: whose trained parameters have the size of the state
        copies: how often, 2 for AdamW's moments
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    trained = [each for each in model.parameters() if each.requires_grad]
    moments = [torch.empty_like(each) for each in trained for _ in range(copies)]
    try:
        devices = {each.device for each in trained if each.is_cuda}
        with torch.random.fork_rng([device.index for device in devices]):
            yield
    finally:
        del moments
        model.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)
