"""The table of predictions: one row per utterance with truth, prediction and label log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.errors import PredictionError, one_line
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.core.names import UNCHANGED
from lalm_mer.core.output import atomic_path
from lalm_mer.evaluation.metrics import MAX_LABELS

__all__ = ["DEV_PREDICTIONS_FILE", "PREDICTIONS_FILE", "EvaluatedSplit", "Predictions"]

PREDICTIONS_FILE = "predictions.parquet"
DEV_PREDICTIONS_FILE = "dev_predictions.parquet"
"""The same table of the dev split; without the utterances that the recognizer cannot use"""

_COLUMNS = ("utterance_id", "speaker", "corpus", "fold", "seed", "task", "condition", "status", "truth",
            "prediction", "answer")  # fmt: skip
_INTEGERS = ("fold", "seed")
_KEY = ["utterance_id", "fold", "seed", "condition"]
_PREFIX = "log_prob_"
_METADATA_KEY = b"lalm_mer"
_SUM_TOLERANCE = 1e-3  # of exp(log-probs), wide enough for scores computed in bfloat16 and normalised in float32
_TIE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class EvaluatedSplit:
    """The test or dev split of a run.

    Args:
        utterance_ids: N ids
        speakers: N speakers, None where unknown
        truth: N labels, each one of ``labels``
        labels: the K labels, in the order of the score columns
        corpus: name of the corpus
        fold: number of the fold
        seed: seed of the run
        condition: one of ``CONDITIONS``: the change of the inputs
    """

    utterance_ids: Sequence[str]
    speakers: Sequence[str | None]
    truth: Sequence[str]
    labels: Sequence[str]
    corpus: str
    fold: int
    seed: int
    condition: str = UNCHANGED


@dataclass(frozen=True)
class Predictions:
    """Predictions of one task, checked when created.

    A row is ``scored`` (its prediction is the label of the highest log-probability, or the one parsed from
    ``answer``), ``unparsed`` (an answer that does not name one label) or ``unscored`` (the recognizer cannot use the
    utterance). The last two count in every denominator.

    Args:
        frame: columns ``utterance_id``, ``speaker``, ``corpus``, ``fold``, ``seed``, ``task``, ``condition``,
            ``status``, ``truth``, ``prediction``, ``answer``, then ``log_prob_<label>`` for each of ``labels``;
            N rows, missing values null
        labels: the K labels, in the order of the ``log_prob_`` columns
        source: name of the table in errors, for example its file

    Raises:
        PredictionError: naming source, column or utterance, for missing or unknown columns, a duplicate (utterance_id,
            fold, seed, condition), a truth outside ``labels``, a status that contradicts the prediction, or
            log-probabilities that are not finite or whose exponentials do not sum to 1
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    source: str = "predictions"

    def __post_init__(self) -> None:
        _check_columns(self)
        _check_rows(self)
        _check_log_probs(self)

    @classmethod
    def from_scores(cls, split: EvaluatedSplit, log_probs: npt.NDArray[np.floating]) -> Predictions:
        """The table of a recognizer that scores labels.

        Args:
            split: N utterances and K labels
            log_probs: shape (N, K), log_softmax over the labels; a row of NaN for an unscored utterance

        Raises:
            PredictionError: if lengths differ or the table is not valid

        Example:
            >>> split = EvaluatedSplit(["u1", "u2"], ["s1", None], ["hap", "sad"], ["hap", "sad"], "demo", 1, seed=0)
            >>> Predictions.from_scores(split, np.log([[0.9, 0.1], [np.nan, np.nan]])).frame["prediction"].tolist()
            ['hap', '<unscored>']
        """
        scores, count = np.asarray(log_probs, dtype=np.float64), len(split.utterance_ids)
        if scores.shape != (count, len(split.labels)) or len(split.speakers) != count or len(split.truth) != count:
            raise PredictionError(
                f"predictions: {count} utterances and {len(split.labels)} labels, but {len(split.speakers)} speakers, "
                f"{len(split.truth)} truths and log-probs of shape {scores.shape}; expected one of each per utterance"
            )
        unscored = np.isnan(scores).all(axis=1)
        best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
        prediction = np.where(unscored, UNSCORED, np.asarray(split.labels, dtype=object)[best])
        return cls(_frame(split, prediction, [None] * count, scores), tuple(split.labels))

    @classmethod
    def from_answers(cls, split: EvaluatedSplit, answers: Sequence[str | None], parsed: Sequence[str]) -> Predictions:
        """The table of a recognizer that generates answers; the ``log_prob_`` columns are null.

        Args:
            split: N utterances and K labels
            answers: N generated answers; None for an unscored utterance
            parsed: N labels, each one of ``split.labels``, or ``UNPARSED``; ignored for an unscored utterance

        Raises:
            PredictionError: if lengths differ or the table is not valid

        Example:
            >>> split = EvaluatedSplit(["u1", "u2"], ["s1", None], ["hap", "sad"], ["hap", "sad"], "demo", 1, seed=0)
            >>> Predictions.from_answers(split, ["Happy.", "Hm"], ["hap", UNPARSED]).frame["status"].tolist()
            ['scored', 'unparsed']
        """
        count = len(split.utterance_ids)
        if any(len(column) != count for column in (split.speakers, split.truth, answers, parsed)):
            raise PredictionError(
                f"predictions: {count} utterances, but {len(split.speakers)} speakers, {len(split.truth)} truths, "
                f"{len(answers)} answers and {len(parsed)} parsed labels; expected one of each per utterance"
            )
        prediction = [UNSCORED if answer is None else label for answer, label in zip(answers, parsed, strict=True)]
        scores = np.full((count, len(split.labels)), np.nan)
        return cls(_frame(split, prediction, answers, scores), tuple(split.labels))

    @classmethod
    def concat(cls, tables: Sequence[Predictions]) -> Predictions:
        """Join tables of one label set, in the first table's order of labels.

        Raises:
            PredictionError: if there is no table, label sets differ, or a row is duplicated
        """
        if not tables:
            raise PredictionError("no table of predictions to join; give at least one")
        first = tables[0]
        for table in tables[1:]:
            if set(table.labels) != set(first.labels):
                raise PredictionError(
                    f"{first.source} has the labels {list(first.labels)}, {table.source} has {list(table.labels)}; "
                    "join tables of one task"
                )
        frame = pd.concat([table.frame[list(first.frame.columns)] for table in tables], ignore_index=True)
        return cls(frame, first.labels, source=" + ".join(dict.fromkeys(table.source for table in tables)))

    def of_condition(self, condition: str) -> Predictions:
        """The rows of one condition.

        Raises:
            PredictionError: if there is none
        """
        chosen = self.frame[self.frame["condition"] == condition]
        if chosen.empty:
            found = sorted(self.frame["condition"].unique())
            raise PredictionError(f"{self.source}: no row has the condition {condition!r}; found {found}")
        return Predictions(chosen.reset_index(drop=True), self.labels, self.source)

    def write(self, path: Path) -> None:
        """Write as Parquet, atomically."""
        fields = [(name, pa.int64() if name in _INTEGERS else pa.string()) for name in _COLUMNS]
        fields += [(_PREFIX + label, pa.float64()) for label in self.labels]
        metadata = {_METADATA_KEY: json.dumps({"format": 1, "labels": list(self.labels)}).encode()}
        table = pa.Table.from_pandas(self.frame, schema=pa.schema(fields), preserve_index=False)
        with atomic_path(path) as partial:
            pq.write_table(table.replace_schema_metadata(metadata), partial)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Read a file of ``write``.

        Raises:
            PredictionError: naming the file, if it is missing, not Parquet, or not a valid table of predictions
        """
        if path.exists() and not path.is_file():
            raise PredictionError(f"{path}: is no file; expected Parquet")
        try:
            table = pq.read_table(path)
            labels = tuple(name.removeprefix(_PREFIX) for name in table.column_names if name.startswith(_PREFIX))
            stored = (table.schema.metadata or {}).get(_METADATA_KEY)
            named = labels if stored is None else tuple(json.loads(stored)["labels"])
            frame = table.to_pandas(ignore_metadata=True)
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, RecursionError) as error:
            raise PredictionError(f"{path}: cannot be read as Parquet ({one_line(error)})") from error
        if named != labels:
            raise PredictionError(
                f"{path}: its metadata names the labels {one_line(repr(list(named)))}, its log_prob_ columns "
                f"{list(labels)}; was the file edited? write it again"
            )
        return cls(frame, labels, str(path))


def _frame(
    split: EvaluatedSplit,
    prediction: Sequence[str] | npt.NDArray[np.object_],
    answers: Sequence[str | None],
    scores: npt.NDArray[np.float64],
) -> pd.DataFrame:
    status = {UNPARSED: "unparsed", UNSCORED: "unscored"}
    columns = {
        "utterance_id": list(split.utterance_ids),
        "speaker": list(split.speakers),
        "corpus": split.corpus,
        "fold": split.fold,
        "seed": split.seed,
        "task": "single",
        "condition": split.condition,
        "status": [status.get(label, "scored") for label in prediction],
        "truth": list(split.truth),
        "prediction": list(prediction),
        "answer": list(answers),
    }
    return pd.DataFrame(columns | {_PREFIX + label: scores[:, k] for k, label in enumerate(split.labels)})


def _check_columns(table: Predictions) -> None:
    source, labels = table.source, table.labels
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise PredictionError(f"{source}: expected two or more distinct labels, found {list(labels)}")
    if len(labels) > MAX_LABELS:
        raise PredictionError(f"{source}: {len(labels)} labels, expected at most {MAX_LABELS}")
    expected = [*_COLUMNS, *(_PREFIX + label for label in labels)]
    missing = [name for name in expected if name not in table.frame.columns]
    unknown = [name for name in table.frame.columns if name not in expected]
    if missing:
        raise PredictionError(f"{source}: column {missing[0]!r} is missing; found {list(table.frame.columns)}")
    if unknown:
        raise PredictionError(f"{source}: unknown column {unknown[0]!r}; expected {expected}")
    if table.frame.empty:
        raise PredictionError(f"{source}: no rows; a table of predictions needs at least one utterance")
    for name in _COLUMNS:
        if name not in ("speaker", "answer") and table.frame[name].isna().any():
            raise PredictionError(f"{source}: column {name!r} has a null; only speaker, answer and scores may")
    for name in _INTEGERS:
        if not pd.api.types.is_integer_dtype(table.frame[name]):
            raise PredictionError(f"{source}: column {name!r} is {table.frame[name].dtype}, expected integers")


def _refuse(table: Predictions, wrong: npt.NDArray[np.bool_], what: Callable[[pd.Series], str]) -> None:
    """Raise if any row is wrong, naming the first one and their number."""
    if wrong.any():
        row = table.frame.iloc[int(wrong.argmax())]
        raise PredictionError(
            f"{table.source}: utterance {row['utterance_id']!r} (fold {row['fold']}, seed {row['seed']}) "
            f"{what(row)}; {int(wrong.sum())} such rows"
        )


def _check_rows(table: Predictions) -> None:
    frame, labels = table.frame, list(table.labels)
    duplicated = frame.duplicated(_KEY).to_numpy()
    _refuse(table, duplicated, lambda row: f"is duplicated under condition {row['condition']!r}; keep one row")
    unknown = ~frame["truth"].isin(labels).to_numpy()
    _refuse(table, unknown, lambda row: f"has truth {row['truth']!r}, expected one of {labels}")
    other_task = (frame["task"] != "single").to_numpy()
    _refuse(table, other_task, lambda row: f"is of task {row['task']!r}, expected 'single'")
    status_of = {UNPARSED: "unparsed", UNSCORED: "unscored"} | dict.fromkeys(labels, "scored")
    expected = frame["prediction"].map(status_of)
    no_label = expected.isna().to_numpy()
    _refuse(table, no_label, lambda row: f"has prediction {row['prediction']!r}, expected one of {list(status_of)}")
    contradicted = (expected != frame["status"]).to_numpy()

    def contradiction(row: pd.Series) -> str:
        found = row["prediction"]
        return f"has status {row['status']!r}, but prediction {found!r} means {status_of[found]!r}"

    _refuse(table, contradicted, contradiction)


def _check_log_probs(table: Predictions) -> None:
    frame = table.frame
    scores = frame[[_PREFIX + label for label in table.labels]].to_numpy(dtype=np.float64)
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
