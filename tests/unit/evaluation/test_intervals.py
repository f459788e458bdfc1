"""Intervals hold in simulation, near the ceiling too, and none is printed where none can hold."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricated_predictions
from representatives import slow_except
from scipy import stats

from lalm_mer.evaluation.intervals import (
    MIN_SPEAKERS,
    difference_interval,
    jackknife_error,
    score_ends,
    score_interval,
)
from lalm_mer.evaluation.metrics import METRICS, UAR
from lalm_mer.evaluation.report.text import metrics_text
from lalm_mer.evaluation.scores import score_table
from lalm_mer.evaluation.statistics import paired_test, speaker_intervals

ROOT = Path(__file__).parents[3]
LABELS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def simulation():
    """The script that chose the interval."""
    specification = importlib.util.spec_from_file_location("simulate_intervals", ROOT / "eval/simulate_intervals.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def table(rates, utterances, generator):
    """A table of predictions of speakers with these rates of correct answers."""
    count = len(rates) * utterances
    truth = np.array(LABELS)[np.arange(count) % 4]
    right = generator.random(count) < np.repeat(rates, utterances)
    wrong = np.array(LABELS)[(np.arange(count) + 1) % 4]
    return pd.DataFrame(
        {"utterance_id": [f"u{i}" for i in range(count)], "corpus": "c", "fold": 1, "seed": 0, "truth": truth,
         "speaker": [f"s{i // utterances}" for i in range(count)], "prediction": np.where(right, truth, wrong)}
    )  # fmt: skip


@pytest.mark.parametrize(("speakers", "mean"), slow_except([(4, 0.97), (6, 0.97), (6, 0.99)], [(4, 0.97)]))
def test_tables_near_the_ceiling_get_an_interval_that_holds(speakers, mean):
    """The former interval, a jackknife with Student's t on the plain scale, covers 61 to 82% here."""
    generator, covered, draws = np.random.default_rng(7), 0, 150
    for _ in range(draws):
        rates = generator.beta(mean * 9, (1 - mean) * 9, speakers)
        interval = speaker_intervals(table(rates, 40, generator), LABELS, [METRICS[UAR]])[UAR]
        covered += interval.low <= mean <= interval.high
    assert covered / draws >= 0.93


@pytest.mark.parametrize("spread", ["none", "large", "mixed", "uneven", "long_tailed"])
@pytest.mark.parametrize("speakers", [4, 6, 10, 24])
def test_coverage_of_the_score_interval(simulation, speakers, spread):
    """At least 93% everywhere, at most 97% up to 0.9, less two standard errors of the simulation."""
    draws, of = 2000, simulation.sizes(speakers, 4, 60, spread)
    error = 2 * np.sqrt(0.93 * 0.07 / draws)
    for mean in (0.5, 0.9, 0.97, 0.99):
        generator = np.random.default_rng([speakers, round(100 * mean)])
        rates = simulation.recalls(generator, (draws, speakers, 4), mean, simulation.SPREADS[spread])
        uar, without = simulation.estimates(generator.binomial(of, rates), of)
        low, high = score_ends(uar, jackknife_error(without), 16 / (1 / of.sum(axis=0)).sum(), speakers)
        covered = np.mean((low <= mean) & (mean <= high))
        assert covered >= 0.93 - error, mean
        assert covered <= 0.97 + error or mean > 0.9, mean
        assert np.all((low < uar) | (uar == 0))
        assert np.all((uar < high) | (uar == 1))
        assert np.all(high > low)


def test_a_perfect_score_has_a_lower_end_that_rises_with_speakers_and_utterances():
    lows = [score_interval(1.0, np.ones(speakers), 60 * speakers).low for speakers in (4, 6, 10, 24)]
    assert lows == sorted(lows)
    assert 0.8 < lows[0] < lows[-1] < 0.995
    assert score_interval(1.0, np.ones(6), 48).low < score_interval(1.0, np.ones(6), 480).low
    assert score_interval(1.0, np.ones(6), 360).high == 1.0
    assert score_interval(0.0, np.zeros(6), 360).high == pytest.approx(1 - lows[1])


def test_one_more_error_hardly_raises_the_lower_end_near_the_ceiling():
    for speakers in (4, 6, 10):
        size = 60 * speakers
        wrong = np.arange(12)
        errors = np.where(wrong == 0, 0, np.sqrt(wrong)) / size
        low, _ = score_ends(1 - wrong / size, errors, size, speakers)
        assert np.diff(low).max() < 0.01
        assert low[0] == low.max()


def test_few_speakers_are_uninformative():
    generator = np.random.default_rng(0)
    for speakers in range(1, MIN_SPEAKERS):
        interval = speaker_intervals(table([0.9] * speakers, 40, generator), LABELS, [METRICS[UAR]])[UAR]
        assert (interval.low, interval.high, interval.n_clusters) == (None, None, speakers)
        assert interval.method.startswith(f"uninformative: {speakers} speaker")
    assert speaker_intervals(table([0.9] * MIN_SPEAKERS, 40, generator), LABELS, [METRICS[UAR]])[UAR].low is not None


def test_a_width_of_zero_is_not_printed():
    """A recognizer that always gives one label has the same UAR with every speaker."""
    frame = table([1.0] * 6, 40, np.random.default_rng(0)).assign(prediction="a")
    scores = score_table(frame, LABELS)
    assert (scores["uar"]["value"], scores["uar"]["low"], scores["uar"]["high"]) == (0.25, None, None)
    assert "leaving out any speaker changes nothing" in scores["uar"]["method"]
    printed = metrics_text(scores)
    assert "25.0  uninformative" in printed
    assert "25.0 to 25.0" not in printed


def test_the_interval_of_a_metric_with_other_bounds_is_scaled():
    values = np.array([0.3, 0.5, 0.45, 0.6, 0.4])
    plain, scaled = score_interval(0.45, values, 100), score_interval(-0.1, 2 * values - 1, 100, (-1.0, 1.0))
    assert (scaled.low, scaled.high) == pytest.approx((2 * plain.low - 1, 2 * plain.high - 1))


def test_far_from_the_ends_the_interval_is_nearly_students_t_interval():
    values = np.random.default_rng(1).normal(0.5, 0.02, 24)
    interval = score_interval(values.mean(), (values.sum() - values) / 23, 100_000)
    low, high = stats.t.interval(0.95, 23, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.slow
def test_the_interval_of_a_difference_holds_near_the_ceiling():
    """The former interval covers 83% here."""
    generator, covered, draws = np.random.default_rng(3), 0, 150
    for _ in range(draws):
        rates = [generator.beta(mean * 9, (1 - mean) * 9, 4) for mean in (0.99, 0.97)]
        a, b = (table(each, 40, generator) for each in rates)
        interval = paired_test(a, b, LABELS).interval
        covered += interval.low is None or interval.low <= 0.02 <= interval.high
    assert covered / draws >= 0.93


def test_a_difference_without_a_score_interval_has_none():
    generator = np.random.default_rng(4)
    good = table([0.7, 0.8, 0.9, 0.85, 0.75], 40, generator)
    constant = good.assign(prediction="a")
    result = paired_test(good, constant, LABELS)
    assert (result.interval.low, result.interval.n_clusters) == (None, 5)
    assert result.p_value is not None
    same = paired_test(good, good, LABELS)
    assert (same.difference, same.interval.low) == (0.0, None)
    assert "does not change the difference" in same.interval.method


def test_two_perfect_recognizers_differ_by_an_interval_around_zero():
    ones = np.ones(6)
    part = score_interval(1.0, ones, 360)
    interval = difference_interval((1.0, 1.0), (ones, ones), (part, part))
    assert interval.low == pytest.approx(-interval.high)
    assert 0 < interval.high < 0.1


def test_a_fabricated_table_has_an_interval_for_every_metric():
    pooled = fabricated_predictions()
    for metric in METRICS.values():
        interval = speaker_intervals(pooled.frame, pooled.labels, [metric])[metric.name]
        assert interval.low < interval.high
