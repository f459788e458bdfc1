"""What the sides of anybody's split share, told by the utterance ids and, where it is at hand, by a prepared corpus."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import Facts
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.corpora.settings import READERS
from lalm_mer.protocols.folded_corpus import compared_columns
from lalm_mer.protocols.protocol import COLUMNS

__all__ = ["Audit", "Sharing", "audit_split", "read_split_file"]

_ID_COLUMNS = ("utterance_id", "key", "id", "name", "FileName", "file")
_SPLIT_SUFFIX = re.compile(r"(?P<rest>.+)-(?P<split>train|dev|val|test)")


@dataclass(frozen=True)
class Sharing:
    """What two sides share in one column.

    Args:
        column: ``utterance`` or one of ``COLUMNS``
        sides: the two, the smaller one in general last
        shared: values that both have
        n_values: distinct values of the second side
        n_utterances: utterances of the second side that have a shared value
        n_unknown: utterances of both sides of which the column is not known
        example: one shared value; None where there is none
    """

    column: str
    sides: tuple[str, str]
    shared: int
    n_values: int
    n_utterances: int
    n_unknown: int
    example: str | None


@dataclass(frozen=True)
class Audit:
    """The whole comparison.

    Args:
        corpus: whose rule told what the ids say
        n: side -> utterances
        sharings: of every pair of sides and every column that is known of at least one utterance
        unknown: columns that nothing is known of
    """

    corpus: str
    n: dict[str, int]
    sharings: list[Sharing]
    unknown: list[str]

    def failures(self, required: Sequence[str]) -> list[str]:
        """What is shared, or cannot be told, although it is required to be disjoint; a line each."""
        lines = []
        for column in ("utterance", *required):
            of_column = [sharing for sharing in self.sharings if sharing.column == column]
            unknown = max((sharing.n_unknown for sharing in of_column), default=0)
            if not of_column or unknown:
                lacking = f"{unknown} utterances" if of_column else "any utterance"
                lines.append(f"{column} of {lacking} is not known, so nothing is proven; give --data or --corpus")
            lines += [
                f"{sharing.sides[0]} and {sharing.sides[1]} share {sharing.shared} of {sharing.n_values} values of "
                f"{column}, for example {sharing.example}"
                for sharing in of_column
                if sharing.shared
            ]
        return lines


def read_split_file(path: Path) -> list[str]:
    """Utterance ids of one side of a split, as its file has them.

    Takes one id a line; a CSV or TSV with a column ``utterance_id``, ``key``, ``id``, ``name``, ``FileName`` or
    ``file``; JSON Lines of objects with one of these (EmoBox has ``key``); a JSON list of ids or of such objects, or a
    JSON object keyed by ids.

    Raises:
        ConfigError: naming the file, if it cannot be read, has no ids, or has one twice
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a regular file; expected a list of utterance ids")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    try:
        ids = list(_ids(content, path.suffix.lower()))
    except (ValueError, RecursionError, csv.Error) as error:
        raise ConfigError(f"{path}: not valid {path.suffix} ({' '.join(str(error).split())})") from error
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]}; expected one of {', '.join(_ID_COLUMNS)}") from None
    if not ids:
        raise ConfigError(f"{path}: no utterance ids in it")
    doubled = [name for name, n in pd.Series(ids).value_counts().items() if n > 1]
    if doubled:
        raise ConfigError(f"{path}: {len(doubled)} ids stand twice, for example {doubled[0]}")
    return ids


def _ids(content: str, suffix: str) -> Iterator[str]:
    if suffix in (".jsonl", ".ndjson"):
        yield from (
            _id_of(json.loads(line), f"line {n}") for n, line in enumerate(content.split("\n"), 1) if line.strip()
        )
    elif suffix == ".json":
        whole = json.loads(content)
        if not isinstance(whole, list | dict):
            raise KeyError("neither a list nor an object")
        yield from (_id_of(item, f"item {n}") for n, item in enumerate(whole, 1))
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
    sides: Mapping[str, Sequence[str]], corpus: str | None = None, prepared: PreparedCorpus | None = None
) -> Audit:
    """Compare every two sides.

    Args:
        sides: ``train``, ``test`` and perhaps ``dev`` -> utterance ids, as anybody writes them
        corpus: whose rule tells speaker, session and script of an id; None for the only one that knows them all
        prepared: a prepared corpus, which tells the other columns too

    Raises:
        ConfigError: if no corpus, or more than one, knows the ids
        CorpusError: if the prepared corpus lacks one of them
    """
    known = {name: reader.facts for name, reader in READERS.items() if reader.facts is not None}
    names = [name for ids in sides.values() for name in ids]
    if prepared is not None:
        if corpus not in (None, prepared.name):
            raise ConfigError(f"--corpus {corpus}, but the prepared corpus of --data is {prepared.name}")
        table = _from_prepared(names, prepared)
        corpus = prepared.name
    else:
        corpus = corpus or _corpus_of(names, known)
        if corpus not in known:
            raise ConfigError(
                f"no corpus {corpus!r} whose ids tell anything; expected one of {', '.join(sorted(known))}"
            )
        table = _from_ids(names, corpus, known[corpus])
    of_side = {side: table.loc[list(ids)] for side, ids in sides.items()}
    for side, rows in of_side.items():
        doubled = rows.index[rows["utterance"].duplicated()]
        if len(doubled):
            raise ConfigError(f"{side}: {len(doubled)} utterances stand twice, for example {doubled[0]}")
    columns = ("utterance", *(column for column in COLUMNS if table[column].notna().any()))
    sharings = [_sharing(column, pair, of_side) for pair in itertools.combinations(of_side, 2) for column in columns]
    unknown = [column for column in COLUMNS if column not in columns]
    return Audit(corpus, {side: len(ids) for side, ids in sides.items()}, sharings, unknown)


def _forms(name: str) -> Iterator[str]:
    """How a corpus may write an id that others write with its name before, dashes or the split behind."""
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


def _facts_of(name: str, facts: Any) -> tuple[str, Facts] | None:  # noqa: ANN401 a reader's function
    """The id as its corpus writes it, and what it tells."""
    return next(((form, found) for form in _forms(name) if (found := facts(form)) is not None), None)


def _corpus_of(names: Sequence[str], known: Mapping[str, Any]) -> str:
    strange = {corpus: [name for name in names if _facts_of(name, facts) is None] for corpus, facts in known.items()}
    nearest = min(strange, key=lambda corpus: len(strange[corpus]))
    fitting = [corpus for corpus, others in strange.items() if not others]
    if len(fitting) != 1:
        found = f"{' and '.join(fitting)} know" if fitting else "no corpus knows"
        example = names[0] if fitting else strange[nearest][0]
        raise ConfigError(
            f"{found} ids such as {example!r}; say --corpus, one of {', '.join(sorted(known))}, or give a prepared "
            "corpus by --data"
        )
    return fitting[0]


def _from_ids(names: Sequence[str], corpus: str, facts: Any) -> pd.DataFrame:  # noqa: ANN401
    rows = {}
    for name in names:
        found = _facts_of(name, facts)
        if found is None:
            raise ConfigError(f"{name!r} is no utterance id of {corpus}; is --corpus right?")
        form, told = found
        rows[name] = asdict(told) | {"utterance": form}
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=["utterance", *COLUMNS])


def _from_prepared(names: Sequence[str], prepared: PreparedCorpus) -> pd.DataFrame:
    table = compared_columns(prepared).set_index("utterance_id")
    known = set(table.index)
    rows = {name: next((form for form in (name, *_forms(name)) if form in known), None) for name in names}
    missing = [name for name, row in rows.items() if row is None]
    if missing:
        raise CorpusError(
            f"{len(missing)} ids are not in the prepared corpus {prepared.name}, for example {missing[0]}"
        )
    known_as = [str(row) for row in rows.values()]
    found = table.loc[known_as].assign(utterance=known_as)
    found.index = pd.Index(list(rows))
    return found


def _sharing(column: str, pair: tuple[str, str], of_side: Mapping[str, pd.DataFrame]) -> Sharing:
    first, second = (of_side[side][column] for side in pair)
    shared = set(first.dropna()) & set(second.dropna())
    return Sharing(
        column,
        pair,
        len(shared),
        int(second.nunique()),
        int(second.isin(shared).sum()),
        int(first.isna().sum() + second.isna().sum()) if column in ("speaker", "session", "utterance") else 0,
        min(map(str, shared), default=None),
    )
