"""Usable cores, the rank of this process, and parallel work in processes."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import get_context, resource_tracker
from typing import Any, NoReturn, TypeVar

__all__ = ["in_processes", "is_first_process", "leave", "process_count", "usable_cores"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_functions: list[Callable[[Any], Any]] = []  # of a worker, the one that it applies


def usable_cores() -> int:
    """Number of cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_first_process() -> bool:
    """Whether this is the first process of a launched run, the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Number of processes of a launched run, on all machines together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave(status: int) -> NoReturn:
    """End this process; one of several without the teardown of the interpreter.

    A thread of torch's process groups that releases its last tensor needs the interpreter, and aborts the process if it
    is being torn down, although the work is done (https://github.com/pytorch/pytorch/issues/190489).

    Args:
        status: exit status
    """
    if process_count() == 1:
        sys.exit(status)
    atexit._run_exitfuncs()  # what a library has registered, as at any other exit
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def in_processes(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], processes: int, *, ahead: int = 4
) -> Iterator[ResultT]:
    """Apply a function to items in worker processes; yields results in order and keeps few items in memory.

    Args:
        function: must be picklable, as must its items and results; each worker unpickles it once
        items: consumed as needed
        processes: number of workers, which are spawned: a script needs ``if __name__ == "__main__":`` around the call.
            One worker, or a single item, is run in this process
        ahead: items per worker that are read in advance

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
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _take, (function,))
    try:
        for item in chain(first, remaining):
            with _not_interrupted():  # a submission may start a worker
                waiting.append(pool.submit(_apply, item))
            if len(waiting) > ahead * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _take(function: Callable[[Any], Any]) -> None:
    _functions[:] = [function]


def _apply(item: Any) -> Any:  # noqa: ANN401 of the function
    return _functions[0](item)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Processes started in the block never get Ctrl-C, of which each would print a trace; this one gets it later."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would end the block
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
