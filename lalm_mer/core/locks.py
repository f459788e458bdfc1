"""Locks, so that two processes never write one folder or file at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lalm_mer.core.errors import BusyError
from lalm_mer.core.output import writing

__all__ = ["only_writer"]


@contextmanager
def only_writer(path: Path, *, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Let no other process write a folder or file during the block; the lock of a killed process is released.

    Args:
        path: locked by a hidden file in the same folder, which is removed at the end
        waiting: called before this process waits for another one that holds the lock; None to refuse instead

    Raises:
        BusyError: if another process holds the lock, and this one does not wait
        OutputError: if the folder above cannot be written
    """
    target = path.resolve()
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with writing(path):
        if not _acquired(lock, timeout=0):
            if waiting is None:
                raise BusyError(f"{path}: another process is writing it; wait for that one, or choose another output")
            waiting()
            _acquired(lock, timeout=-1)
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: a later process creates and locks a new one
        lock.release()


def _acquired(lock: FileLock, timeout: float) -> bool:
    """Acquire the lock; False if another process holds it."""
    file = Path(lock.lock_file)
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.touch()
            before = file.stat()
            lock.acquire(timeout=timeout)
        except Timeout:
            return False
        except FileNotFoundError:  # the other process has removed the folder
            continue
        with suppress(FileNotFoundError):
            if os.path.samestat(before, file.stat()):
                return True
        lock.release()  # the other process had removed the file before this one locked it
