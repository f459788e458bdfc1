"""The table of predictions: one row per utterance with truth, prediction and label log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.errors import PredictionError, one_line
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.core.names import UNCHANGED
from lalm_mer.core.output import atomic_path
from lalm_mer.evaluation.metrics import Floats
from lalm_mer.evaluation.prediction_checks import COLUMNS, INTEGERS, TRUTH, VOTE, check_table, columns_of, prefix_of

__all__ = ["DEV_PREDICTIONS_FILE", "PREDICTIONS_FILE", "EvaluatedSplit", "Predictions"]

PREDICTIONS_FILE = "predictions.parquet"
DEV_PREDICTIONS_FILE = "dev_predictions.parquet"
"""The same table of the dev split; without the utterances that the recognizer cannot use"""

_METADATA_KEY = b"lalm_mer"


@dataclass(frozen=True)
class EvaluatedSplit:
    """The test or dev split of a run.

    Args:
        utterance_ids: N ids
        speakers: N speakers, None where unknown
        truth: N labels, each one of ``labels``; of other kinds than ``single`` not used
        labels: the K labels, or the T targets, in the order of the score columns
        corpus: name of the corpus
        fold: number of the fold
        seed: seed of the run
        condition: one of ``CONDITIONS``: the change of the inputs
        targets: (N, T) true values of a ``multi`` or ``scalar`` task
        votes: (N, K) shares of the raters' votes of a ``single`` task, rows of NaN where there are none; None if the
            corpus has no votes
        ranges: lowest and highest value of each target of a ``scalar`` task
    """

    utterance_ids: Sequence[str]
    speakers: Sequence[str | None]
    truth: Sequence[str]
    labels: Sequence[str]
    corpus: str
    fold: int
    seed: int
    condition: str = UNCHANGED
    targets: Floats | None = None
    votes: Floats | None = None
    ranges: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Predictions:
    """Predictions of one task, checked when created.

    A row is ``scored`` (its prediction is the label of the highest log-probability, or the one parsed from
    ``answer``), ``unparsed`` (an answer that does not name one label) or ``unscored`` (the recognizer cannot use the
    utterance). The last two count in every denominator. Of a ``multi`` or ``scalar`` task, ``truth``, ``prediction``
    and ``answer`` are null, and ``truth_<target>`` and ``score_<target>`` have the values: 0 or 1 and a probability for
    each label, or numbers.

    Args:
        frame: columns ``utterance_id``, ``speaker``, ``corpus``, ``fold``, ``seed``, ``task``, ``condition``,
            ``status``, ``truth``, ``prediction``, ``answer``, then ``log_prob_<label>`` for each of ``labels``, or
            ``truth_<target>`` and ``score_<target>``; if the corpus has votes of raters, ``vote_<label>``, their
            shares; N rows, missing values null
        labels: the K labels, or the T targets, in the order of the score columns
        source: name of the table in errors, for example its file
        kind: ``single``, ``multi`` or ``scalar``, the value of column ``task``
        ranges: lowest and highest value of each target of a ``scalar`` task

    Raises:
        PredictionError: naming source, column or utterance, for missing or unknown columns, a duplicate (utterance_id,
            fold, seed, condition), a truth outside ``labels``, a status that contradicts the prediction, or
            log-probabilities that are not finite or whose exponentials do not sum to 1
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    source: str = "predictions"
    kind: str = "single"
    ranges: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check_table(self)

    @property
    def truths(self) -> Floats:
        """True values of a ``multi`` or ``scalar`` task, (N, T)."""
        return self._values(TRUTH)

    @property
    def scores(self) -> Floats:
        """Log-probabilities of the labels, or scores of the targets, (N, T); rows of NaN where there are none."""
        return self._values(prefix_of(self.kind))

    @property
    def votes(self) -> Floats | None:
        """Shares of the raters' votes, (N, K), with rows of NaN where there are none; None without votes."""
        return self._values(VOTE) if VOTE + self.labels[0] in self.frame.columns else None

    def _values(self, prefix: str) -> Floats:
        return self.frame[[prefix + target for target in self.labels]].to_numpy(dtype=np.float64)

    @classmethod
    def from_targets(cls, split: EvaluatedSplit, kind: str, scores: npt.NDArray[np.floating]) -> Predictions:
        """The table of a ``multi`` or ``scalar`` task.

        Args:
            split: N utterances, T targets, and their true values
            kind: ``multi`` or ``scalar``
            scores: (N, T), probabilities of the labels, or numbers; a row of NaN for an unscored utterance

        Raises:
            PredictionError: if lengths differ or the table is not valid

        Example:
            >>> truth = np.array([[2.0], [3.5]])
            >>> split = EvaluatedSplit(
            ...     ["u1", "u2"], ["s1", None], [], ["arousal"], "demo", 1, seed=0, targets=truth, ranges=((1, 5),)
            ... )
            >>> Predictions.from_targets(split, "scalar", np.array([[2.2], [np.nan]])).frame["status"].tolist()
            ['scored', 'unscored']
        """
        values, count = np.asarray(scores, dtype=np.float64), len(split.utterance_ids)
        if split.targets is None or not values.shape == split.targets.shape == (count, len(split.labels)):
            truths = None if split.targets is None else split.targets.shape
            raise PredictionError(
                f"predictions: {count} utterances and {len(split.labels)} targets, but truths of shape {truths} and "
                f"scores of shape {values.shape}; expected (N, T) of both"
            )
        unscored = np.isnan(values).all(axis=1)
        columns = _described(split, kind, np.where(unscored, UNSCORED, ""), [None] * count)
        columns |= {"truth": None, "prediction": None}
        columns |= {TRUTH + target: split.targets[:, place] for place, target in enumerate(split.labels)}
        columns |= {prefix_of(kind) + target: values[:, place] for place, target in enumerate(split.labels)}
        return cls(pd.DataFrame(columns), tuple(split.labels), kind=kind, ranges=split.ranges)

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
            if set(table.labels) != set(first.labels) or table.kind != first.kind:
                raise PredictionError(
                    f"{first.source} has the labels {list(first.labels)}, {table.source} has {list(table.labels)}; "
                    "join tables of one task"
                )
        shared = [name for name in first.frame.columns if all(name in table.frame.columns for table in tables)]
        frame = pd.concat([table.frame[shared] for table in tables], ignore_index=True)
        source = " + ".join(dict.fromkeys(table.source for table in tables))
        return cls(frame, first.labels, source, first.kind, first.ranges)

    def of_condition(self, condition: str) -> Predictions:
        """The rows of one condition.

        Raises:
            PredictionError: if there is none
        """
        chosen = self.frame[self.frame["condition"] == condition]
        if chosen.empty:
            found = sorted(self.frame["condition"].unique())
            raise PredictionError(f"{self.source}: no row has the condition {condition!r}; found {found}")
        return replace(self, frame=chosen.reset_index(drop=True))

    def write(self, path: Path) -> None:
        """Write as Parquet, atomically."""
        names = columns_of(self.kind, self.labels, votes=self.votes is not None)
        types = {name: pa.int64() if name in INTEGERS else pa.string() for name in COLUMNS}
        fields = [(name, types.get(name, pa.float64())) for name in names]
        content: dict[str, Any] = {"format": 1, "labels": list(self.labels)}
        content |= {"ranges": [list(ends) for ends in self.ranges]} if self.ranges else {}
        metadata = {_METADATA_KEY: json.dumps(content).encode()}
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
            single = not any(name.startswith(prefix_of("scalar")) for name in table.column_names)
            prefix = prefix_of("single" if single else "scalar")
            labels = tuple(name.removeprefix(prefix) for name in table.column_names if name.startswith(prefix))
            stored = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"null"))
            named = labels if stored is None else tuple(stored["labels"])
            ranges = tuple((float(low), float(high)) for low, high in (stored or {}).get("ranges", ()))
            frame = table.to_pandas(ignore_metadata=True)
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, RecursionError) as error:
            raise PredictionError(f"{path}: cannot be read as Parquet ({one_line(error)})") from error
        if named != labels:
            raise PredictionError(
                f"{path}: its metadata names the labels {one_line(repr(list(named)))}, its {prefix} columns "
                f"{list(labels)}; was the file edited? write it again"
            )
        kind = "single" if single or frame.empty or "task" not in frame else str(frame["task"].iloc[0])
        return cls(frame, labels, str(path), kind, ranges)


def _frame(
    split: EvaluatedSplit,
    prediction: Sequence[str] | npt.NDArray[np.object_],
    answers: Sequence[str | None],
    scores: npt.NDArray[np.float64],
) -> pd.DataFrame:
    columns = _described(split, "single", prediction, answers)
    columns |= {"truth": list(split.truth), "prediction": list(prediction)}
    columns |= {prefix_of("single") + label: scores[:, place] for place, label in enumerate(split.labels)}
    if split.votes is not None:
        columns |= {VOTE + label: split.votes[:, place] for place, label in enumerate(split.labels)}
    return pd.DataFrame(columns)


def _described(
    split: EvaluatedSplit,
    kind: str,
    prediction: Sequence[str] | npt.NDArray[Any],
    answers: Sequence[str | None],
) -> dict[str, Any]:
    """The columns that all kinds have, in order; those of truth and prediction are empty."""
    status = {UNPARSED: "unparsed", UNSCORED: "unscored"}
    return {
        "utterance_id": list(split.utterance_ids),
        "speaker": list(split.speakers),
        "corpus": split.corpus,
        "fold": split.fold,
        "seed": split.seed,
        "task": kind,
        "condition": split.condition,
        "status": [status.get(str(label), "scored") for label in prediction],
        "truth": None,
        "prediction": None,
        "answer": list(answers),
    }
