"""Audit of existing splits: what they share, according to the utterance ids or to a prepared corpus."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from lalm_mer.core.audio import VIDEO_SUFFIXES
from lalm_mer.core.errors import ConfigError, CorpusError, one_line
from lalm_mer.core.schema import Facts
from lalm_mer.core.spelling import folded, normalised
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.corpora.base import AUDIO_SUFFIXES
from lalm_mer.corpora.settings import READERS
from lalm_mer.protocols.folded_corpus import compared_columns
from lalm_mer.protocols.protocol import COLUMNS
from lalm_mer.protocols.splits import folded_columns

__all__ = ["UNKNOWN", "Audit", "Overlap", "audit_split", "read_split_file"]

UNKNOWN = "unknown"
"""Name of the corpus of ids that no naming rule explains."""
_ID_COLUMNS = ("utterance_id", "key", "id", "name", "FileName", "file")
_SPLIT_SUFFIX = re.compile(r"(?P<rest>.+)-(?P<split>train|dev|val|test)")


@dataclass(frozen=True)
class Overlap:
    """What two splits share in one column.

    Args:
        column: ``utterance`` or one of ``COLUMNS``
        shared: number of values that both splits have
        n_values: number of distinct values of the second split
        n_utterances: number of utterances of the second split that have a shared value
        n_unknown: number of utterances of both splits whose value is not known
        example: one shared value, or for audio the first utterances that share it; None if there is none
    """

    column: str
    splits: tuple[str, str]
    shared: int
    n_values: int
    n_utterances: int
    n_unknown: int
    example: str | None


@dataclass(frozen=True)
class Audit:
    """The comparison of all splits.

    Args:
        n: split -> number of utterances
        overlaps: one for each pair of splits and each column that is known for at least one utterance
        unknown: columns that are not known for any utterance
    """

    corpus: str
    n: dict[str, int]
    overlaps: list[Overlap]
    unknown: list[str]

    def failures(self, required: Sequence[str]) -> list[str]:
        """Columns that must be disjoint but are shared or unknown, as one line each."""
        lines = []
        for column in ("utterance", *required):
            of_column = [overlap for overlap in self.overlaps if overlap.column == column]
            unknown = max((overlap.n_unknown for overlap in of_column), default=0)
            if not of_column or unknown:
                lacking = f"{unknown} utterances" if of_column else "any utterance"
                lines.append(f"{column} of {lacking} is not known, so nothing is proven; give --data or --corpus")
            lines += [
                f"{overlap.splits[0]} and {overlap.splits[1]} share {overlap.shared} of {overlap.n_values} values of "
                f"{column}, for example {overlap.example}"
                for overlap in of_column
                if overlap.shared
            ]
        return lines


def read_split_file(path: Path) -> list[str]:
    """Read the utterance ids of one split.

    The file has one id per line, or is a CSV or TSV with one of the columns ``_ID_COLUMNS``, JSON Lines of objects with
    one of these keys (EmoBox has ``key``), a JSON list of ids or of such objects, or a JSON object keyed by ids.

    Raises:
        ConfigError: naming the file, if it cannot be read, has no ids, or has a duplicate id
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a regular file; expected a list of utterance ids")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from error
    try:
        ids = [name for name in map(normalised, _ids(content, path.suffix.lower())) if name]
    except (ValueError, RecursionError, csv.Error) as error:
        raise ConfigError(f"{path}: not valid {path.suffix} ({one_line(error)})") from error
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]}; expected one of {', '.join(_ID_COLUMNS)}") from None
    if not ids:
        raise ConfigError(f"{path}: no utterance ids; expected one or more")
    duplicates = [name for name, n in pd.Series(ids).value_counts().items() if n > 1]
    if duplicates:
        raise ConfigError(f"{path}: {len(duplicates)} duplicate ids, for example {duplicates[0]}; keep one of each")
    return ids


def _ids(content: str, suffix: str) -> Iterator[str]:
    if suffix in (".jsonl", ".ndjson"):
        lines = ((n, line) for n, line in enumerate(content.split("\n"), 1) if line.strip())
        yield from (_id_of(json.loads(line), f"line {n}") for n, line in lines)
    elif suffix == ".json":
        parsed = json.loads(content)
        if not isinstance(parsed, list | dict):
            raise KeyError("neither a list nor an object")
        yield from (_id_of(item, f"item {n}") for n, item in enumerate(parsed, 1))
    elif suffix in (".csv", ".tsv"):
        rows = csv.DictReader(io.StringIO(content, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
        yield from (_id_of(row, f"row {n}") for n, row in enumerate(rows, 2))
    else:
        yield from (line.strip() for line in content.splitlines() if line.strip())


def _id_of(item: Any, where: str) -> str:  # noqa: ANN401 a JSON value
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        for column in _ID_COLUMNS:
            if item.get(column):
                return str(item[column])
    raise KeyError(f"{where} has no id")


def audit_split(
    splits: Mapping[str, Sequence[str]], corpus: str | None = None, prepared: PreparedCorpus | None = None
) -> Audit:
    """Compare each pair of splits.

    Args:
        splits: ``train``, ``test`` and optionally ``dev`` -> utterance ids, or names of files, in any usual form
        corpus: the corpus whose naming rule gives speaker, session and script of an id; None for the only one with a
            distinctive rule that fits the ids of all splits, or else for ``UNKNOWN``, whose ids say nothing
        prepared: a prepared corpus, which also has the other columns

    Raises:
        ConfigError: if the ids are not those of ``corpus``
        CorpusError: if the prepared corpus lacks an utterance, or the name of a file fits several
    """
    names = [name for ids in splits.values() for name in ids]
    if prepared is None:
        rule = _naming_rule(names, corpus)
        corpus = UNKNOWN if rule is None else rule[0]
        table = _table({name: {"utterance": name} for name in names}) if rule is None else _from_ids(names, *rule)
    elif corpus not in (None, prepared.name):
        raise ConfigError(f"--corpus {corpus}, but the prepared corpus of --data is {prepared.name}")
    else:
        corpus, table = prepared.name, _from_prepared(names, prepared)
    rows_of = {split: table.loc[list(ids)] for split, ids in splits.items()}
    for split, rows in rows_of.items():
        duplicates = rows.index[rows["utterance"].duplicated()]
        if len(duplicates):
            raise ConfigError(f"{split}: {len(duplicates)} duplicate utterances, for example {duplicates[0]}")
    columns = ("utterance", *(column for column in COLUMNS if table[column].notna().any()))
    overlaps = [_overlap(column, pair, rows_of) for pair in itertools.combinations(rows_of, 2) for column in columns]
    unknown = [column for column in COLUMNS if column not in columns]
    return Audit(corpus, {split: len(ids) for split, ids in splits.items()}, overlaps, unknown)


def _without_suffix(path: str) -> str:
    stem, _, suffix = path.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in AUDIO_SUFFIXES | VIDEO_SUFFIXES else path


def _forms(stem: str, corpus: str | None) -> Iterator[str]:
    """Forms in which a corpus may write an id to which its name, dashes or the split were added.

    Args:
        stem: the id, without folders and suffix
        corpus: its name, the only prefix that is removed; None to remove any
    """
    yield stem
    yield from _with_split(stem)
    for place in (place for place, letter in enumerate(stem) if letter == "-"):
        prefix, rest = stem[:place], stem[place + 1 :]
        if rest and (corpus is None or _letters(prefix) == _letters(corpus)):
            for form in (rest, rest.replace("-", "_")):
                yield form
                yield from _with_split(form)


def _with_split(form: str) -> Iterator[str]:
    of_split = _SPLIT_SUFFIX.fullmatch(form)
    if of_split:
        yield f"{of_split['split'].replace('val', 'dev')}_{of_split['rest']}"


def _letters(name: str) -> str:
    return folded(name).replace(" ", "")


_FactsOf: TypeAlias = Callable[[str], Facts | None]


def _facts_of(name: str, corpus: str, facts: _FactsOf) -> tuple[str, Facts] | None:
    """The id in the form of its corpus, and the facts encoded in it."""
    stem = _without_suffix(name.replace("\\", "/").rpartition("/")[2])
    return next(((form, found) for form in _forms(stem, corpus) if (found := facts(form)) is not None), None)


def _naming_rule(names: Sequence[str], corpus: str | None) -> tuple[str, _FactsOf] | None:
    """The corpus and its function ``facts``; without a name, the only corpus made for such ids, or None."""
    known = {name: reader.facts for name, reader in READERS.items() if reader.facts is not None}
    if corpus is not None:
        if corpus not in known:
            raise ConfigError(f"corpus {corpus!r} has no naming rule for ids; expected one of {', '.join(known)}")
        return corpus, known[corpus]
    fitting = [
        (each, facts)
        for each, facts in known.items()
        if READERS[each].distinctive_ids and all(_facts_of(name, each, facts) for name in names)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _from_ids(names: Sequence[str], corpus: str, facts: _FactsOf) -> pd.DataFrame:
    rows: dict[str, dict[str, str | None]] = {}
    for name in names:
        found = _facts_of(name, corpus, facts)
        if found is None:
            raise ConfigError(f"{name!r} is not an utterance id of {corpus}; is --corpus right?")
        form, encoded = found
        rows[name] = asdict(encoded) | {"utterance": form}
    return _table(rows)


def _table(rows: dict[str, dict[str, str | None]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=["utterance", *COLUMNS])


class _Ids:
    """The utterance ids of a prepared corpus, found by an id or by the name of a file in any usual form."""

    def __init__(self, prepared: PreparedCorpus, ids: Sequence[str]) -> None:
        self._prepared = prepared
        self._ids = set(ids)
        self._by_path: dict[str, set[str]] = {}  # path of the file without its suffix, or an id
        self._by_name: dict[str, set[str]] = {}  # its last part
        for name, path in zip(ids, prepared.audio_paths(), strict=True):
            for form in {name, _without_suffix(normalised(path or name))}:
                self._by_path.setdefault(form, set()).add(name)
                self._by_name.setdefault(form.rpartition("/")[2], set()).add(name)

    def find(self, written: str) -> str | None:
        """The only utterance that ``written`` names; None if there is none.

        Raises:
            CorpusError: if it names several
        """
        if written in self._ids:
            return written
        parts = _without_suffix(written.replace("\\", "/")).split("/")
        tails = ["/".join(parts[first:]) for first in range(len(parts))]
        found = [self._by_path[tail] for tail in tails if tail in self._by_path]
        found += [self._by_name[form] for form in _forms(parts[-1], None) if form in self._by_name]
        if found and len(found[0]) > 1:
            first, second = sorted(found[0])[:2]
            raise CorpusError(
                f"{written!r} fits {first!r} and {second!r} of the prepared corpus {self._prepared.name}; give ids"
            )
        return next(iter(found[0])) if found else None


def _from_prepared(names: Sequence[str], prepared: PreparedCorpus) -> pd.DataFrame:
    table = folded_columns(compared_columns(prepared)).set_index("utterance_id")
    ids = _Ids(prepared, list(table.index))
    rows = {name: ids.find(name) for name in names}
    missing = [name for name, row in rows.items() if row is None]
    if missing:
        where = f"the prepared corpus {prepared.name}, which has ids such as {table.index[0]}"
        raise CorpusError(f"{len(missing)} ids are not in {where}, for example {missing[0]}")
    known_as = [str(row) for row in rows.values()]
    found = table.loc[known_as].assign(utterance=known_as)
    found.index = pd.Index(list(rows))
    return found


def _overlap(column: str, pair: tuple[str, str], rows_of: Mapping[str, pd.DataFrame]) -> Overlap:
    first, second = (rows_of[split][column] for split in pair)
    shared = set(first.dropna()) & set(second.dropna())
    example = min(map(str, shared), default=None)
    if column == "audio" and shared:  # whose value is a hash
        example = " and ".join(str(values.index[values.isin([min(shared)])][0]) for values in (first, second))
    return Overlap(
        column,
        pair,
        len(shared),
        int(second.nunique()),
        int(second.isin(shared).sum()),
        int(first.isna().sum() + second.isna().sum()) if column in ("speaker", "session", "utterance") else 0,
        example,
    )
