"""Intervals and paired tests that treat speakers, not utterances, as the sample.

Utterances of one speaker are similar, so an interval over utterances is too narrow. All statistics are computed from
counts, so that a speaker is left out by a subtraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNSCORED
from lalm_mer.evaluation.intervals import Interval, difference_interval, score_interval
from lalm_mer.evaluation.metrics import METRICS, UAR, Counts, Floats, Metric

__all__ = [
    "PairedTest", "SpeakerCounts", "holm", "paired_test", "sign_flip_test", "speaker_counts", "speaker_intervals",
    "speakers_of",
]  # fmt: skip

_RESAMPLES = 19_999  # sign flips drawn where there are more than 14 speakers; up to 14 all 2^S are enumerated
_SEED = 20_090_906
_CELLS = 2_000_000  # of counts at once, which bounds the memory of leaving speakers out


@dataclass(frozen=True)
class PairedTest:
    """Difference of two UARs on the same utterances, ``a`` minus ``b``, tested by speaker.

    Args:
        difference: UAR of ``a`` minus UAR of ``b``, a fraction
        p_value: two-sided; None if speakers are unknown or there is only one
        smallest_p: smallest possible p-value with this number of speakers, 2 / 2^S
        n_speakers: number of speakers; None if they are unknown
        n_utterances: utterances in the test splits of all folds
        method: how the p-value was computed, or why there is none
    """

    difference: float
    interval: Interval
    p_value: float | None
    smallest_p: float | None
    n_speakers: int | None
    n_utterances: int
    method: str


@dataclass(frozen=True)
class SpeakerCounts:
    """Confusion counts with and without each speaker.

    Args:
        total: counts of all speakers, shape (R seeds, K, K + 2)
        speakers: the S speakers in order; None if any is unknown
        cells: index of the cell of each row in ``total`` flattened, shape (N,), in the order of ``of_speaker``
        of_speaker: index of the speaker of each row, ascending, shape (N,)
    """

    total: Counts
    speakers: list[str] | None
    cells: npt.NDArray[np.int64]
    of_speaker: npt.NDArray[np.int64]

    def estimate(self, metric: Metric) -> float:
        """Mean over seeds of the metric on all speakers."""
        return float(metric.from_counts(self.total).mean())

    def leave_one_out(self, metric: Metric) -> Floats:
        """Mean over seeds of the metric without each speaker in turn, left out of all seeds at once; shape (S,)."""
        count, size = len(self.speakers or [""]), self.total.size
        at_once = max(1, _CELLS // size)
        parts = []
        for start in range(0, count, at_once):
            stop = min(count, start + at_once)
            rows = slice(*np.searchsorted(self.of_speaker, (start, stop)))
            flat = (self.of_speaker[rows] - start) * size + self.cells[rows]
            own = np.bincount(flat, minlength=(stop - start) * size).reshape(stop - start, *self.total.shape)
            parts.append(metric.from_counts(self.total - own).mean(axis=-1))
        return np.concatenate(parts).astype(np.float64)

    def interval(self, metric: Metric) -> Interval:
        """The score interval of a metric; the number of utterances is that of equal classes with the same variance."""
        of_class = self.total.sum(axis=(0, 2)) / len(self.total)
        found = of_class[of_class > 0]
        size = len(found) ** 2 / float((1 / found).sum())
        return score_interval(self.estimate(metric), self.leave_one_out(metric), size, metric.bounds)

    def sole_speakers(self) -> int:
        """Number of speakers who have all utterances of a class."""
        n_labels = self.total.shape[1]
        truth = self.cells // (n_labels + 2) % n_labels
        own = np.bincount(self.of_speaker * n_labels + truth, minlength=len(self.speakers or [""]) * n_labels)
        of_class = own.reshape(-1, n_labels)
        return int(((of_class > 0) & (of_class == of_class.sum(axis=0))).any(axis=1).sum())


def speaker_counts(frame: pd.DataFrame, labels: Sequence[str]) -> SpeakerCounts:
    """Count a table by seed and speaker.

    Args:
        frame: columns ``corpus``, ``speaker``, ``seed``, ``truth``, ``prediction``; folds are pooled
        labels: the K labels; a prediction outside them is counted as unparsed
    """
    columns = {label: index for index, label in enumerate(labels)}
    size = len(columns)
    truth = frame["truth"].map(columns).to_numpy(dtype=np.int64)
    prediction = frame["prediction"].map(columns | {UNSCORED: size + 1}).fillna(size).to_numpy(dtype=np.int64)
    seeds, seed_names = pd.factorize(frame["seed"], sort=True)
    speakers: list[str] | None = None
    speaker = np.zeros(len(frame), dtype=np.int64)
    if frame["speaker"].notna().all():
        speaker, names = pd.factorize(speakers_of(frame), sort=True)
        speakers = list(names)
    shape = (len(seed_names), size, size + 2)
    cells = np.ravel_multi_index((seeds, truth, prediction), shape)
    total = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64)
    order = np.argsort(speaker, kind="stable")
    return SpeakerCounts(total, speakers, cells[order], np.asarray(speaker, dtype=np.int64)[order])


def speakers_of(frame: pd.DataFrame) -> pd.Series:
    """Name of the speaker of each row, with its corpus; of a table whose speakers are all known."""
    return frame["corpus"].astype(str) + "/" + frame["speaker"].astype(str)


def _unknown_speakers(frame: pd.DataFrame) -> Interval:
    unknown = int(frame["speaker"].isna().sum())
    return Interval(None, None, f"no interval: speaker unknown in {unknown} of {len(frame)} rows", None)


def speaker_intervals(frame: pd.DataFrame, labels: Sequence[str], metrics: Iterable[Metric]) -> dict[str, Interval]:
    """95% intervals of metrics of a table of predictions, by the name of the metric, clustered by speaker.

    Folds are pooled per seed, the metric is averaged over seeds, and a speaker is left out of all seeds at once. If the
    speaker has all utterances of a class, the class is left out of that mean; ``method`` states how often.

    Args:
        frame: columns ``corpus``, ``speaker``, ``seed``, ``truth``, ``prediction``
        labels: the K labels
        metrics: of ``METRICS``
    """
    counts = speaker_counts(frame, labels)
    if counts.speakers is None:
        return {metric.name: _unknown_speakers(frame) for metric in metrics}
    short, count = counts.sole_speakers(), len(counts.speakers)
    lacking = f"; a class is absent from {short} of {count} resamples and left out of them" if short else ""
    intervals = {metric.name: counts.interval(metric) for metric in metrics}
    return {
        name: each if each.low is None else replace(each, method=each.method + lacking)
        for name, each in intervals.items()
    }


def _correctness(frame: pd.DataFrame) -> pd.DataFrame:
    """Truth, speaker and mean correctness over seeds of each (utterance, fold)."""
    marked = frame.assign(correct=(frame["truth"] == frame["prediction"]).astype(float), rows=1)
    columns = {"truth": "first", "speaker": "first", "corpus": "first", "correct": "mean", "rows": "sum"}
    return marked.groupby(["utterance_id", "fold"], sort=True).agg(columns)


def _require_same(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]) -> None:
    first, second = names
    only = a.index.symmetric_difference(b.index)
    if len(only):
        where = first if only[0] in a.index else second
        raise PredictionError(
            f"{first} and {second} score different utterances: {only[0][0]!r} (fold {only[0][1]}) is only in {where}, "
            f"{len(only)} differ; run both on the same folds"
        )
    for column in ("truth", "speaker"):
        differs = (a[column].fillna("") != b[column].fillna("")).to_numpy()
        if differs.any():
            row = int(differs.argmax())
            raise PredictionError(
                f"{first} and {second} disagree on the {column} of utterance {a.index[row][0]!r}: "
                f"{a[column].iloc[row]!r} and {b[column].iloc[row]!r}; score both on the same data"
            )
    for table, name in ((a, first), (b, second)):
        if table["rows"].nunique() != 1:
            raise PredictionError(f"{name}: seeds do not score the same utterances; complete the folds of every seed")


def paired_test(
    a: pd.DataFrame, b: pd.DataFrame, labels: Sequence[str], names: tuple[str, str] = ("a", "b")
) -> PairedTest:
    """Test whether the UARs of two recognizers differ, by flipping the sign of each speaker's difference.

    UAR is linear in the correctness of each utterance, with weight 1 / (K n_class) for the K classes present, so the
    difference is a sum over speakers. If the recognizers are equally good, both signs of a term are equally likely.

    Args:
        a: table with ``utterance_id``, ``fold``, ``seed``, ``corpus``, ``speaker``, ``truth``, ``prediction``
        b: the same of the other recognizer
        labels: the K labels
        names: names of the two in errors

    Raises:
        PredictionError: if the two tables differ in utterances, truths or speakers

    References:
        Good, Permutation, Parametric and Bootstrap Tests of Hypotheses (2005), on one-sample sign flips.
    """
    left, right = _correctness(a), _correctness(b)
    _require_same(left, right, names)
    per_class = left["truth"].value_counts()
    weight = 1 / (len(per_class) * left["truth"].map(per_class).to_numpy(dtype=np.float64))
    share = pd.Series(weight * (left["correct"] - right["correct"]).to_numpy(), index=left.index)
    difference = float(share.sum())
    if left["speaker"].isna().any():
        interval = _unknown_speakers(left)
        return PairedTest(difference, interval, None, None, None, len(left), "no test: speakers are unknown")
    by_speaker = share.groupby(speakers_of(left).to_numpy()).sum().to_numpy()
    count = len(by_speaker)
    uar = METRICS[UAR]
    counts_a, counts_b = speaker_counts(a, labels), speaker_counts(b, labels)
    interval = difference_interval(
        (counts_a.estimate(uar), counts_b.estimate(uar)),
        (counts_a.leave_one_out(uar), counts_b.leave_one_out(uar)),
        (counts_a.interval(uar), counts_b.interval(uar)),
    )
    if count < 2:
        return PairedTest(difference, interval, None, None, count, len(left), "no test: one speaker")
    p_value, smallest, how = sign_flip_test(by_speaker, np.sum, "sign flips")
    return PairedTest(difference, interval, p_value, smallest, count, len(left), f"{how} by speaker")


def sign_flip_test(values: Floats, statistic: Callable[..., Floats], what: str) -> tuple[float, float, str]:
    """Test a statistic of S values whose signs are independent and equally likely if there is no difference.

    Args:
        values: (S,), S at least 2
        statistic: vectorised over all axes but ``axis``, as of scipy.stats.permutation_test
        what: name of the flips in the method

    Returns:
        two-sided p-value, the smallest possible one, and the method, such as ``all 2^6 sign flips``
    """
    result = scipy.stats.permutation_test(
        (values,),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=2_000,
        random_state=np.random.default_rng(_SEED),
    )
    count = len(values)
    exact = 2**count <= _RESAMPLES
    smallest = 2 / 2**count if exact else 2 / (_RESAMPLES + 1)
    how = f"all 2^{count} {what}" if exact else f"{_RESAMPLES} random {what}, seed {_SEED}"
    return min(1.0, float(result.pvalue)), smallest, how


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted by Holm's step-down rule, in the order of the input; None stays None.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).
    """
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (value, place) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * value))
        adjusted[place] = running
    return adjusted
