"""The rows of a CSV of which some may be malformed: each of these is named, and the others are read."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Record", "csv_records", "is_like_rows"]


@dataclass(frozen=True)
class Record:
    """A row of a CSV.

    Args:
        number: number of the row, as a spreadsheet shows it: the header is row 1
        cells: the cells; empty for an empty line; of a faulty row, its first line split at each delimiter
        fault: what is wrong with the row; None for a well-formed one
    """

    number: int
    cells: Sequence[str]
    fault: str | None = None


def csv_records(
    characters: str,
    delimiter: str,
    *,
    is_row: Callable[[Sequence[str], Sequence[str], Sequence[str]], bool],
    strict: bool,
) -> Iterator[Record]:
    """Read a CSV, whose first record is the header.

    A quoted cell may contain line breaks, so a quotation mark that is opened but not closed merges rows. Where a line
    within a cell is a row of the table, the row that opens the quotation mark and the one that closes it are faulty,
    and the rows between them are read.

    Args:
        characters: content of the CSV
        delimiter: separator of the cells
        is_row: whether a line within a quoted cell is a row of the table; it is given the cells of the header, of the
            first line of the record, and of the line
        strict: whether text after a closing quotation mark, or a mark that is never closed, is a fault

    Raises:
        TypeError: if the delimiter is not one character
        csv.Error: if the header is malformed
    """
    lines = list(io.StringIO(characters, newline=""))
    header: Sequence[str] = ()
    place, closing, number = 0, -1, 0
    while place < len(lines):
        number += 1
        split = lines[place].rstrip("\r\n").split(delimiter)
        if place == closing:
            yield Record(number, split, f"{_shown(lines[place])} closes a quotation mark of an earlier row")
            place += 1
            continue
        reader = csv.reader(map(lines.__getitem__, range(place, len(lines))), delimiter=delimiter, strict=strict)
        try:
            cells = next(reader)
        except csv.Error as error:
            if number == 1:
                raise
            yield Record(number, split, f"{_shown(lines[place])}: {error}")
            place += 1
            continue
        end = place + reader.line_num
        if number == 1:
            header = cells
        elif any(is_row(header, split, line.rstrip("\r\n").split(delimiter)) for line in lines[place + 1 : end]):
            yield Record(number, split, f"{_shown(lines[place])} opens a quotation mark that it does not close")
            place, closing = place + 1, end - 1
            continue
        yield Record(number, cells)
        place = end


def is_like_rows(header: Sequence[str], first: Sequence[str], cells: Sequence[str]) -> bool:
    """Whether a line has the cells of a row, the first of them of the form of another row's: say, a number."""
    forms = {re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", row[0].strip())) for row in (first, cells)}
    return len(cells) == len(header) and len(forms) == 1


def _shown(line: str) -> str:
    return repr(" ".join(line[:80].split()))
