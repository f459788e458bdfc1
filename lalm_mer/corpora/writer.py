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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from lalm_mer.core.errors import CorpusError, LalmMerError, one_line
from lalm_mer.core.labels import Task
from lalm_mer.core.locks import only_writer
from lalm_mer.core.output import output_error, write_json
from lalm_mer.core.processes import in_processes, usable_cores
from lalm_mer.core.progress import progress
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.core.spelling import folded, normalised
from lalm_mer.core.suggestions import contents
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.parts import SCHEMA, Part, PartCounts, corpus_hashes, make_part, part_name

__all__ = ["SCHEMA", "is_prepared", "write_corpus"]

_VALUES = ("speaker", "gender", "ethnicity", "language", "session", "dialogue", "script", "split", "label")
PARTS = frozenset(("utterances", "rejected.jsonl", "summary.json"))
_ROWS_IN_A_PART = 128


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

    Texts are stored as ``normalised`` returns them; spellings that become one value are counted in the summary. Of
    utterances with the same id the first is kept and the others are rejected as ``duplicate_id``. After a kill, a call
    with the same rows resumes.

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
        extra: further keys of the summary and of the metadata of the Parquet files, plain data
        processes: number of processes that read audio; None for one per core. The result is the same. A script needs
            ``if __name__ == "__main__":`` around the call

    Returns:
        The content of ``summary.json``, in which ``n_found = n_utterances + n_rejected``

    Raises:
        CorpusError: if no row is kept (nothing is written then), ``out_dir`` contains something else, or writing fails
        OutputError: if another process is writing ``out_dir``
    """
    if out_dir.exists() and not is_prepared(out_dir) and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise CorpusError(f"{out_dir}: contains something other than a prepared corpus; choose another output.dir")
    known = load_tasks(corpus) if tasks is None else tasks
    metadata = {"corpus": corpus, "synthetic": synthetic, "loader_version": loader_version, **(extra or {})}
    metadata["ranges"] = None if ranges is None else {name: list(scale) for name, scale in ranges.items()}
    spellings: dict[str, dict[str, set[str]]] = {name: {} for name in _VALUES}
    with only_writer(out_dir), _replaced_atomically(out_dir) as partial:
        parts = (
            Part(number, chunk, root, keep_missing_audio, metadata, known)
            for number, chunk in enumerate(_chunks(_without_duplicates(_normalised(rows, spellings))))
        )
        counts = _write_parts(parts, partial, corpus, processes or usable_cores())
        if not any(part.row_hashes for part in counts):
            shutil.rmtree(partial)
            raise _nothing_kept(counts, corpus, root)
        summary = metadata | _summary(counts, known) | _spellings(spellings)
        write_json(partial / "summary.json", summary)
        _keep_only_parts(partial / "utterances", len(counts))
    return summary


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` contains a corpus that ``write_corpus`` wrote, and nothing else except its folds."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} - {"folds"} == PARTS


def _summary(parts: Sequence[PartCounts], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The counts of the corpus, sums of those of its parts."""
    row_hashes = [row_hash for part in parts for row_hash in part.row_hashes]
    samples_hashes = [samples for part in parts for samples in part.samples_hashes]
    rejected = Counter(rejection["reason"] for part in parts for rejection in part.rejected)
    return {
        **corpus_hashes(row_hashes, samples_hashes),
        "n_found": len(row_hashes) + rejected.total(),
        "n_utterances": len(row_hashes),
        "n_rejected": rejected.total(),
        "n_without_audio": sum(part.without_audio for part in parts),
        "rejected": dict(sorted(rejected.items())),
        "labels": dict(sorted(_added(part.labels for part in parts).items())),
        "speakers": dict(sorted(_added(part.speakers for part in parts).items())),
        "duration_s": round(sum(part.duration_s for part in parts), 3),
        "tasks": {name: _of_task(task, _added(part.tasks[name] for part in parts)) for name, task in tasks.items()},
    }


def _added(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _of_task(task: Task, counts: Counter[str]) -> dict[str, int]:
    labels = task.label_set.labels if task.label_set else ("mapped",)
    return {label: counts[label] for label in (*labels, "unmapped")}


@contextmanager
def _replaced_atomically(out_dir: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``out_dir`` if the block ends without an error, and is kept to resume if not."""
    out_dir = out_dir.resolve()
    partial, old = (out_dir.with_name(f".{out_dir.name}.{state}") for state in ("partial", "old"))
    try:
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
    except LalmMerError:
        if not any(path.is_file() for path in partial.rglob("part-*")):  # nothing to resume from
            shutil.rmtree(partial, ignore_errors=True)
        raise
    except (pa.ArrowInvalid, OverflowError) as error:
        raise CorpusError(
            f"{out_dir}: a value of the corpus does not fit its column ({one_line(error)}); correct it in the release"
        ) from error
    except (OSError, pa.ArrowException, BrokenProcessPool) as error:
        raise output_error(error, out_dir) or CorpusError(
            f"{out_dir}: cannot be written ({one_line(error)}); check the memory of this machine, or choose another "
            "output.dir, and rerun the same command to resume"
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


def _normalised(
    rows: Iterable[Utterance | Rejection], spellings: dict[str, dict[str, set[str]]]
) -> Iterator[Utterance | Rejection]:
    """Normalise the texts of the rows, and record the spellings of each value of ``_VALUES``."""
    for row in rows:
        if isinstance(row, Rejection):
            yield row
            continue
        texts: dict[str, str | None] = {"utterance_id": normalised(row.utterance_id) or row.utterance_id}
        if row.transcript is not None:
            texts["transcript"] = normalised(row.transcript, keep_joiners=True) or None
            texts["transcript_source"] = row.transcript_source if texts["transcript"] else None
        for name in _VALUES:
            written = getattr(row, name)
            if written is not None:
                texts[name] = value = normalised(written) or None
                if value is not None:
                    spellings[name].setdefault(value, set()).add(written)
        yield replace(row, **texts)  # type: ignore[arg-type]


def _spellings(spellings: Mapping[str, Mapping[str, set[str]]]) -> dict[str, Any]:
    """What the summary states of spellings.

    ``joined_spellings`` is column -> value -> number of spellings that became it, ``similar_spellings`` is column ->
    groups of values that differ in case or punctuation only.
    """
    joined, similar = {}, {}
    for name, values in spellings.items():
        joined[name] = {value: len(written) for value, written in sorted(values.items()) if len(written) > 1}
        alike: dict[str, list[str]] = {}
        for value in sorted(values):
            alike.setdefault(folded(value), []).append(value)
        similar[name] = [group for group in alike.values() if len(group) > 1]
    return {
        "joined_spellings": {name: of_column for name, of_column in joined.items() if of_column},
        "similar_spellings": {name: of_column for name, of_column in similar.items() if of_column},
    }


def _chunks(rows: Iterator[Utterance | Rejection]) -> Iterator[list[Utterance | Rejection]]:
    while chunk := list(itertools.islice(rows, _ROWS_IN_A_PART)):
        yield chunk


def _write_parts(parts: Iterator[Part], partial: Path, corpus: str, processes: int) -> list[PartCounts]:
    """Make the parts and write the rejections; returns the counts of each part."""
    made = []
    make = functools.partial(make_part, folder=partial / "utterances")
    with (
        (partial / "rejected.jsonl").open("w", encoding="utf-8") as rejected,
        progress(desc=f"prepare {corpus}", unit="files") as bar,
    ):
        for counts in in_processes(make, parts, processes, ahead=2):
            made.append(counts)
            rejected.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in counts.rejected)
            bar.update(len(counts.row_hashes) + len(counts.rejected))
    return made


def _keep_only_parts(folder: Path, n_parts: int) -> None:
    """Remove the counts, and parts of a killed run on other rows."""
    kept = {part_name(number) for number in range(n_parts)}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def _nothing_kept(parts: Sequence[PartCounts], corpus: str, root: Path | None) -> CorpusError:
    rejected = [rejection for part in parts for rejection in part.rejected]
    if not rejected:
        found = "" if root is None else f" in {root}, which has {contents(root)}"
        return CorpusError(f"{corpus}: found no audio files of the corpus{found}; recipes/corpora/ states its files")
    first, is_missing = rejected[0], any(rejection["reason"] == "missing_audio" for rejection in rejected)
    hint = "; corpus.missing_audio=keep keeps utterances without audio" if is_missing else ""
    return CorpusError(
        f"{corpus}: all {len(rejected)} files or rows found were rejected, the first one {first['path']}: "
        f"{first['reason']} ({first['detail']}); nothing was written{hint}"
    )
