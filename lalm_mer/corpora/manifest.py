"""Reader of a folder of audio with a CSV or JSONL manifest of one row per utterance."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lalm_mer.core.audio import VIDEO_SUFFIXES
from lalm_mer.core.csv_records import csv_records
from lalm_mer.core.errors import ConfigError, CorpusError, one_line
from lalm_mer.core.file_kinds import placeholder
from lalm_mer.core.names import UTTERANCE_TRANSCRIPT_SOURCES
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.core.spelling import normalised
from lalm_mer.core.suggestions import no_such_path
from lalm_mer.corpora.base import AUDIO_SUFFIXES, list_files, relative, require_inside
from lalm_mer.corpora.file_names import FileNames, is_absolute

__all__ = ["LOADER_VERSION", "read"]

LOADER_VERSION = "3"

_STRINGS = ("transcript", "transcript_source", "speaker", "gender", "ethnicity", "language", "session", "dialogue",
            "script", "split", "label", "video_path")  # fmt: skip
_INTEGERS = ("age", "turn")
_DIMENSIONS = ("valence", "arousal", "dominance", "sentiment")
_TIMES = ("start_s", "end_s")
_COLUMNS = ("path", "utterance_id", *_STRINGS, *_INTEGERS, *_DIMENSIONS, *_TIMES)
_NOT_UNICODE = re.compile("[\ud800-\udfff]")
_LONGEST_NAME = 255
_MOST_DIGITS = 308
_SUFFIXES = AUDIO_SUFFIXES | VIDEO_SUFFIXES
_HEADER = 0  # number of the header among the records of a CSV
_DELIMITERS = (",", "\t", ";", "|")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)

Values = dict[str, Any]


class _BadValueError(Exception):
    """A cell that cannot be read; its row is rejected."""


@dataclass(frozen=True)
class _Row:
    """One row: its number as in a spreadsheet (the header is row 1), and its cells by column of the library."""

    number: int
    cells: Mapping[str, Any]

    @property
    def path(self) -> str:
        return str(self.cells.get("path") or "")


def read(
    root: Path,
    manifest: str,
    *,
    corpus: str = "manifest",
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    encoding: str = "utf-8-sig",
    delimiter: str | None = None,
    ranges: Mapping[str, Sequence[float]] | None = None,
    cut: bool = True,
) -> Iterator[Utterance | Rejection]:
    """Read the rows of a manifest in their order, then reject audio files that no row names as ``orphan``.

    Only ``path`` is required, relative to the root or absolute below it; ``utterance_id`` defaults to the path of the
    file below the root, without its suffix. An empty cell is a missing value, and so is a column that the manifest
    lacks, unless ``columns`` names it.

    Args:
        root: folder of the corpus
        manifest: its CSV file (any suffix), or its ``.jsonl`` file with one object per line
        corpus: name of the corpus
        columns: column of the library -> column of the manifest, where they differ
        labels: all labels that may occur; None for any
        encoding: character encoding of the manifest
        delimiter: separator of the fields of a CSV; None for the comma, tab, semicolon or bar found in its header
        ranges: dimension -> lowest and highest value; a value outside is a ``bad_value``
        cut: whether ``start_s`` to ``end_s`` is cut out of the file

    Raises:
        ConfigError: if ``columns`` or ``ranges`` name an unknown column, or the encoding is unknown
        CorpusError: if the manifest cannot be read, lacks a required column, or has an undeclared label
    """
    columns, ranges = {name: normalised(written) for name, written in (columns or {}).items()}, ranges or {}
    _check_options(columns, ranges)
    characters = _decoded(root, manifest, encoding)
    records = functools.partial(_records, characters, manifest, delimiter, columns.get("path", "path"))
    found_columns = _found_columns(records(), manifest, columns, cut=cut)
    _check_labels(_rows(records(), found_columns), manifest, labels)
    listed = list(list_files(root))
    files = FileNames(root, [relative(root, item) for item in listed if isinstance(item, Path)])
    named: set[str] = set()
    for row in _rows(records(), found_columns):
        read_row = row if isinstance(row, Rejection) else _read_row(row, corpus, ranges, files, cut=cut)
        if isinstance(read_row, Utterance):
            named.add(str(read_row.audio_path))
        elif normalised(row.path).isprintable():
            named.add(files.find(row.path))
        yield read_row
    for item in listed:
        if isinstance(item, Rejection):
            yield item
        elif item.suffix.lower() in AUDIO_SUFFIXES and relative(root, item) not in named:
            yield Rejection(relative(root, item), "orphan", f"no row of {manifest} names it")


def _check_labels(rows: Iterator[_Row | Rejection], manifest: str, labels: Sequence[str] | None) -> None:
    declared = None if labels is None else set(map(normalised, labels))
    for row in rows:
        cell = None if isinstance(row, Rejection) else row.cells.get("label")
        label = "" if cell is None else normalised(str(cell))
        if declared is not None and label and label not in declared and isinstance(row, _Row):
            raise CorpusError(
                f"{manifest}: row {row.number}, file {one_line(row.path)}: label {label[:80]!r} is not one of the "
                f"declared corpus.labels {list(labels or ())}; correct the row or declare it"
            )


def _check_options(columns: Mapping[str, str], ranges: Mapping[str, Sequence[float]]) -> None:
    unknown = sorted(set(columns) - set(_COLUMNS))
    if unknown:
        raise ConfigError(f"argument 'columns.{unknown[0]}': no such column; expected one of {', '.join(_COLUMNS)}")
    for name, scale in ranges.items():
        if name not in _DIMENSIONS or len(scale) != 2 or not scale[0] < scale[1]:
            raise ConfigError(
                f"argument 'ranges.{name}': expected one of {', '.join(_DIMENSIONS)} with [lowest, highest], "
                f"found {list(scale)}"
            )


def _found_columns(
    records: Iterator[tuple[int, Values | Rejection]], manifest: str, columns: Mapping[str, str], *, cut: bool
) -> dict[str, str]:
    """Column of the library -> column of the manifest, for those that it has."""
    header: dict[str, None] = {}
    malformed: Rejection | None = None
    for _, cells in records:
        if isinstance(cells, Rejection):
            malformed = malformed or cells
        else:
            header.update(dict.fromkeys(cells))
    if malformed is not None and not header:
        raise CorpusError(f"{manifest}: no row can be read, the first one is {malformed.detail}")
    for name in ("path", *columns):
        if columns.get(name, name) not in header:
            raise CorpusError(
                f"{manifest}: no column {columns.get(name, name)!r} for {name!r}, found "
                f"{one_line(', '.join(header)) if header else 'none'}; set corpus.columns.{name}"
            )
    found = {name: columns.get(name, name) for name in _COLUMNS if columns.get(name, name) in header}
    if cut and set(_TIMES) & set(found) and "utterance_id" not in found:
        raise CorpusError(f"{manifest}: start_s and end_s allow several utterances per file; add a column utterance_id")
    return found


def _rows(
    records: Iterator[tuple[int, Values | Rejection]], found_columns: Mapping[str, str]
) -> Iterator[_Row | Rejection]:
    for number, cells in records:
        if isinstance(cells, Rejection):
            yield cells
        elif number > _HEADER:
            yield _Row(number, {name: cells.get(found_columns.get(name, "")) for name in _COLUMNS})


def _records(
    characters: str, manifest: str, delimiter: str | None, path_column: str
) -> Iterator[tuple[int, Values | Rejection]]:
    """The number of each row and its cells by column of the manifest, or the rejection of a malformed row."""
    if Path(manifest).suffix.lower() in (".jsonl", ".ndjson"):
        return _jsonl(characters, manifest)
    return _csv(characters, manifest, delimiter, path_column)


def _decoded(root: Path, manifest: str, encoding: str) -> str:
    if not root.is_dir():
        raise CorpusError(f"corpus root {root}: {no_such_path(root, 'folder')}")
    require_inside(root, root / manifest)
    try:
        content = (root / manifest).read_bytes()
        if (what := placeholder(content)) is not None:
            raise CorpusError(f"{root / manifest}: {what}")
        return content.decode(encoding)
    except CorpusError:
        raise
    except OSError as error:
        raise CorpusError(f"{root / manifest}: cannot be read ({error.strerror}); set corpus.manifest") from error
    except LookupError as error:
        raise ConfigError(f"argument 'encoding': {error}") from error
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{manifest}: row {row}, byte {error.start} ({content[error.start]:#04x}) is not {encoding}; "
            "set corpus.encoding, cp1252 for files of Windows programs"
        ) from error


def _csv(
    characters: str, manifest: str, delimiter: str | None, path_column: str
) -> Iterator[tuple[int, Values | Rejection]]:
    """The header, as a row with number ``_HEADER`` so that a manifest without rows has columns, then all rows."""
    first_line = characters.partition("\n")[0]
    found = delimiter or max(_DELIMITERS, key=first_line.count)

    def path_of(header: Sequence[str], cells: Sequence[str]) -> str | None:
        paths = [cell for name, cell in zip(header, cells, strict=False) if normalised(name) == path_column]
        return next((path for path in paths if Path(path).suffix.lower() in _SUFFIXES and path.isprintable()), None)

    def is_row(header: Sequence[str], _: Sequence[str], cells: Sequence[str]) -> bool:
        return len(cells) == len(header) and path_of(header, cells) is not None

    try:
        header: list[str] = []
        for record in csv_records(characters, found, is_row=is_row, strict=True):
            fault, cells = record.fault, record.cells
            if record.number == 1:
                header = [normalised(name) for name in cells]
                duplicates = sorted({name for name in header if header.count(name) > 1})
                if duplicates:
                    raise CorpusError(f"{manifest}: duplicate column {duplicates[0]!r} in the header; rename one")
                yield _HEADER, dict.fromkeys(header)
                continue
            if fault is None and cells and len(cells) != len(header):
                fault = f"{len(cells)} fields, the header has {len(header)}; quote a field that contains {found!r}"
            if fault is not None:
                where = path_of(header, cells) or manifest
                yield record.number, Rejection(where, "bad_row", f"{manifest}: row {record.number}: {fault}")
            elif cells:
                yield record.number, dict(zip(header, cells, strict=True))
    except (csv.Error, TypeError, ValueError) as error:
        raise CorpusError(f"{manifest}: not a CSV with delimiter {found!r} ({error}); set corpus.delimiter") from error


def _jsonl(characters: str, manifest: str) -> Iterator[tuple[int, Values | Rejection]]:
    for number, line in enumerate(io.StringIO(characters, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            cells, fault = json.loads(line, parse_int=_integer), "expected an object of columns and values"
        except (ValueError, RecursionError) as error:
            cells, fault = None, f"not valid JSON ({one_line(error)})"
        if not isinstance(cells, dict):
            yield number, Rejection(manifest, "bad_row", f"line {number}: {fault}")
            continue
        named = {normalised(name): value for name, value in cells.items()}
        if len(named) < len(cells):
            raise CorpusError(f"{manifest}: line {number}: two spellings of one column in {list(cells)}; keep one")
        yield number, named


def _integer(digits: str) -> int | str:
    """The number; its digits, as in a CSV, if they are more than a float can have, of which Python reads 4300."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _read_row(
    row: _Row, corpus: str, ranges: Mapping[str, Sequence[float]], files: FileNames, *, cut: bool
) -> Utterance | Rejection:
    if not normalised(row.path):
        return Rejection(f"row {row.number}", "bad_value", "path is empty")
    try:
        for name in ("path", "utterance_id"):
            _check_identifier(name, row.cells.get(name))
        values = _values(row.cells, ranges)
        path = files.find(row.path)
        utterance_id = _utterance_id(row, path, files)
        if values["video_path"] is not None:
            values["video_path"] = _relative_path("video_path", files.find(values["video_path"]))
    except _BadValueError as error:
        shown = row.path if row.path.isprintable() else f"row {row.number}"
        return Rejection(shown[:_LONGEST_NAME], "bad_value", f"row {row.number}: {error}")
    if is_absolute(path):
        return Rejection(path[:_LONGEST_NAME], "outside_root", f"row {row.number}: not below the corpus folder")
    return Utterance(
        utterance_id=utterance_id,
        corpus=corpus,
        audio_path=path,
        cut=cut and (values["start_s"] is not None or values["end_s"] is not None),
        **values,
    )


def _utterance_id(row: _Row, path: str, files: FileNames) -> str:
    """The id as given, or from ``path``; never with the folders above the root."""
    cell = row.cells.get("utterance_id")
    if given := "" if cell is None else normalised(str(cell)):
        return _relative_path("utterance_id", files.below_root(given)) if is_absolute(given) else given
    if PurePosixPath(path).name in ("", ".."):
        raise _BadValueError(f"path {row.path!r} names no file")
    return PurePosixPath(path).with_suffix("").as_posix()


def _relative_path(name: str, path: str) -> str:
    if is_absolute(path):
        raise _BadValueError(f"{name} {path!r} is not below the corpus folder; make it relative to it")
    return path


def _values(cells: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]) -> Values:
    values: Values = {name: _string(name, cells[name]) for name in _STRINGS}
    values |= {name: _number(name, cells[name]) for name in (*_INTEGERS, *_DIMENSIONS, *_TIMES)}
    for name in _INTEGERS:
        if values[name] is not None:
            if not values[name].is_integer():
                raise _BadValueError(f"{name} {values[name]} is not an integer")
            values[name] = int(values[name])
    for name, (lowest, highest) in ranges.items():
        if values[name] is not None and not lowest <= values[name] <= highest:
            raise _BadValueError(f"{name} {values[name]} is outside [{lowest}, {highest}]")
    start_s, end_s = values["start_s"] or 0.0, values["end_s"]
    if start_s < 0 or (end_s is not None and end_s <= start_s):
        raise _BadValueError(f"start_s {values['start_s']} and end_s {end_s} do not enclose any audio")
    source = values["transcript_source"] = normalised(values["transcript_source"] or "") or None
    if source is not None and source not in UTTERANCE_TRANSCRIPT_SOURCES:
        raise _BadValueError(f"transcript_source {source!r} is not one of {', '.join(UTTERANCE_TRANSCRIPT_SOURCES)}")
    return values


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not normalised(cell))


def _string(name: str, cell: object) -> str | None:
    if _is_empty(cell):
        return None
    if isinstance(cell, (bool, float, list, dict)):
        raise _BadValueError(f"{name} {cell!r} is not a string")
    if _NOT_UNICODE.search(str(cell)):
        raise _BadValueError(f"{name} {cell!r} contains an unpaired surrogate")
    return str(cell)


def _check_identifier(name: str, cell: object) -> None:
    """Check a path or id: printable characters, each part short enough for a file name."""
    written = normalised(_string(name, cell) or "")
    if not written.isprintable() or max(map(len, written.split("/"))) > _LONGEST_NAME:
        raise _BadValueError(f"{name} {written[:80]!r}: expected at most {_LONGEST_NAME} printable characters")


def _number(name: str, cell: object) -> float | None:
    """Parse a finite number; None for an empty cell. ``3,5``, ``1_000`` and ``nan`` are errors."""
    if _is_empty(cell):
        return None
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool) and abs(cell) < 1e300
    if not is_number and not (isinstance(cell, str) and _NUMBER.fullmatch(normalised(cell))):
        raise _BadValueError(f"{name} {cell!r} is not a number")
    number = float(normalised(cell) if isinstance(cell, str) else cell)  # type: ignore[arg-type]
    if not math.isfinite(number) or (name in _INTEGERS and abs(number) >= 2**31):
        raise _BadValueError(f"{name} {str(cell)[:40]!r} is too large")
    return number
