"""Progress of long work, a bar on a terminal and a line from time to time in a log; and sizes as text."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from lalm_mer.core.processes import is_first_process

__all__ = ["LOG_INTERVAL_S", "progress", "size_text"]

LOG_INTERVAL_S = 30.0
"""Time between two lines in a log; work that ends earlier writes none."""


def progress(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    in_logs: bool = True,
) -> tqdm[Any]:
    """Show the progress of this process's work, if it is the first process of a run.

    Args:
        items: the items to iterate over; None if the caller reports with ``update``
        desc: what is done
        unit: name of an item, in the plural
        total: number of items; None if it is unknown
        initial: number of items that were done before
        in_logs: False if the caller writes a line for each item: ``write`` draws the bar again without ending its line
    """
    interval_s = 0.1 if sys.stderr.isatty() else LOG_INTERVAL_S
    return tqdm(
        items,
        desc=desc,
        unit=f" {unit}",
        total=total,
        initial=initial,
        mininterval=interval_s,
        maxinterval=max(10.0, interval_s),
        delay=0.0 if sys.stderr.isatty() else LOG_INTERVAL_S,
        disable=not is_first_process() or not (in_logs or sys.stderr.isatty()),
    )


def size_text(count: float) -> str:
    """A number of bytes as text.

    Example:
        >>> size_text(3 * 2**20), size_text(2.5 * 2**30)
        ('3.0 MiB', '2.5 GiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
