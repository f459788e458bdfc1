"""Locks, so that two processes never write one folder or file at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lalm_mer.core.errors import OutputError
from lalm_mer.core.output import writing

__all__ = ["only_writer"]


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Let no other process write a folder or file during the block; the lock of a killed process is released.

    Args:
        path: locked by a hidden file in the same folder, which is removed at the end

    Raises:
        OutputError: if another process holds the lock, or the folder above cannot be written
    """
    target = path.resolve()
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"{path}: another process is writing it; wait for that one, or choose another output"
            ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: a later process creates and locks a new one
        lock.release()
