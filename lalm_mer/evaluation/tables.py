"""Tables of predictions from other programs: CSV or Parquet with truths and predictions or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from lalm_mer.core.errors import PredictionError, one_line
from lalm_mer.core.labels import UNPARSED, UNSCORED

__all__ = ["PredictionTable", "read_table"]

_SUM_TOLERANCE = 0.02  # probabilities are often written with two decimals
_PREFIXES = ("prob_", "log_prob_", "")


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
    ``seed`` and ``condition`` are optional. An empty prediction, or a row without probabilities, is unscored; a
    prediction outside the label set is an error of its true class.

    Args:
        path: ``.csv`` (UTF-8, comma) or ``.parquet``
        labels: the label set; None for the labels of the prefixed probability columns if there are no predictions,
            or else the sorted set of truths

    Raises:
        PredictionError: naming file, column or utterance, if something is invalid
    """
    frame = _read(path)
    for name in ("utterance_id", "truth"):
        if name not in frame.columns:
            raise PredictionError(f"{path}: column {name!r} is missing; found {list(frame.columns)}")
        if frame[name].isna().any():
            row = int(frame[name].isna().to_numpy().argmax())
            raise PredictionError(f"{path}: row {row + 1}: column {name!r} is empty; every utterance needs one")
    if frame.empty:
        raise PredictionError(f"{path}: no rows; a metric of no class has no value")
    if "condition" in frame.columns and frame["condition"].nunique(dropna=False) > 1:
        found = sorted(map(str, frame["condition"].unique()))
        raise PredictionError(f"{path}: contains conditions {found}; keep the rows of one of them")
    has_prediction = "prediction" in frame.columns
    chosen, remark = _labels(frame, labels, has_prediction)
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
    return PredictionTable(_standard(frame, prediction, path), chosen, tuple(remarks))


def _read(path: Path) -> pd.DataFrame:
    """Read a table with texts as strings, and empty cells as null."""
    try:
        if path.suffix.lower() == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
        elif path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
        else:
            raise PredictionError(f"{path}: expected a .csv or .parquet file, found {path.suffix or 'no ending'!r}")
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise PredictionError(f"{path}: cannot be read ({one_line(error)})") from error
    for name in ("utterance_id", "truth", "prediction", "speaker", "corpus", "condition"):
        if name in frame.columns:
            frame[name] = frame[name].astype("string").astype(object).where(frame[name].notna(), None)
    return frame


def _labels(frame: pd.DataFrame, given: Sequence[str] | None, has_prediction: bool) -> tuple[tuple[str, ...], str]:
    if given is not None:
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
            f"{list(frame.columns)}"
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
    values = pd.to_numeric(frame[name], errors="coerce")
    wrong = (values.isna() & frame[name].notna()).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise PredictionError(
            f"{path}: utterance {frame['utterance_id'].iloc[row]!r}: column {name!r}: expected a number, "
            f"found {frame[name].iloc[row]!r}"
        )
    return values.to_numpy(dtype=np.float64)


def _standard(frame: pd.DataFrame, prediction: pd.Series, path: Path) -> pd.DataFrame:
    table = pd.DataFrame({"utterance_id": frame["utterance_id"], "truth": frame["truth"], "prediction": prediction})
    table["corpus"] = frame["corpus"].fillna("") if "corpus" in frame.columns else ""
    table["speaker"] = frame["speaker"] if "speaker" in frame.columns else None
    for name in ("fold", "seed"):
        table[name] = frame[name].astype("string").fillna("") if name in frame.columns else ""
    duplicated = table.duplicated(["utterance_id", "fold", "seed"]).to_numpy()
    if duplicated.any():
        row = table.iloc[int(duplicated.argmax())]
        raise PredictionError(
            f"{path}: utterance {row['utterance_id']!r} (fold {row['fold'] or 'not given'}, seed "
            f"{row['seed'] or 'not given'}) is duplicated, {int(duplicated.sum())} such rows; columns fold and seed "
            "distinguish repetitions"
        )
    return table
