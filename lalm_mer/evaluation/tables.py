"""Tables of predictions from other programs: CSV or Parquet with truths and predictions or probabilities."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.csv_records import csv_records, is_like_rows
from lalm_mer.core.errors import PredictionError, one_line
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.core.plain_text import from_cell
from lalm_mer.core.spelling import folded, normalised
from lalm_mer.evaluation.metrics import MAX_LABELS
from lalm_mer.evaluation.repetitions import check_repetitions

__all__ = ["PredictionTable", "read_table"]

_SUM_TOLERANCE = 0.02  # probabilities are often written with two decimals
_PREFIXES = ("prob_", "log_prob_", "")
_TEXTS = ("utterance_id", "truth", "prediction", "speaker", "corpus", "condition", "fold", "seed")


@dataclass(frozen=True)
class PredictionTable:
    """A table for ``score_table``.

    Args:
        frame: ``utterance_id``, ``corpus``, ``speaker`` (null where unknown), ``fold``, ``seed``, ``truth``,
            ``prediction``; N rows
        labels: the K labels
        remarks: how labels and predictions were determined, in sentences
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    remarks: tuple[str, ...]


def read_table(path: Path, labels: Sequence[str] | None = None) -> PredictionTable:
    """Read a table with ``utterance_id``, ``truth``, and ``prediction`` or one probability column per label.

    Probability columns are named ``prob_<label>``, ``log_prob_<label>`` or like the label. ``speaker``, ``fold``,
    ``seed`` and ``condition`` are optional; columns without a name are ignored. An empty prediction, or a row without
    probabilities, is unscored; a prediction outside the label set is an error of its true class. Texts are
    ``normalised``; speakers that differ in case or punctuation only are one speaker.

    Args:
        path: ``.csv`` (UTF-8, comma) or ``.parquet``
        labels: the label set; None for the labels of the prefixed probability columns if there are no predictions,
            or else the sorted set of truths

    Raises:
        PredictionError: naming file, line, column or utterance, if something is invalid
    """
    frame = _read(path)
    _check_needed(frame, path)
    has_prediction = "prediction" in frame.columns
    chosen, remark = _labels(frame, labels, has_prediction)
    if {UNPARSED, UNSCORED} & set(chosen):
        raise PredictionError(f"{path}: {UNPARSED} and {UNSCORED} mark predictions and cannot be labels")
    if len(chosen) > MAX_LABELS:
        raise PredictionError(
            f"{path}: {len(chosen)} labels ({_some(chosen)}), expected at most {MAX_LABELS}; give --labels or correct "
            "the column 'truth'"
        )
    unknown = ~frame["truth"].isin(chosen).to_numpy()
    if unknown.any():
        bad = frame.iloc[int(unknown.argmax())]
        raise PredictionError(
            f"{path}: utterance {bad['utterance_id']!r} has truth {bad['truth']!r}, expected one of {list(chosen)}; "
            f"{int(unknown.sum())} such rows: correct --labels or the table"
        )
    remarks = [remark]
    if has_prediction:
        prediction = frame["prediction"].fillna(UNSCORED)
        outside = ~prediction.isin([*chosen, UNPARSED, UNSCORED])
        if outside.any():
            examples = sorted(prediction[outside].unique())[:5]
            remarks.append(
                f"{int(outside.sum())} predictions outside the label set, such as {examples}: errors of their true "
                "class, counted as unparsed"
            )
    else:
        prediction = _from_probabilities(frame, chosen, path)
        remarks.append("prediction: the label of the highest probability")
    table = _standard(frame, prediction)
    joined = _join_spellings(table)
    check_repetitions(table, str(path))
    if joined:
        remarks.append(f"{joined} speakers are spelled in several ways, for example in case, and count as one each")
    return PredictionTable(table, chosen, tuple(remarks))


def _check_needed(frame: pd.DataFrame, path: Path) -> None:
    for name in ("utterance_id", "truth"):
        if name not in frame.columns:
            raise PredictionError(f"{path}: column {name!r} is missing; found {_some(frame.columns)}")
        if frame[name].isna().any():
            row = int(frame[name].isna().to_numpy().argmax())
            raise PredictionError(f"{path}: row {row + 1}: column {name!r} is empty; every utterance needs one")
    if frame.empty:
        raise PredictionError(f"{path}: no rows; a metric of no class has no value")
    if "condition" in frame.columns and frame["condition"].nunique(dropna=False) > 1:
        found = sorted(map(str, frame["condition"].unique()))
        raise PredictionError(f"{path}: contains conditions {_some(found)}; keep the rows of one of them")


def _some(names: Iterable[object]) -> str:
    """The first names of a list."""
    shown = list(map(str, names))
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")


def _read(path: Path) -> pd.DataFrame:
    """Read a table with normalised texts as strings, and empty cells as null."""
    if path.exists() and not path.is_file():
        raise PredictionError(f"{path}: is no file; expected a .csv or .parquet file")
    try:
        if path.suffix.lower() == ".csv":
            frame = _read_csv(path)
        elif path.suffix.lower() in (".parquet", ".pq"):
            frame = pq.ParquetFile(path).read().replace_schema_metadata().to_pandas()
        else:
            raise PredictionError(f"{path}: expected a .csv or .parquet file, found {path.suffix or 'no ending'!r}")
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise PredictionError(f"{path}: cannot be read ({one_line(error)})") from error
    frame.columns = pd.Index([normalised(str(name)) for name in frame.columns], dtype=object)
    named = frame.loc[:, frame.columns != ""].copy()
    if not named.columns.is_unique:
        repeated = named.columns[named.columns.duplicated()][0]
        raise PredictionError(f"{path}: two columns are called {repeated!r}; keep one of them")
    for name in _TEXTS:
        if name in named.columns:
            named[name] = pd.Series([_text(value) for value in named[name]], index=named.index, dtype=object)
    return named


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file whose rows all have as many cells as its header."""
    text = path.read_bytes().decode("utf-8-sig")
    records = csv_records(text, ",", is_row=is_like_rows, strict=True)
    header = next((record.cells for record in records), ())
    if not any(map(str.strip, header)):
        raise PredictionError(f"{path}: cannot be read (no header in its first line)")
    rows: list[list[str | None]] = []
    for record in records:
        if record.fault is not None:
            raise PredictionError(f"{path}: row {record.number}: {record.fault}")
        if not record.cells:
            continue
        if len(record.cells) != len(header):
            advice = "complete the row"
            if len(record.cells) > len(header):
                advice = "quote a cell that contains a comma" if record.cells[-1] else "remove the comma at the end"
            raise PredictionError(
                f"{path}: row {record.number} has {len(record.cells)} cells, the header {len(header)}; {advice}"
            )
        rows.append([from_cell(cell) or None for cell in record.cells])
    return pd.DataFrame(rows, columns=[from_cell(name) for name in header], dtype=object)


def _text(value: Any) -> str | None:  # noqa: ANN401 a cell of any type
    """A normalised text; None for a missing value or an empty text."""
    missing = bool(pd.api.types.is_scalar(value) and pd.isna(value))
    return None if missing else normalised(str(value)) or None


def _labels(frame: pd.DataFrame, given: Sequence[str] | None, has_prediction: bool) -> tuple[tuple[str, ...], str]:
    if given is not None:
        given = [normalised(label) for label in given]
        if len(set(given)) != len(given) or not all(given):
            raise PredictionError(f"--labels: expected distinct labels, found {list(given)}")
        return tuple(given), f"label set: {', '.join(given)}, as given"
    if not has_prediction:
        for prefix in _PREFIXES[:2]:
            named = tuple(str(name).removeprefix(prefix) for name in frame.columns if str(name).startswith(prefix))
            if named:
                return named, f"label set: the {prefix} columns, {', '.join(named)} (give --labels to fix it)"
    truths = tuple(sorted(frame["truth"].unique()))
    return truths, f"label set: the truths found in the table, {', '.join(truths)} (give --labels to fix it)"


def _from_probabilities(frame: pd.DataFrame, labels: tuple[str, ...], path: Path) -> pd.Series:
    for prefix in _PREFIXES:
        columns = [prefix + label for label in labels]
        if any(name in frame.columns for name in columns):
            break
    else:
        raise PredictionError(
            f"{path}: no column 'prediction', and no probabilities such as 'prob_{labels[0]}'; found "
            f"{_some(frame.columns)}"
        )
    missing = [name for name in columns if name not in frame.columns]
    unknown = [name for name in frame.columns if prefix and str(name).startswith(prefix) and name not in columns]
    if missing or unknown:
        raise PredictionError(
            f"{path}: probability columns do not fit the label set {list(labels)}: missing {missing}, unknown {unknown}"
        )
    scores = np.stack([_numbers(frame, name, path) for name in columns], axis=1)
    with np.errstate(over="ignore"):
        scores = np.exp(scores) if prefix == "log_prob_" else scores
    unscored: npt.NDArray[np.bool_] = np.asarray(np.isnan(scores).all(axis=1))
    is_valid = (scores >= 0).all(axis=1) & (np.abs(scores.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    off = ~unscored & ~is_valid
    if off.any():
        row = int(off.argmax())
        raise PredictionError(
            f"{path}: utterance {frame['utterance_id'].iloc[row]!r}: probabilities {scores[row].round(4).tolist()}; "
            f"expected numbers of at least 0 that sum to 1 ({int(off.sum())} such rows)"
        )
    best = np.where(unscored[:, None], 0.0, scores).argmax(axis=1)
    return pd.Series(np.where(unscored, UNSCORED, np.asarray(labels, dtype=object)[best]), index=frame.index)


def _numbers(frame: pd.DataFrame, name: str, path: Path) -> npt.NDArray[np.float64]:
    given = frame[name]
    if given.dtype == object:
        given = given.map(str, na_action="ignore")
    values = pd.to_numeric(given, errors="coerce")
    wrong = (values.isna() & frame[name].notna()).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise PredictionError(
            f"{path}: utterance {frame['utterance_id'].iloc[row]!r}: column {name!r}: expected a number, "
            f"found {frame[name].iloc[row]!r}"
        )
    return values.to_numpy(dtype=np.float64)


def _standard(frame: pd.DataFrame, prediction: pd.Series) -> pd.DataFrame:
    table = pd.DataFrame({"utterance_id": frame["utterance_id"], "truth": frame["truth"], "prediction": prediction})
    table["corpus"] = frame["corpus"].fillna("") if "corpus" in frame.columns else ""
    table["speaker"] = frame["speaker"] if "speaker" in frame.columns else None
    for name in ("fold", "seed"):
        table[name] = frame[name].fillna("") if name in frame.columns else ""
    return table


def _join_spellings(table: pd.DataFrame) -> int:
    """Give speakers of one ``folded`` form its first spelling, in place; returns the number of such speakers."""
    first: dict[str, str] = {}
    spellings = table["speaker"].dropna().unique()
    joined = {name: first.setdefault(folded(name), name) for name in spellings}
    table["speaker"] = pd.Series([joined.get(name) for name in table["speaker"]], index=table.index, dtype=object)
    return len({target for name, target in joined.items() if name != target})
