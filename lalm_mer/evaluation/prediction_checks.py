"""Checks of a table of predictions: columns, statuses and scores of each kind of task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.core.names import TASK_KINDS
from lalm_mer.evaluation.metrics import MAX_LABELS

__all__ = ["COLUMNS", "INTEGERS", "TRUTH", "VOTE", "check_table", "columns_of", "prefix_of"]

COLUMNS = ("utterance_id", "speaker", "corpus", "fold", "seed", "task", "condition", "status", "truth",
           "prediction", "answer")  # fmt: skip
INTEGERS = ("fold", "seed")
TRUTH = "truth_"
"""Prefix of the columns of true values"""
VOTE = "vote_"
"""Prefix of the columns of the shares of votes"""
_KEY = ["utterance_id", "fold", "seed", "condition"]
_SUM_TOLERANCE = 1e-3  # of exp(log-probs), wide enough for scores computed in bfloat16 and normalised in float32
_TIE_TOLERANCE = 1e-6


class _Table(Protocol):
    """What is checked: a ``Predictions``."""

    @property
    def frame(self) -> pd.DataFrame: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def source(self) -> str: ...

    @property
    def kind(self) -> str: ...


def prefix_of(kind: str) -> str:
    """Prefix of the score columns of a kind of task.

    Example:
        >>> prefix_of("single"), prefix_of("scalar")
        ('log_prob_', 'score_')
    """
    return "log_prob_" if kind == "single" else "score_"


def columns_of(kind: str, targets: tuple[str, ...], *, votes: bool) -> list[str]:
    """All columns of a table, in order; ``votes``: whether it has the votes of raters."""
    truths = [] if kind == "single" else [TRUTH + target for target in targets]
    scores = [prefix_of(kind) + target for target in targets]
    return [*COLUMNS, *truths, *scores, *([VOTE + target for target in targets] if votes else [])]


def check_table(table: _Table) -> None:
    """Check a table of predictions.

    Raises:
        PredictionError: naming source, column or utterance
    """
    _check_columns(table)
    if table.kind == "single":
        _check_rows(table)
        _check_log_probs(table)
        _check_votes(table)
    else:
        _check_targets(table)


def _check_columns(table: _Table) -> None:
    source, labels = table.source, table.labels
    if table.kind not in TASK_KINDS:
        raise PredictionError(f"{source}: is of task {table.kind!r}, expected one of {', '.join(TASK_KINDS)}")
    if len(labels) < (1 if table.kind == "scalar" else 2) or len(set(labels)) != len(labels):
        wanted = "a target, or different ones" if table.kind == "scalar" else "two or more distinct labels"
        raise PredictionError(f"{source}: expected {wanted}, found {list(labels)}")
    if len(labels) > MAX_LABELS:
        raise PredictionError(f"{source}: {len(labels)} labels, expected at most {MAX_LABELS}")
    expected = columns_of(table.kind, labels, votes=VOTE + labels[0] in table.frame.columns)
    missing = [name for name in expected if name not in table.frame.columns]
    unknown = [name for name in table.frame.columns if name not in expected]
    if missing:
        raise PredictionError(f"{source}: column {missing[0]!r} is missing; found {list(table.frame.columns)}")
    if unknown:
        raise PredictionError(f"{source}: unknown column {unknown[0]!r}; expected {expected}")
    if table.frame.empty:
        raise PredictionError(f"{source}: no rows; a table of predictions needs at least one utterance")
    nullable = ("speaker", "answer") if table.kind == "single" else ("speaker", "answer", "truth", "prediction")
    for name in COLUMNS:
        if name not in nullable and table.frame[name].isna().any():
            raise PredictionError(f"{source}: column {name!r} has a null; only speaker, answer and scores may")
    for name in INTEGERS:
        if not pd.api.types.is_integer_dtype(table.frame[name]):
            raise PredictionError(f"{source}: column {name!r} is {table.frame[name].dtype}, expected integers")


def _refuse(table: _Table, found: npt.ArrayLike, what: Callable[[pd.Series], str]) -> None:
    """Raise if any row is wrong, naming the first one and their number."""
    wrong = np.asarray(found, dtype=bool)
    if wrong.any():
        row = table.frame.iloc[int(wrong.argmax())]
        raise PredictionError(
            f"{table.source}: utterance {row['utterance_id']!r} (fold {row['fold']}, seed {row['seed']}) "
            f"{what(row)}; {int(wrong.sum())} such rows"
        )


def _check_keys(table: _Table) -> None:
    frame = table.frame
    duplicated = frame.duplicated(_KEY).to_numpy()
    _refuse(table, duplicated, lambda row: f"is duplicated under condition {row['condition']!r}; keep one row")
    other_task = (frame["task"] != table.kind).to_numpy()
    _refuse(table, other_task, lambda row: f"is of task {row['task']!r}, expected {table.kind!r}")


def _check_rows(table: _Table) -> None:
    frame, labels = table.frame, list(table.labels)
    _check_keys(table)
    unknown = ~frame["truth"].isin(labels).to_numpy()
    _refuse(table, unknown, lambda row: f"has truth {row['truth']!r}, expected one of {labels}")
    status_of = {UNPARSED: "unparsed", UNSCORED: "unscored"} | dict.fromkeys(labels, "scored")
    expected = frame["prediction"].map(status_of)
    no_label = expected.isna().to_numpy()
    _refuse(table, no_label, lambda row: f"has prediction {row['prediction']!r}, expected one of {list(status_of)}")
    contradicted = (expected != frame["status"]).to_numpy()

    def contradiction(row: pd.Series) -> str:
        found = row["prediction"]
        return f"has status {row['status']!r}, but prediction {found!r} means {status_of[found]!r}"

    _refuse(table, contradicted, contradiction)


def _check_log_probs(table: _Table) -> None:
    frame = table.frame
    scores = frame[[prefix_of(table.kind) + label for label in table.labels]].to_numpy(dtype=np.float64)
    empty, finite = np.isnan(scores).all(axis=1), np.isfinite(scores).all(axis=1)
    scored = (frame["status"] == "scored").to_numpy()
    answered = frame["answer"].notna().to_numpy()  # generation: a label parsed from an answer may have no scores
    not_finite = ~finite & (scored & ~(answered & empty) | ~scored & ~empty)
    _refuse(table, not_finite, lambda row: f"is {row['status']} but has a log-probability that is not finite")
    unscored = (frame["status"] == "unscored").to_numpy()
    _refuse(table, unscored & ~empty, lambda row: "is unscored but has log-probabilities; expected nulls")
    usable = np.where(finite[:, None], scores, 0.0)
    with np.errstate(over="ignore"):
        off = finite & (np.abs(np.exp(usable).sum(axis=1) - 1) > _SUM_TOLERANCE)
    _refuse(table, off, lambda row: "has log-probabilities whose exponentials do not sum to 1; apply log_softmax")
    position = frame["prediction"].map({label: index for index, label in enumerate(table.labels)})
    own = np.take_along_axis(usable, position.fillna(0).to_numpy(dtype=np.int64)[:, None], axis=1)[:, 0]
    below = scored & finite & ~answered & (own < usable.max(axis=1) - _TIE_TOLERANCE)
    what = "which is not the label of its highest log-probability"
    _refuse(table, below, lambda row: f"has prediction {row['prediction']!r}, {what}")


def _check_votes(table: _Table) -> None:
    names = [VOTE + label for label in table.labels]
    if names[0] not in table.frame.columns:
        return
    votes = table.frame[names].to_numpy(dtype=np.float64)
    known = ~np.isnan(votes).all(axis=1)
    with np.errstate(invalid="ignore"):
        wrong = known & ~((votes >= 0).all(axis=1) & (np.abs(votes.sum(axis=1) - 1) <= _SUM_TOLERANCE))
    _refuse(table, wrong, lambda row: "has shares of votes that are negative or do not sum to 1")


def _check_targets(table: _Table) -> None:
    _check_keys(table)
    frame = table.frame
    status = frame["status"].to_numpy()
    unknown = ~np.isin(status, ["scored", "unscored"])
    _refuse(table, unknown, lambda row: f"has status {row['status']!r}, expected scored or unscored")
    for name in ("truth", "prediction", "answer"):
        _refuse(
            table,
            frame[name].notna().to_numpy(),
            lambda row, name=name: f"has {name} {row[name]!r}; the columns truth_ and score_ have them",  # type: ignore[misc]
        )
    truth = frame[[TRUTH + target for target in table.labels]].to_numpy(dtype=np.float64)
    score = frame[[prefix_of(table.kind) + target for target in table.labels]].to_numpy(dtype=np.float64)
    _refuse(table, ~np.isfinite(truth).all(axis=1), lambda row: "has a truth that is no finite number")
    if table.kind == "multi":
        _refuse(table, ~np.isin(truth, [0.0, 1.0]).all(axis=1), lambda row: "has a truth other than 0 and 1")
        outside = np.nan_to_num(score, nan=0.0)
        _refuse(table, ((outside < 0) | (outside > 1)).any(axis=1), lambda row: "has a score outside of 0 to 1")
    contradicted = np.where(status == "scored", ~np.isfinite(score).all(axis=1), ~np.isnan(score).all(axis=1))
    _refuse(table, contradicted, lambda row: f"is {row['status']}, which contradicts its scores")
