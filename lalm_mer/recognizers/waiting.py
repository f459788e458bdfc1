"""Time in which a process waits for its next batch, or makes it itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

__all__ = ["Waiting", "advice_on", "measured_waiting"]

_LEAST_SHARE, _LEAST_S = 0.2, 10.0


@dataclass
class Waiting:
    """Time since the start of a measurement.

    Args:
        waited_s: time in which the next batch was awaited, or made in this process, in seconds
        wall_s: all time, in seconds, once the measurement has ended
    """

    waited_s: float = 0.0
    wall_s: float = 0.0
    _started: float = field(default_factory=time.perf_counter)
    _last: tuple[float, float] = (0.0, 0.0)

    def __add__(self, other: Waiting) -> Waiting:
        """Both measurements together, after they have ended."""
        return Waiting(self.waited_s + other.waited_s, self.wall_s + other.wall_s)

    def since_last(self) -> dict[str, float]:
        """``waited_s`` and ``waited_share``, its share of the elapsed time, since the last call."""
        now = self.waited_s, time.perf_counter() - self._started
        waited_s, wall_s = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        return {"waited_s": round(waited_s, 3), "waited_share": round(waited_s / wall_s, 3) if wall_s else 0.0}

    def end(self) -> None:
        """Set ``wall_s``."""
        self.wall_s = time.perf_counter() - self._started


@contextmanager
def measured_waiting() -> Iterator[Waiting]:
    """Measure the time that any DataLoader of torch takes to return a batch, also those that libraries make.

    A GPU may still compute while the next batch is awaited, so the time that it is idle is at most this.
    """
    waiting, original = Waiting(), _BaseDataLoaderIter.__next__

    def measured(self: Any) -> Any:  # noqa: ANN401 a batch
        started = time.perf_counter()
        try:
            return original(self)
        finally:
            waiting.waited_s += time.perf_counter() - started

    _BaseDataLoaderIter.__next__ = measured  # type: ignore[method-assign]
    try:
        yield waiting
    finally:
        _BaseDataLoaderIter.__next__ = original  # type: ignore[method-assign]
        waiting.end()


def advice_on(waiting: Waiting, doing: str, workers: int, *, towers: bool = True) -> str | None:
    """A line about a long wait; None if it is short, or a small share of the time.

    Args:
        waiting: a measurement that has ended
        doing: what was measured
        workers: processes that make batches
        towers: whether the recognizer has an audio tower, whose outputs can be stored

    Example:
        >>> advice_on(Waiting(40.0, 100.0), "training", 0)
        'training waited 40 s of 100 s (40%) for data; raise dataloader_num_workers (now 0), or store tower outputs \
(model.tower_cache), so that no audio is decoded'
        >>> advice_on(Waiting(5.0, 10.0), "training", 0)
    """
    if waiting.waited_s < _LEAST_S or waiting.waited_s < _LEAST_SHARE * waiting.wall_s:
        return None
    stored = ", or store tower outputs (model.tower_cache), so that no audio is decoded" if towers else ""
    return (
        f"{doing} waited {waiting.waited_s:.0f} s of {waiting.wall_s:.0f} s ({waiting.waited_s / waiting.wall_s:.0%}) "
        f"for data; raise dataloader_num_workers (now {workers}){stored}"
    )
