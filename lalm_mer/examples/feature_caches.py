"""The folders of stored features below a cache folder: their sizes, and room for more by removing the oldest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from lalm_mer.core.errors import BusyError, ConfigError, PredictionError
from lalm_mer.core.output import writing
from lalm_mer.core.progress import size_text
from lalm_mer.core.strict_json import read_object
from lalm_mer.examples.feature_shards import KEY_FILE, REMAINS, writing_shards

__all__ = ["StoredFeatures", "describe", "make_room", "remove", "stored_features"]


@dataclass(frozen=True)
class StoredFeatures:
    """One folder of stored features.

    Args:
        folder: its path
        bytes: size of its files
        shards: number of its shards
        used: time of its last use, in seconds since 1970
        key: what determines its values; empty if the file is damaged
    """

    folder: Path
    bytes: int
    shards: int
    used: float
    key: dict[str, Any]


def stored_features(cache_dir: Path) -> list[StoredFeatures]:
    """All folders of stored features below a cache folder, the last used first."""
    found = []
    for folder in {file.parent for name in (KEY_FILE, REMAINS) for file in cache_dir.rglob(name)}:
        with suppress(FileNotFoundError):  # another process removes it
            sizes = {path: path.stat().st_size for path in folder.iterdir() if path.is_file()}
            shards = sum(path.suffix == ".arrow" for path in sizes)
            file = folder / KEY_FILE
            used = (file if file in sizes else folder).stat().st_mtime
            try:
                key = read_object(file)
            except PredictionError:
                key = {}
            found.append(StoredFeatures(folder, sum(sizes.values()), shards, used, key))
    return sorted(found, key=lambda each: -each.used)


def remove(folder: Path) -> None:
    """Remove a folder of stored features; processes that have opened it can still read it, except on Windows.

    Raises:
        BusyError: if another process is writing it
    """
    with writing(folder), writing_shards(folder):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == KEY_FILE):  # last: it makes the rest visible
            path.unlink(missing_ok=True)


def make_room(cache_dir: Path, needed: int, budget: int, *, kept: Collection[Path] = ()) -> list[StoredFeatures]:
    """Remove the folders that were not used for longest until ``needed`` more bytes fit into the budget.

    Args:
        cache_dir: the cache folder
        needed: size of what will be written, in bytes
        budget: largest size of all folders together, in bytes
        kept: folders that are in use; those that another process is writing are kept too

    Returns:
        the folders that were removed

    Raises:
        ConfigError: if they do not fit even then, or not on the disk
    """
    found = stored_features(cache_dir)
    in_use = sum(each.bytes for each in found if each.folder in kept)
    if in_use + needed > budget:
        raise ConfigError(f"the cache needs {size_text(in_use + needed)} and may have {size_text(budget)}")
    excess = sum(each.bytes for each in found) + needed - budget
    oldest = [each for each in reversed(found) if each.folder not in kept]
    sizes = accumulate((each.bytes for each in oldest), initial=0)
    largest_free = next((size for size in sizes if size >= excess), 0)
    place = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free = shutil.disk_usage(place).free + largest_free
    if needed > free:
        raise ConfigError(f"the cache needs {size_text(needed)}, and the disk of {cache_dir} has {size_text(free)}")
    removed = []
    for each in oldest:
        if excess <= 0:
            break
        with suppress(BusyError):
            remove(each.folder)
            removed.append(each)
            excess -= each.bytes
    if excess > 0:
        raise ConfigError(f"the cache needs {size_text(needed)}, and other processes are writing into {cache_dir}")
    return removed


def describe(found: StoredFeatures) -> str:
    """A line for people: name, size, and how long ago it was used."""
    hours = (time.time() - found.used) / 3600
    ago = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours" if hours >= 1 else "less than an hour"
    return f"{found.folder.name}: {size_text(found.bytes)} in {found.shards} shards, used {ago} ago"
