"""Results of scoring on disk while it runs, so that a killed run scores only what is left, in any number of processes.

A line of JSON holds a part: positions of inputs, their results, the run that they belong to, and a checksum. A line
that is damaged or belongs to another run is never used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from lalm_mer.core.appended_lines import AppendedLines
from lalm_mer.core.provenance import hash_json

__all__ = ["NO_POSITION", "PART_S", "ArrivingScores", "ScoreJournal"]

NO_POSITION = -1
"""Position of a row that pads the batch of a process to the size of another's."""

PART_S = 5.0
"""Time between two moves of log-probabilities from the device to the disk, each of which waits for the device."""


class ScoreJournal:
    """Results of the inputs that are scored so far, by their position: log-probabilities or a generated answer.

    Args:
        path: the file; None in processes that do not write it, and if nothing is kept on disk
        run: hash of everything that the results depend on
        count: N, number of inputs
    """

    def __init__(self, path: Path | None = None, run: str = "", count: int = 0) -> None:
        self.results: dict[int, Any] = {}
        self.damaged: list[int] = []  # numbers of the lines, from 1
        self.of_another_run = 0  # lines
        self._lines = None if path is None else AppendedLines(path)
        self._run, self._count = run, count
        if self._lines is None:
            return
        for number, line in enumerate(self._lines.lines, start=1):
            part = _checked(line)
            if part is None:
                self.damaged.append(number)
            elif part["run"] != run:
                self.of_another_run += 1
            elif not self._take(part["positions"], part["results"]):
                self.damaged.append(number)
        if not self.results:
            self._lines.start_over()

    def _take(self, positions: list[int], results: list[Any]) -> bool:
        if len(positions) != len(results) or not all(0 <= position < self._count for position in positions):
            return False
        text = all(isinstance(result, str) for result in results)
        self.results.update(zip(positions, results if text else np.array(results, dtype=np.float64), strict=True))
        return True

    def share(self) -> None:
        """Give the results of the first process to all others; every process must call it."""
        shared: list[Any] = [self.results]
        broadcast_object_list(shared)
        self.results = shared[0]

    def add(self, positions: Sequence[int], results: Sequence[str] | npt.NDArray[np.float64]) -> None:
        """Add results, and append them to the file if this process writes it; the first of a position is kept.

        Args:
            positions: n positions
            results: n answers, or log-probabilities (n, K) or (n, P, K)

        Raises:
            OutputError: if the disk cannot be written
        """
        new: dict[int, Any] = {}
        for position, result in zip(positions, results, strict=True):
            if position not in self.results:
                new.setdefault(position, result)
        self.results |= new
        if self._lines is not None and new:
            plain = [result.tolist() if isinstance(result, np.ndarray) else result for result in new.values()]
            part = {"run": self._run, "positions": list(new), "results": plain}
            self._lines.append(json.dumps({**part, "sha256": hash_json(part)}).encode())


class ArrivingScores:
    """Log-probabilities of batches on their way from the device into a journal, moved in parts.

    Args:
        journal: receives them
    """

    def __init__(self, journal: ScoreJournal) -> None:
        self.positions: list[int] = []  # of all moved batches, in their order
        self._journal = journal
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._moved = time.monotonic()

    def add(self, positions: Tensor, log_probs: Tensor) -> None:
        """Add a batch of all processes, (B,) and (B, K) or (B, P, K); rows at ``NO_POSITION`` are left out."""
        self._batches.append((positions, log_probs))
        if time.monotonic() - self._moved >= PART_S:
            self.move()

    def move(self) -> None:
        """Move all batches into the journal."""
        if self._batches:
            positions = torch.cat([batch for batch, _ in self._batches]).cpu()
            log_probs = torch.cat([batch for _, batch in self._batches]).cpu()
            given = positions != NO_POSITION
            moved = positions[given].tolist()
            self._journal.add(moved, np.asarray(log_probs[given], dtype=np.float64))
            self.positions += moved
        self._batches, self._moved = [], time.monotonic()


def _checked(line: bytes) -> dict[str, Any] | None:
    """The part of a line; None if it is damaged."""
    try:
        part = json.loads(line)
        checksum = part.pop("sha256")
        intact = checksum == hash_json(part)
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    return part if intact and part.keys() == {"run", "positions", "results"} else None
