"""How many processes there are, which of them this is, and work shared among worker processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from typing import TypeVar

__all__ = ["in_processes", "is_first_process", "usable_cores"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def usable_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_first_process() -> bool:
    """Whether this is the first process of a launched run, the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def in_processes(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], processes: int, *, ahead: int = 4
) -> Iterator[ResultT]:
    """Results of a function over items, in their order; few items at a time are in memory.

    Args:
        function: pickles, and so do its items and results
        items: read as they are needed
        processes: worker processes, which are spawned, since the parent may hold threads; a script of your own needs
            ``if __name__ == "__main__":`` around the call. With one, or for one item, the work is done in this process
        ahead: items a worker that are read ahead

    Raises:
        BrokenProcessPool: if a worker was killed

    Example:
        >>> list(in_processes(len, ["a", "bc"], processes=1))
        [1, 2]
    """
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if processes == 1 or len(first) < 2:
        yield from map(function, chain(first, remaining))
        return
    waiting: deque[Future[ResultT]] = deque()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for item in chain(first, remaining):
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
