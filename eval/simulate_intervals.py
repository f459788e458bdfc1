"""Simulate the coverage and width of 95% intervals of UAR by speaker, of the package and of others that were tried.

Example:
    python eval/simulate_intervals.py --out eval/results

Simulated speakers differ in skill as ``SPREADS`` states; the true UAR is the mean over all possible speakers. It writes
interval_coverage.csv (every setting: the interval of the package and the former one), interval_summary.csv (all
methods), interval_held_out.csv (settings that were not used to choose it, and larger spreads) and
interval_differences.csv (differences of two recognizers). ``printed`` is the fraction of draws with an
interval, ``coverage`` that of the printed intervals that contain the true value, ``width`` their median width. The seed
is fixed; 10,000 draws a setting take about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.output import atomic_path
from lalm_mer.evaluation.intervals import MIN_SPEAKERS, difference_ends, is_informative, jackknife_error, score_ends

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

SPEAKERS, UARS, CLASSES, UTTERANCES = (2, 3, 4, 6, 10, 24), (0.5, 0.9, 0.97, 0.99), (2, 4, 8), (8, 20, 40, 60)
SPREADS: dict[str, tuple[float, float, float] | float] = {
    "none": (0.0, 0.0, 0.0),
    "classes": (0.0, 0.0, 1.2),
    "moderate": (0.5, 0.0, 0.0),
    "large": (1.0, 0.0, 0.0),
    "mixed": (0.6, 0.5, 1.0),
    "uneven": (0.6, 0.5, 1.0),
    "long_tailed": 0.15,
}
"""Of the logit of the recall: standard deviation over speakers, and over the classes of a speaker, and half the range
over classes. ``uneven``: also 50 to 150% of the utterances a speaker, and classes in proportions from 1 to 4.
``long_tailed``: a beta distribution over speakers with this intraclass correlation."""
GRID = tuple(product(SPEAKERS, UARS, CLASSES, UTTERANCES, SPREADS.items()))
OTHER_SPREADS: dict[str, tuple[float, float, float] | float] = {
    "none": (0.0, 0.0, 0.0),
    "within_range": (0.7, 0.7, 0.6),
    "long_tailed_0.10": 0.1,
    "larger": (1.5, 0.0, 0.0),
    "long_tailed_0.25": 0.25,
}
HELD_OUT = tuple(product((5, 8, 15, 40), (0.3, 0.7, 0.8, 0.95, 0.98), (3, 6), (30, 50, 100), OTHER_SPREADS.items()))
"""Settings that no constant was chosen on; the last two spreads are larger than any of ``SPREADS``."""
PAIRS = ((0.99, 0.97), (0.97, 0.97), (0.97, 0.9), (0.97, 0.5), (0.9, 0.9), (0.9, 0.5), (0.6, 0.5))
CORRELATIONS = (0.0, 0.5, 0.9)  # of the logits of both recognizers over speakers
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def sizes(speakers: int, classes: int, utterances: int, spread: str) -> npt.NDArray[np.int64]:
    """Utterances of each speaker and class, shape (S, K)."""
    if spread == "uneven":
        shares = np.linspace(1, 4, classes) / np.linspace(1, 4, classes).sum()
        of_speaker = utterances * np.linspace(0.5, 1.5, speakers)
        return np.maximum(1, np.round(of_speaker[:, None] * shares)).astype(np.int64)
    row = [utterances // classes + (label < utterances % classes) for label in range(classes)]
    return np.tile(row, (speakers, 1))


def recalls(
    generator: np.random.Generator,
    shape: tuple[int, int, int],
    uar: float,
    spread: tuple[float, float, float] | float,
    shared: Floats | None = None,
) -> Floats:
    """True recalls with the mean ``uar``, shape (R, S, K); ``shared``: the standard normals of the speakers."""
    draws, speakers, classes = shape
    if isinstance(spread, float):
        total = 1 / spread - 1
        return np.repeat(generator.beta(uar * total, (1 - uar) * total, (draws, speakers, 1)), classes, axis=2)
    between, within, half_range = spread
    offsets = np.linspace(-half_range, half_range, classes)
    grid = offsets[:, None] + np.hypot(between, within) * _NODES

    def excess(mean: float) -> float:
        return float((scipy.special.expit(mean + grid) @ _WEIGHTS).mean() / _WEIGHTS.sum() - uar)

    normal = generator.standard_normal((draws, speakers, 1)) if shared is None else shared
    logits = scipy.optimize.brentq(excess, -10, 20) + offsets + between * normal
    return np.asarray(scipy.special.expit(logits + within * generator.standard_normal(shape)))


def estimates(hits: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """UAR of each draw, shape (R,), and UAR without each speaker, shape (R, S)."""
    total = hits.sum(axis=1, keepdims=True)
    return (total[:, 0] / of.sum(axis=0)).mean(axis=-1), ((total - hits) / (of.sum(axis=0) - of)).mean(axis=-1)


def transformed(uar: Floats, error: Floats, size: float, speakers: int) -> Iterator[tuple[str, Floats, Floats]]:
    """Intervals that were tried: Student's t on other scales, Wilson's, and that of Korn and Graubard."""
    quantile = scipy.stats.t.ppf(0.975, speakers - 1)
    yield "jackknife_t", np.maximum(0, uar - quantile * error), np.minimum(1, uar + quantile * error)
    inner = (uar * size + 0.5) / (size + 1)
    half = quantile * error / (inner * (1 - inner))
    yield (
        "logit_t",
        scipy.special.expit(scipy.special.logit(inner) - half),
        scipy.special.expit(scipy.special.logit(inner) + half),
    )
    angle, half = np.arcsin(np.sqrt(inner)), quantile * error / (2 * np.sqrt(inner * (1 - inner)))
    low, high = np.clip(angle - half, 0, np.pi / 2), np.clip(angle + half, 0, np.pi / 2)
    yield "arcsine_t", np.sin(low) ** 2, np.sin(high) ** 2
    root = np.sqrt(uar * (1 - uar) / size + 0.98**2 / size**2)
    middle, scale = uar + 1.92 / size, 1 + 3.84 / size
    wilson = (middle - 1.96 * root) / scale, (middle + 1.96 * root) / scale
    yield "union_wilson", np.minimum(uar - quantile * error, wilson[0]), np.maximum(uar + quantile * error, wilson[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        independent = np.where(error > 0, np.minimum(size, uar * (1 - uar) / error**2), size)
    effective = independent * (scipy.stats.t.ppf(0.975, size - 1) / quantile) ** 2
    right = uar * effective
    low = np.where(right > 0, scipy.stats.beta.ppf(0.025, np.maximum(right, 1e-9), effective - right + 1), 0.0)
    high = np.where(uar < 1, scipy.stats.beta.ppf(0.975, right + 1, np.maximum(effective - right, 1e-9)), 1.0)
    yield "korn_graubard", low, high


def profile(hits: npt.NDArray[np.int64], utterances: int, truth: float) -> tuple[Floats, Floats]:
    """The profile likelihood over plausible rates of speakers, a beta-binomial distribution; against t squared."""
    correlation = np.array([0.001, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5])
    mean = np.sort(np.append(scipy.special.expit(np.linspace(-4, 9, 100)), truth))
    total = 1 / correlation - 1
    outcomes = np.arange(utterances + 1)
    table = scipy.stats.betabinom.logpmf(
        outcomes[:, None, None], utterances, mean[:, None] * total, (1 - mean[:, None]) * total
    )
    draws, speakers = len(hits), hits.shape[1]
    counts = np.zeros((draws, utterances + 1))
    np.add.at(counts, (np.arange(draws)[:, None], hits.sum(axis=2)), 1)
    likelihood = (counts @ table.reshape(utterances + 1, -1)).reshape(draws, len(mean), -1).max(axis=2)
    inside = 2 * (likelihood.max(axis=1, keepdims=True) - likelihood) <= scipy.stats.t.ppf(0.975, speakers - 1) ** 2
    return mean[inside.argmax(axis=1)], mean[len(mean) - 1 - inside[:, ::-1].argmax(axis=1)]


def row(truth: float, low: Floats, high: Floats, printed: npt.NDArray[np.bool_]) -> dict[str, float]:
    """The figures of one method in one setting."""
    covered = (low <= truth + 1e-12) & (truth <= high + 1e-12)
    shown = printed.any()
    return {
        "printed": printed.mean(),
        "coverage": covered[printed].mean() if shown else np.nan,
        "width": float(np.median((high - low)[printed])) if shown else np.nan,
    }


def of_one(draws: int, seed: int, settings: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Rows of all settings and methods for one recognizer."""
    for number, (speakers, truth, classes, utterances, (spread, values)) in enumerate(settings):
        generator = np.random.default_rng([seed, number])
        of = sizes(speakers, classes, utterances, spread)
        hits = generator.binomial(of, recalls(generator, (draws, speakers, classes), truth, values))
        uar, without = estimates(hits, of)
        error, size = jackknife_error(without), classes**2 / (1 / of.sum(axis=0)).sum()
        setting = {"speakers": speakers, "uar": truth, "classes": classes, "utterances": utterances, "spread": spread}
        low, high = score_ends(uar, error, size, speakers)
        printed = is_informative(uar, error) & (speakers >= MIN_SPEAKERS)
        yield setting | {"method": "score"} | row(truth, low, high, printed)
        always = np.ones(draws, dtype=bool)
        for method, low, high in transformed(uar, error, size, speakers):
            yield setting | {"method": method} | row(truth, low, high, always)
        if spread != "uneven":
            yield setting | {"method": "profile"} | row(truth, *profile(hits, utterances, truth), always)


def of_differences(draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of all settings for the difference of two recognizers, four classes."""
    spreads = ("none", "large", "mixed")
    everything = product(SPEAKERS, PAIRS, UTTERANCES, spreads, CORRELATIONS)
    for number, (speakers, pair, utterances, spread, correlation) in enumerate(everything):
        if speakers < MIN_SPEAKERS or (spread == "none" and correlation > 0):
            continue
        generator = np.random.default_rng([seed, 1, number])
        of, shape = sizes(speakers, 4, utterances, spread), (draws, speakers, 4)
        common, found = generator.standard_normal((draws, speakers, 1)), []
        for truth in pair:
            own = generator.standard_normal((draws, speakers, 1))
            shared = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
            hits = generator.binomial(of, recalls(generator, shape, truth, SPREADS[spread], shared))
            found.append(estimates(hits, of))
        (a, without_a), (b, without_b) = found
        error = [jackknife_error(values) for values in (without_a, without_b, without_a - without_b)]
        parts = [score_ends(value, e, of.sum(), speakers) for value, e in zip((a, b), error[:2], strict=True)]
        known = is_informative(a, error[0]) & is_informative(b, error[1])
        known &= (error[2] > 1e-9) | (np.maximum(error[0], error[1]) < 1e-9)
        setting = {"speakers": speakers, "a": pair[0], "b": pair[1], "utterances": utterances, "spread": spread}
        setting["correlation"] = correlation
        low, high = difference_ends((a, b), (parts[0], parts[1]), (error[0], error[1], error[2]), speakers)
        yield setting | {"method": "score"} | row(pair[0] - pair[1], low, high, known)
        half, always = scipy.stats.t.ppf(0.975, speakers - 1) * error[2], np.ones(draws, dtype=bool)
        yield setting | {"method": "jackknife_t"} | row(pair[0] - pair[1], a - b - half, a - b + half, always)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Lowest, median and highest coverage of each method, number of speakers, UAR and number of utterances."""
    enough = np.where(rows["utterances"] >= 40, "40 or 60", rows["utterances"].astype(str))
    by = rows.assign(utterances=enough).groupby(["method", "speakers", "uar", "utterances"])
    found = by["coverage"].agg(["min", "median", "max"]).add_prefix("coverage_")
    return found.assign(printed_min=by["printed"].min(), width_median=by["width"].median()).reset_index()


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--out", required=True, type=path_argument, help="folder for the tables")
    parser.add_argument("--draws", type=int, default=10_000, help="simulated test sets of each setting")
    parser.add_argument("--seed", type=int, default=2026, help="seed of all draws")
    return run_command(simulate, parser.parse_args(arguments))


def simulate(options: argparse.Namespace) -> None:
    """Simulate and write the tables."""
    import pandas as pd  # here, so that --help does not wait for it

    rows = pd.DataFrame(of_one(options.draws, options.seed, GRID))
    held_out = pd.DataFrame(of_one(options.draws, options.seed + 1, HELD_OUT))
    differences = pd.DataFrame(of_differences(options.draws, options.seed))
    shown = ["score", "jackknife_t"]
    tables = {
        "coverage": rows[rows["method"].isin(shown)],
        "summary": summary(rows),
        "held_out": held_out[held_out["method"].isin(shown)],
        "differences": differences,
    }
    for name, table in tables.items():
        with atomic_path(options.out / f"interval_{name}.csv") as partial:
            table.round(4).to_csv(partial, index=False)
    print(tables["summary"].query("method == 'score'").round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
