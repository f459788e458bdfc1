"""Write the rows of any reader as a prepared corpus: utterances in Parquet, rejections and a summary."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from tqdm import tqdm

from lalm_mer.core.errors import CorpusError, LalmMerError, one_line
from lalm_mer.core.labels import Task
from lalm_mer.core.processes import in_processes, usable_cores
from lalm_mer.core.provenance import hash_json, write_json
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.parts import SCHEMA, Part, PartCounts, make_part, part_name

__all__ = ["SCHEMA", "is_prepared", "write_corpus"]

PARTS = frozenset(("utterances", "rejected.jsonl", "summary.json"))
_ROWS_IN_A_PART = 128


@dataclass
class _Totals:
    """Sums of the counts of the parts."""

    n_utterances: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejection: dict[str, str] | None = None
    labels: Counter[str] = field(default_factory=Counter)
    speakers: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Counter[str]] = field(default_factory=dict)
    without_audio: int = 0
    duration_s: float = 0.0
    row_hashes: list[str] = field(default_factory=list)

    def add(self, part: PartCounts) -> None:
        self.n_utterances += len(part.row_hashes)
        self.row_hashes += part.row_hashes
        self.rejected.update(rejection["reason"] for rejection in part.rejected)
        self.first_rejection = self.first_rejection or next(iter(part.rejected), None)
        self.labels.update(part.labels)
        self.speakers.update(part.speakers)
        for name, counts in part.tasks.items():
            self.tasks.setdefault(name, Counter()).update(counts)
        self.without_audio += part.without_audio
        self.duration_s += part.duration_s


def write_corpus(
    rows: Iterable[Utterance | Rejection],
    *,
    corpus: str,
    out_dir: Path,
    loader_version: str,
    root: Path | None = None,
    keep_missing_audio: bool = False,
    synthetic: bool = False,
    ranges: Mapping[str, Sequence[float]] | None = None,
    tasks: Mapping[str, Task] | None = None,
    extra: Mapping[str, Any] | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Stream ``rows`` to ``out_dir``, which is created or replaced atomically at the end.

    Of utterances with the same id the first is kept and the others are rejected as ``duplicate_id``.
    ``n_found = n_utterances + n_rejected`` by construction. After a kill, a call with the same rows resumes.

    Args:
        rows: rows of a reader
        corpus: name of the corpus
        out_dir: folder to write; a prepared corpus in it is replaced
        loader_version: version of the reader
        root: folder of the release, to which ``audio_path`` of the rows is relative
        keep_missing_audio: whether an utterance whose audio is missing is kept without it, instead of rejected
        synthetic: whether the speech is synthetic
        ranges: ``valence``, ``arousal``, ``dominance`` or ``sentiment`` -> lowest and highest value of its scale
        tasks: tasks whose labels are counted; None for those that the package defines for ``corpus``
        extra: further keys of the summary, plain data
        processes: number of processes that read audio; None for one per core. The result is the same. They are
            spawned, so a script needs ``if __name__ == "__main__":`` around the call

    Returns:
        The content of ``summary.json``

    Raises:
        CorpusError: if no row was found or all were rejected (nothing is written then), if ``out_dir`` contains
            something other than a prepared corpus or is being written by another process, or if writing fails
    """
    if out_dir.exists() and not is_prepared(out_dir) and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise CorpusError(f"{out_dir}: contains something other than a prepared corpus; choose another output.dir")
    known = load_tasks(corpus) if tasks is None else tasks
    scales = None if ranges is None else {name: list(scale) for name, scale in ranges.items()}
    metadata = {"corpus": corpus, "synthetic": synthetic, "loader_version": loader_version, "ranges": scales}
    totals = _Totals(tasks={name: Counter() for name in known})
    with _replaced_atomically(out_dir) as partial:
        parts = (
            Part(number, chunk, root, keep_missing_audio, metadata, known)
            for number, chunk in enumerate(_chunks(_without_duplicates(rows)))
        )
        n_parts = _write_parts(parts, partial, totals, corpus, processes or usable_cores())
        if not totals.n_utterances:
            shutil.rmtree(partial)
        _require_utterances(totals, corpus)
        summary = metadata | _summary(totals, known) | dict(extra or {})
        write_json(partial / "summary.json", summary)
        _keep_only_parts(partial / "utterances", n_parts)
    return summary


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` contains a corpus that ``write_corpus`` wrote, and nothing else except its folds."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} - {"folds"} == PARTS


def _summary(totals: _Totals, tasks: Mapping[str, Task]) -> dict[str, Any]:
    n_rejected = totals.rejected.total()
    return {
        "root_hash": hash_json(sorted(totals.row_hashes)),
        "n_found": totals.n_utterances + n_rejected,
        "n_utterances": totals.n_utterances,
        "n_rejected": n_rejected,
        "n_without_audio": totals.without_audio,
        "rejected": dict(sorted(totals.rejected.items())),
        "labels": dict(sorted(totals.labels.items())),
        "speakers": dict(sorted(totals.speakers.items())),
        "duration_s": round(totals.duration_s, 3),
        "tasks": {
            name: {label: totals.tasks[name][label] for label in (*_counted(task), "unmapped")}
            for name, task in tasks.items()
        },
    }


def _counted(task: Task) -> tuple[str, ...]:
    return task.label_set.labels if task.label_set else ("mapped",)


@contextmanager
def _replaced_atomically(out_dir: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``out_dir`` if the block ends without an error, and is kept to resume if not."""
    out_dir = out_dir.resolve()
    partial, old, locked = (out_dir.with_name(f".{out_dir.name}.{state}") for state in ("partial", "old", "lock"))
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(locked, timeout=0):
            if old.exists() and not out_dir.exists():  # a run was killed between the two renames below
                old.replace(out_dir)
            if old.exists():
                shutil.rmtree(old)
            (partial / "utterances").mkdir(parents=True, exist_ok=True)
            yield partial
            if out_dir.exists():
                out_dir.replace(old)
            partial.replace(out_dir)
            if old.exists():
                shutil.rmtree(old)
            locked.unlink(missing_ok=True)
    except Timeout as error:
        raise CorpusError(
            f"{out_dir}: another process is preparing it; wait for it, or choose another output.dir"
        ) from error
    except LalmMerError:
        locked.unlink(missing_ok=True)
        if not any(path.is_file() for path in partial.rglob("part-*")):  # nothing to resume from
            shutil.rmtree(partial, ignore_errors=True)
        raise
    except (OSError, pa.ArrowException, BrokenProcessPool) as error:
        reason = one_line(error)
        raise CorpusError(
            f"{out_dir}: cannot be written ({reason}); check disk space and memory, or choose another output.dir, and "
            "rerun the same command to resume"
        ) from error


def _without_duplicates(rows: Iterable[Utterance | Rejection]) -> Iterator[Utterance | Rejection]:
    first_path: dict[str, str] = {}
    for row in rows:
        if isinstance(row, Utterance):
            path = row.audio_path or row.utterance_id
            if row.utterance_id in first_path:
                detail = f"utterance {row.utterance_id} was already found at {first_path[row.utterance_id]}"
                yield Rejection(path, "duplicate_id", detail)
                continue
            first_path[row.utterance_id] = path
        yield row


def _chunks(rows: Iterator[Utterance | Rejection]) -> Iterator[list[Utterance | Rejection]]:
    while chunk := list(itertools.islice(rows, _ROWS_IN_A_PART)):
        yield chunk


def _write_parts(parts: Iterator[Part], partial: Path, totals: _Totals, corpus: str, processes: int) -> int:
    """Make the parts, write the rejections and add up the counts; returns the number of parts."""
    n_parts = 0
    with (
        (partial / "rejected.jsonl").open("w", encoding="utf-8") as rejected,
        tqdm(desc=f"prepare {corpus}", unit=" files", disable=None) as bar,
    ):
        for counts in in_processes(
            functools.partial(make_part, folder=partial / "utterances"), parts, processes, ahead=2
        ):
            totals.add(counts)
            rejected.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in counts.rejected)
            bar.update(len(counts.row_hashes) + len(counts.rejected))
            n_parts += 1
    return n_parts


def _keep_only_parts(folder: Path, n_parts: int) -> None:
    """Remove the counts, and parts of a killed run on other rows."""
    kept = {part_name(number) for number in range(n_parts)}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def _require_utterances(totals: _Totals, corpus: str) -> None:
    if totals.n_utterances:
        return
    if totals.first_rejection is None:
        raise CorpusError(f"{corpus}: found no audio files of the corpus; does corpus.root point to its release?")
    first = totals.first_rejection
    hint = "; corpus.missing_audio=keep keeps utterances without audio" if totals.rejected["missing_audio"] else ""
    raise CorpusError(
        f"{corpus}: all {totals.rejected.total()} files or rows found were rejected, the first one {first['path']}: "
        f"{first['reason']} ({first['detail']}); nothing was written{hint}"
    )
