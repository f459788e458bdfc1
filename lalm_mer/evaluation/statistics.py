"""Intervals and paired tests that treat speakers, not utterances, as the sample.

Utterances of one speaker are similar, so an interval over utterances is too narrow. All statistics are computed from
counts per seed and speaker, shape (R, S, K, K + 2), so that a speaker is left out by a subtraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNSCORED
from lalm_mer.evaluation.metrics import METRICS, UAR, Counts, Floats, Metric

__all__ = ["Interval", "PairedTest", "holm", "jackknife", "paired_test", "speaker_counts", "speaker_interval"]

CONFIDENCE = 0.95
_RESAMPLES = 19_999  # sign flips drawn where there are more than 14 speakers; up to 14 all 2^S are enumerated
_SEED = 20_090_906


@dataclass(frozen=True)
class Interval:
    """A 95% interval.

    Args:
        low: lower end; None, as ``high``, if there is no interval
        method: how it was computed, or why there is none
        n_clusters: number of speakers; None if they are unknown
    """

    low: float | None
    high: float | None
    method: str
    n_clusters: int | None


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


def speaker_counts(frame: pd.DataFrame, labels: Sequence[str]) -> tuple[Counts, list[str] | None]:
    """Confusion counts per seed and speaker.

    Args:
        frame: columns ``corpus``, ``speaker``, ``seed``, ``truth``, ``prediction``; folds are pooled
        labels: the K labels; a prediction outside them is counted as unparsed

    Returns:
        Counts, shape (R seeds, S speakers, K, K + 2), and the S speakers in order; if any speaker is unknown, S = 1
        and None
    """
    columns = {label: index for index, label in enumerate(labels)}
    size = len(columns)
    truth = frame["truth"].map(columns).to_numpy(dtype=np.int64)
    prediction = frame["prediction"].map(columns | {UNSCORED: size + 1}).fillna(size).to_numpy(dtype=np.int64)
    seeds, seed_names = pd.factorize(frame["seed"], sort=True)
    speakers: list[str] | None = None
    speaker = np.zeros(len(frame), dtype=np.int64)
    if frame["speaker"].notna().all():
        speaker, names = pd.factorize(frame["corpus"].astype(str) + "/" + frame["speaker"].astype(str), sort=True)
        speakers = list(names)
    shape = (len(seed_names), len(speakers or [""]), size, size + 2)
    flat = np.ravel_multi_index((seeds, speaker, truth, prediction), shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64), speakers


def jackknife(estimate: float, leave_one_out: Floats, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Delete-one-cluster jackknife with Student's t, 95%.

    The interval is ``estimate`` plus or minus t(S - 1) standard errors. With few speakers its coverage is better than
    that of a percentile bootstrap over speakers, which is too narrow.

    Args:
        estimate: the statistic on all clusters
        leave_one_out: the statistic without each cluster in turn, shape (S,), S at least 2
        bounds: range of the statistic; the interval is clipped to it

    Returns:
        The interval, without ends if there are fewer than two clusters or a value is NaN

    Example:
        >>> interval = jackknife(0.5, np.array([0.4, 0.5, 0.6]))
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.003, 0.997)

    References:
        Efron and Stein, The jackknife estimate of variance, Annals of Statistics 9 (1981).
    """
    count = len(leave_one_out)
    if count < 2:
        reason = "no interval: one speaker, and utterances of one speaker are not independent"
        return Interval(None, None, reason, count)
    if not np.isfinite(leave_one_out).all():
        return Interval(None, None, "no interval: without one of the speakers a seed has no utterance", count)
    standard_error = np.sqrt((count - 1) / count * np.square(leave_one_out - leave_one_out.mean()).sum())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * standard_error)
    method = f"delete-one-speaker jackknife, Student's t with {count - 1} degrees of freedom, 95%"
    if half == 0:
        method += "; leaving any speaker out changes nothing, so a width of zero says nothing about other speakers"
    return Interval(max(bounds[0], estimate - half), min(bounds[1], estimate + half), method, count)


def _leave_one_out(counts: Counts, metric: Metric) -> Floats:
    """Mean over seeds of the metric without each speaker in turn, left out of all seeds at once; shape (S,)."""
    without = counts.sum(axis=1, keepdims=True) - counts
    return np.asarray(metric.from_counts(without).mean(axis=0), dtype=np.float64)


def _unknown_speakers(frame: pd.DataFrame) -> Interval:
    unknown = int(frame["speaker"].isna().sum())
    return Interval(None, None, f"no interval: speaker unknown in {unknown} of {len(frame)} rows", None)


def speaker_interval(frame: pd.DataFrame, labels: Sequence[str], metric: Metric) -> Interval:
    """95% interval of a metric of a table of predictions, clustered by speaker.

    Folds are pooled per seed, the metric is averaged over seeds, and a speaker is left out of all seeds at once. If the
    speaker has all utterances of a class, the class is left out of that mean; ``method`` states how often.

    Args:
        frame: columns ``corpus``, ``speaker``, ``seed``, ``truth``, ``prediction``
        labels: the K labels
        metric: one of ``METRICS``
    """
    counts, speakers = speaker_counts(frame, labels)
    if speakers is None:
        return _unknown_speakers(frame)
    estimate = float(metric.from_counts(counts.sum(axis=1)).mean())
    interval = jackknife(estimate, _leave_one_out(counts, metric), metric.bounds)
    present = (counts.sum(axis=1, keepdims=True) - counts).sum(axis=(0, 3)) > 0  # (S, K)
    ever = counts.sum(axis=(0, 1, 3)) > 0
    short = int((~present[:, ever]).any(axis=1).sum())
    if interval.low is None or short == 0:
        return interval
    method = f"{interval.method}; a class is absent from {short} of {len(speakers)} resamples and left out of them"
    return replace(interval, method=method)


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
    by_speaker = share.groupby((left["corpus"] + "/" + left["speaker"]).to_numpy()).sum().to_numpy()
    count = len(by_speaker)
    uar = METRICS[UAR]
    counts_a, counts_b = speaker_counts(a, labels)[0], speaker_counts(b, labels)[0]
    without = _leave_one_out(counts_a, uar) - _leave_one_out(counts_b, uar)
    interval = jackknife(difference, without, bounds=(-1.0, 1.0))
    if count < 2:
        return PairedTest(difference, interval, None, None, count, len(left), "no test: one speaker")
    result = stats.permutation_test(
        (by_speaker,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=2_000,
        random_state=np.random.default_rng(_SEED),
    )
    exact = 2**count <= _RESAMPLES
    smallest = 2 / 2**count if exact else 2 / (_RESAMPLES + 1)
    how = f"all 2^{count} sign flips" if exact else f"{_RESAMPLES} random sign flips, seed {_SEED}"
    p_value = min(1.0, float(result.pvalue))
    return PairedTest(difference, interval, p_value, smallest, count, len(left), f"{how} by speaker")


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
