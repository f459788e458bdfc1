"""Transcripts other than those of the corpus: tables of speech recognition, their word errors, simulated ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.errors import ConfigError, CorpusError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import ASR, SIMULATED
from lalm_mer.core.output import atomic_path
from lalm_mer.core.provenance import hash_file, hash_json
from lalm_mer.core.spelling import normalised
from lalm_mer.core.words import words_of

__all__ = [
    "SCHEMA", "TranscriptTable", "Transcripts", "asr_transcripts", "load_transcripts", "make_rows",
    "pooled_word_error_rate", "require_same_corpus", "simulated_transcript", "simulated_transcripts", "word_error_rate",
    "write_transcripts",
]  # fmt: skip

SCHEMA = pa.schema({
    "utterance_id": pa.string(), "hypothesis": pa.string(), "reference": pa.string(), "word_error_rate": pa.float64(),
    "n_reference_words": pa.int32(),
})  # fmt: skip
_NEEDED = ("utterance_id", "hypothesis")


@dataclass(frozen=True)
class TranscriptTable:
    """A validated file of transcripts.

    Args:
        source: the file
        hypotheses: utterance id -> output of speech recognition; ``""`` if no speech was recognised
        metadata: metadata of a Parquet file from ``write_transcripts``; empty for other files
        digest: SHA-256 of the file
    """

    source: Path
    hypotheses: Mapping[str, str]
    metadata: Mapping[str, Any]
    digest: str


@dataclass(frozen=True)
class Transcripts:
    """Transcripts by utterance id that a run uses instead of those of the corpus.

    ``source`` is ``asr`` or ``simulated``, ``digest`` the hash of the source.
    """

    source: str
    by_id: Mapping[str, str]
    digest: str


def word_error_rate(reference: str | None, hypothesis: str) -> float | None:
    """Word error rate, (substitutions + deletions + insertions) / words of the reference, on normalised words.

    It may exceed 1. None if there is no reference, or the reference has no words.

    Example:
        >>> word_error_rate("Kids are talking.", "kids talking"), word_error_rate("No!", "oh no no")
        (0.3333333333333333, 2.0)
    """
    return None if reference is None else pooled_word_error_rate([reference], [hypothesis])


def pooled_word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float | None:
    """All word errors of N utterances divided by all words of the references, so longer utterances have more weight.

    Words recognised for an empty reference count as insertions. None if no reference has words.

    Raises:
        ValueError: if the lengths differ

    Example:
        >>> pooled_word_error_rate(["one two three", "four"], ["one two three", "for"])
        0.25
    """
    pairs = list(zip(references, hypotheses, strict=True))
    reference, recognised = ([" ".join(words_of(pair[index])) for pair in pairs] for index in (0, 1))
    if not any(reference):
        return None
    import jiwer  # here, because most runs recognise no speech

    counts = jiwer.process_words(reference, recognised)
    n_words = counts.hits + counts.substitutions + counts.deletions
    return float((counts.substitutions + counts.deletions + counts.insertions) / n_words)


def make_rows(hypotheses: Mapping[str, str], references: Mapping[str, str | None]) -> pd.DataFrame:
    """Make the rows of a transcript table, in the order of ``hypotheses``, each of which has a reference or None."""
    rows = []
    for name, hypothesis in hypotheses.items():
        reference = references[name]
        n_words = None if reference is None else len(words_of(reference))
        rows.append([name, hypothesis, reference, word_error_rate(reference, hypothesis), n_words])
    return pd.DataFrame(rows, columns=SCHEMA.names, dtype=object)


def write_transcripts(path: Path, rows: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write rows of ``make_rows`` as Parquet, atomically; ``metadata`` is plain data, such as model and corpus."""
    encoded = {key: json.dumps(value, sort_keys=True, ensure_ascii=False) for key, value in metadata.items()}
    table = pa.Table.from_pylist(rows.to_dict("records"), SCHEMA.with_metadata(encoded))
    with atomic_path(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def load_transcripts(path: Path) -> TranscriptTable:
    """Read and validate a table of transcripts: Parquet, or CSV with a header, in UTF-8.

    Columns other than ``utterance_id`` and ``hypothesis`` are ignored.

    Raises:
        CorpusError: naming file and row or utterance, if it cannot be read, lacks a column, has a duplicate or empty
            id, or a null hypothesis (an empty one is allowed: no speech was recognised)

    Example:
        >>> load_transcripts(Path("no/such.csv"))
        Traceback (most recent call last):
            ...
        lalm_mer.core.errors.CorpusError: no/such.csv: no such file; ...
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; make it with `python recipes/transcribe.py --config ...`")
    readers = {".parquet": _read_parquet, ".csv": _read_csv}
    if path.suffix not in readers:
        raise CorpusError(f"{path}: expected a .parquet or .csv file of transcripts, found {path.suffix!r}")
    rows, metadata = readers[path.suffix](path)
    hypotheses: dict[str, str] = {}
    for number, (written, hypothesis) in enumerate(rows, start=1):
        name = normalised(written or "")
        if not name:
            raise CorpusError(f"{path}: row {number}: no utterance_id; every row needs one")
        if name in hypotheses:
            raise CorpusError(f"{path}: row {number}: duplicate utterance {name}; keep one row")
        if hypothesis is None:
            raise CorpusError(f"{path}: utterance {name}: hypothesis is null; write '' if no speech was recognised")
        hypotheses[name] = hypothesis
    return TranscriptTable(path, hypotheses, metadata, hash_file(path))


_Rows = list[tuple[str | None, str | None]]


def _require_columns(path: Path, found: Sequence[str]) -> None:
    for name in _NEEDED:
        if list(found).count(name) != 1:
            raise CorpusError(f"{path}: column {name!r} is missing or duplicate; found {list(found)}")


def _read_parquet(path: Path) -> tuple[_Rows, dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _require_columns(path, schema.names)
            table = file.read(columns=list(_NEEDED))
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: not a valid Parquet file ({one_line(error)})") from error
    for name in _NEEDED:
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise CorpusError(f"{path}: column {name!r} has type {kind}; expected strings")
    encoded = schema.metadata or {}
    is_own = {field.encode() for field in ("corpus", "root_hash", "model", "model_digest")} <= set(encoded)
    metadata = {key.decode(): json.loads(value) for key, value in encoded.items()} if is_own else {}
    return list(zip(*(table[name].to_pylist() for name in _NEEDED), strict=True)), metadata


def _read_csv(path: Path) -> tuple[_Rows, dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    header = [normalised(name) for name in lines[0]] if lines else []
    _require_columns(path, header)
    places = [header.index(name) for name in _NEEDED]
    rows: _Rows = []
    for number, line in enumerate((line for line in lines[1:] if line), start=1):
        if len(line) != len(header):
            raise CorpusError(
                f"{path}: row {number}: {len(line)} cells under {len(header)} column names; quote cells with commas"
            )
        rows.append((line[places[0]], line[places[1]]))
    return rows, {}


def require_same_corpus(table: TranscriptTable, corpus: str, root_hash: str) -> None:
    """Check the corpus and its preparation in the metadata of a table, if it has them.

    Raises:
        CorpusError: if either is another one
    """
    named = table.metadata.get("corpus", corpus)
    if named != corpus:
        raise CorpusError(f"{table.source}: transcripts of corpus {named}, but this is {corpus}")
    if table.metadata.get("root_hash", root_hash) != root_hash:
        raise CorpusError(
            f"{table.source}: transcripts of another preparation of {corpus}, whose audio or rows differ; transcribe "
            "this one"
        )


def asr_transcripts(table: TranscriptTable, utterance_ids: Iterable[str]) -> Transcripts:
    """The recognised transcripts of all utterances that a run may use; rows of other utterances are ignored.

    Raises:
        CorpusError: if an utterance has no row
    """
    needed = sorted(utterance_ids)
    missing = [name for name in needed if name not in table.hypotheses]
    if missing:
        raise CorpusError(
            f"{table.source}: no transcript of {len(missing)} of {len(needed)} utterances, for example {missing[0]}; "
            "transcribe the complete corpus, with '' if no speech was recognised"
        )
    return Transcripts(ASR, {name: table.hypotheses[name] for name in needed}, table.digest)


def simulated_transcript(label_word: str) -> str:
    """A sentence that names a label by a surface form, for an upper bound of recognition from transcripts.

    Raises:
        ConfigError: if the word is empty

    Example:
        >>> simulated_transcript("angry")
        'I am very angry!'
    """
    if not label_word.strip():
        raise ConfigError("a simulated transcript needs a word for the label, found an empty one")
    return f"I am very {label_word.strip()}!"


def simulated_transcripts(truths: Mapping[str, str], label_set: LabelSet) -> Transcripts:
    """Transcripts that name the label of each utterance (id -> label) by its first surface form.

    Example:
        >>> labels = LabelSet(("hap", "sad"), {"hap": ("happy", "joyful")})
        >>> simulated_transcripts({"u1": "hap"}, labels).by_id["u1"]
        'I am very happy!'
    """
    by_id = {name: simulated_transcript(label_set.forms_of(label)[0]) for name, label in truths.items()}
    return Transcripts(SIMULATED, by_id, hash_json(by_id))
