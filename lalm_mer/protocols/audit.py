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

from lalm_mer.core.errors import ConfigError, CorpusError, one_line
from lalm_mer.core.schema import Facts
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.corpora.settings import READERS
from lalm_mer.protocols.folded_corpus import compared_columns
from lalm_mer.protocols.protocol import COLUMNS

__all__ = ["Audit", "Overlap", "audit_split", "read_split_file"]

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
        example: one shared value; None if there is none
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
        ids = list(_ids(content, path.suffix.lower()))
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
        splits: ``train``, ``test`` and optionally ``dev`` -> utterance ids in any usual form
        corpus: the corpus whose naming rule gives speaker, session and script of an id; None to find it by the ids
        prepared: a prepared corpus, which also has the other columns

    Raises:
        ConfigError: if the ids fit no corpus, or more than one
        CorpusError: if the prepared corpus lacks an utterance
    """
    names = [name for ids in splits.values() for name in ids]
    if prepared is None:
        corpus, facts = _naming_rule(names, corpus)
        table = _from_ids(names, corpus, facts)
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


def _forms(name: str) -> Iterator[str]:
    """Forms in which a corpus may write an id that has the name of the corpus, dashes or the split added."""
    stem = name.replace("\\", "/").rpartition("/")[2]
    stem = stem.rpartition(".")[0] if stem.lower().endswith((".wav", ".flac", ".mp4", ".mp3")) else stem
    bare = stem.partition("-")[2]
    for form in (stem, bare):
        if form:
            yield form
            yield form.replace("-", "_")
            of_split = _SPLIT_SUFFIX.fullmatch(form)
            if of_split:
                yield f"{of_split['split'].replace('val', 'dev')}_{of_split['rest']}"


_FactsOf: TypeAlias = Callable[[str], Facts | None]


def _facts_of(name: str, facts: _FactsOf) -> tuple[str, Facts] | None:
    """The id in the form of its corpus, and the facts encoded in it."""
    return next(((form, found) for form in _forms(name) if (found := facts(form)) is not None), None)


def _naming_rule(names: Sequence[str], corpus: str | None) -> tuple[str, _FactsOf]:
    """The corpus and its function ``facts``; without a name the only corpus whose rule fits all ids."""
    known = {name: reader.facts for name, reader in READERS.items() if reader.facts is not None}
    allowed = ", ".join(sorted(known))
    if corpus is not None:
        if corpus not in known:
            raise ConfigError(f"corpus {corpus!r} has no naming rule for ids; expected one of {allowed}")
        return corpus, known[corpus]
    unmatched = {each: [name for name in names if _facts_of(name, facts) is None] for each, facts in known.items()}
    fitting = [each for each, others in unmatched.items() if not others]
    if len(fitting) != 1:
        found = f"{' and '.join(fitting)} have" if fitting else "no corpus has"
        example = names[0] if fitting else min(unmatched.values(), key=len)[0]
        raise ConfigError(
            f"{found} ids such as {example!r}; set --corpus to one of {allowed}, or give a prepared corpus by --data"
        )
    return fitting[0], known[fitting[0]]


def _from_ids(names: Sequence[str], corpus: str, facts: _FactsOf) -> pd.DataFrame:
    rows = {}
    for name in names:
        found = _facts_of(name, facts)
        if found is None:
            raise ConfigError(f"{name!r} is not an utterance id of {corpus}; is --corpus right?")
        form, encoded = found
        rows[name] = asdict(encoded) | {"utterance": form}
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=["utterance", *COLUMNS])


def _from_prepared(names: Sequence[str], prepared: PreparedCorpus) -> pd.DataFrame:
    table = compared_columns(prepared).set_index("utterance_id")
    known = set(table.index)
    rows = {name: next((form for form in (name, *_forms(name)) if form in known), None) for name in names}
    missing = [name for name, row in rows.items() if row is None]
    if missing:
        where = f"the prepared corpus {prepared.name}"
        raise CorpusError(f"{len(missing)} ids are not in {where}, for example {missing[0]}")
    known_as = [str(row) for row in rows.values()]
    found = table.loc[known_as].assign(utterance=known_as)
    found.index = pd.Index(list(rows))
    return found


def _overlap(column: str, pair: tuple[str, str], rows_of: Mapping[str, pd.DataFrame]) -> Overlap:
    first, second = (rows_of[split][column] for split in pair)
    shared = set(first.dropna()) & set(second.dropna())
    return Overlap(
        column,
        pair,
        len(shared),
        int(second.nunique()),
        int(second.isin(shared).sum()),
        int(first.isna().sum() + second.isna().sum()) if column in ("speaker", "session", "utterance") else 0,
        min(map(str, shared), default=None),
    )
