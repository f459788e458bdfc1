"""95% intervals of metrics and of their differences, with speakers as the sample.

The formulas and constants were chosen by simulation: `eval/simulate_intervals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from lalm_mer.evaluation.metrics import Floats

__all__ = [
    "MIN_SPEAKERS", "Interval", "difference_ends", "difference_interval", "is_informative", "jackknife_error",
    "score_ends", "score_interval",
]  # fmt: skip

CONFIDENCE = 0.95
MIN_SPEAKERS = 4
"""With fewer speakers no interval had a coverage from 93% to 97% in simulation."""

_ROUNDING = 0.4  # variance of a number of errors that is known to about one utterance
_TAILS = 2.0  # excess kurtosis between speakers, as a multiple of the binomial one
_LEAST_FREEDOM = 2.0  # of Student's t: below, the interval of a perfect score would have no lower end
_ZERO = 1e-9


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

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends; None if there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def jackknife_error(leave_one_out: Floats) -> Floats:
    """Standard error of a statistic by the delete-one-speaker jackknife.

    Args:
        leave_one_out: the statistic without each speaker in turn, shape (..., S), S at least 2

    Returns:
        Standard errors, shape (...)

    References:
        Efron and Stein, The jackknife estimate of variance, Annals of Statistics 9 (1981).
    """
    count = leave_one_out.shape[-1]
    deviation = leave_one_out - leave_one_out.mean(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((count - 1) / count * np.square(deviation).sum(axis=-1)), dtype=np.float64)


def score_ends(share: Floats, error: Floats, size: Floats | float, speakers: int) -> tuple[Floats, Floats]:
    """Ends of the 95% score interval of a share, with an effective number of utterances.

    The effective number n is that of independent utterances with the same standard error, which includes the rounding
    to whole utterances. The ends are those of Wilson's score interval for n utterances, with Student's t in place of
    the normal quantile. Its degrees of freedom, S - 1 or fewer, are those of a variance of skewed counts, because few
    errors carry little information on the differences between speakers.

    Args:
        share: the estimates, fractions in [0, 1], shape (...)
        error: their jackknife standard errors, shape (...)
        size: N, the number of utterances
        speakers: S

    Returns:
        Lower and upper ends, shape (...)

    Example:
        >>> low, high = score_ends(np.array([0.6, 1.0]), np.array([0.05, 0.0]), size=360, speakers=6)
        >>> low.round(2).tolist(), high.round(2).tolist()
        ([0.47, 0.96], [0.72, 1.0])

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
        Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts estimated
        from survey data, Survey Methodology 24 (1998), on the effective number of a clustered sample.
    """
    rarer = (np.minimum(share, 1 - share) * size + 0.5) / (size + 1)
    variance = rarer * (1 - rarer)
    effective = variance / (np.square(error) + _ROUNDING / np.square(size))
    kurtosis = _TAILS * np.maximum(0, 1 - 6 * variance) / (variance * effective)
    freedom = np.maximum(_LEAST_FREEDOM, 2 / (2 / (speakers - 1) + kurtosis))
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    extra = np.square(quantile) / effective
    centre = (share + extra / 2) / (1 + extra)
    half = np.sqrt(extra * (share * (1 - share) + extra / 4)) / (1 + extra)
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def is_informative(share: Floats, error: Floats) -> npt.NDArray[np.bool_]:
    """Whether the differences between speakers are known: some speaker changes the share, or it is 0 or 1, shape (...).

    At 0 or 1 the share itself bounds the differences; equal values elsewhere are those of a constant recognizer.
    """
    return np.asarray((error > _ZERO) | (share < _ZERO) | (share > 1 - _ZERO))


def _reason(leave_one_out: Floats) -> str | None:
    """Why leaving out speakers gives no interval, if so."""
    count = len(leave_one_out)
    if count < MIN_SPEAKERS:
        speakers = "1 speaker" if count == 1 else f"{count} speakers"
        return f"uninformative: {speakers}, and no interval is reliable with fewer than {MIN_SPEAKERS}"
    if not np.isfinite(leave_one_out).all():
        return "uninformative: without one of the speakers a seed has no utterance"
    return None


def score_interval(
    estimate: float, leave_one_out: Floats, size: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """95% score interval of a metric, clustered by speaker.

    There is none with fewer than ``MIN_SPEAKERS`` speakers, or if leaving out any speaker changes nothing, unless the
    value is one of ``bounds``: equal values of all speakers do not show how much speakers differ.

    Args:
        estimate: the metric on all speakers
        leave_one_out: the metric without each speaker in turn, shape (S,)
        size: number of utterances; with unequal classes, that of equal classes in which the metric is as accurate
        bounds: lowest and highest value of the metric

    Example:
        >>> interval = score_interval(0.975, np.array([0.97, 0.97, 0.975, 0.975, 0.98, 0.98]), size=360)
        >>> round(interval.low, 2), round(interval.high, 2)
        (0.93, 0.99)
        >>> score_interval(0.5, np.full(6, 0.5), size=360).method
        'uninformative: leaving out any speaker changes nothing, so the differences between speakers are unknown'
    """
    count = len(leave_one_out)
    reason = _reason(leave_one_out)
    if reason is not None:
        return Interval(None, None, reason, count)
    lowest, width = bounds[0], bounds[1] - bounds[0]
    share, error = (estimate - lowest) / width, float(jackknife_error(leave_one_out)) / width
    if not is_informative(np.asarray(share), np.asarray(error)):
        why = "leaving out any speaker changes nothing, so the differences between speakers are unknown"
        return Interval(None, None, f"uninformative: {why}", count)
    low, high = score_ends(np.asarray(share), np.asarray(error), size, count)
    method = "score interval, effective number of utterances by the delete-one-speaker jackknife, Student's t, 95%"
    return Interval(lowest + width * float(low), lowest + width * float(high), method, count)


def difference_ends(
    shares: tuple[Floats, Floats],
    ends: tuple[tuple[Floats, Floats], tuple[Floats, Floats]],
    errors: tuple[Floats, Floats, Floats],
    speakers: int,
) -> tuple[Floats, Floats]:
    """Ends of the 95% interval of a difference of two shares of the same speakers, first minus second.

    The wider end of two intervals: the jackknife's with Student's t, which is too narrow near the ceiling, and the one
    that combines both score intervals by their correlation over speakers.

    Args:
        shares: both estimates, shape (...)
        ends: ``score_ends`` of both
        errors: jackknife standard errors of both and of their difference, shape (...)
        speakers: S

    References:
        Zou and Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27 (2008).
    """
    (a, b), ((low_a, high_a), (low_b, high_b)) = shares, ends
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, speakers - 1) * errors[2]
    covariance = (np.square(errors[0]) + np.square(errors[1]) - np.square(errors[2])) / 2
    product = errors[0] * errors[1]
    correlation = np.where(product > _ZERO**2, covariance / np.maximum(product, _ZERO**2), 0.0)

    def combined(first: Floats, second: Floats) -> Floats:
        squares = np.square(first) + np.square(second) - 2 * correlation * first * second
        return np.asarray(np.sqrt(np.maximum(0.0, squares)))

    low = a - b - np.maximum(half, combined(a - low_a, high_b - b))
    high = a - b + np.maximum(half, combined(high_a - a, b - low_b))
    return np.maximum(-1.0, low), np.minimum(1.0, high)


def difference_interval(
    estimates: tuple[float, float], leave_one_out: tuple[Floats, Floats], intervals: tuple[Interval, Interval]
) -> Interval:
    """95% interval of the difference of two metrics with bounds 0 and 1 on the same speakers, first minus second.

    There is none if one of the metrics has none, or if leaving out any speaker does not change their difference.

    Args:
        estimates: both metrics on all speakers
        leave_one_out: both metrics without each speaker in turn, each of shape (S,)
        intervals: both ``score_interval``
    """
    first, second = (interval.ends for interval in intervals)
    if first is None:
        return intervals[0]
    if second is None:
        return intervals[1]
    count = len(leave_one_out[0])
    a, b = leave_one_out
    errors = jackknife_error(a), jackknife_error(b), jackknife_error(a - b)
    if errors[2] < _ZERO < max(errors):
        why = "leaving out any speaker does not change the difference, so its spread over speakers is unknown"
        return Interval(None, None, f"uninformative: {why}", count)
    shares = np.asarray(estimates[0]), np.asarray(estimates[1])
    ends = tuple((np.asarray(low), np.asarray(high)) for low, high in (first, second))
    low, high = difference_ends(shares, (ends[0], ends[1]), errors, count)
    method = "wider end of a delete-one-speaker jackknife, Student's t, and of combined score intervals, 95%"
    return Interval(float(low), float(high), method, count)
