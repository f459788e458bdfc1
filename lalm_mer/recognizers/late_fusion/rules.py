"""Rules of late fusion: how the label log-probabilities of M members become those of the fusion; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from lalm_mer.core.errors import ConfigError, ModelError, PredictionError
from lalm_mer.core.names import FUSION_RULES
from lalm_mer.core.output import write_json
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.evaluation.metrics import Floats, Metric

__all__ = ["FITTED_RULES", "FusionRule", "fit_rule"]

FITTED_RULES = ("weighted", "stacking")
"""Rules that are fitted on dev"""
_FILE = "late_fusion.json"
_ROUNDS = 50


@dataclass(frozen=True)
class FusionRule:
    """A rule with its fitted numbers.

    Args:
        name: one of ``FUSION_RULES``
        labels: the K labels, in the order of the log-probabilities
        members: M, number of members
        weights: M shares with sum 1, of rule ``weighted``
        coefficients: (K, M * K), of rule ``stacking``
        intercepts: K numbers, of rule ``stacking``

    Raises:
        PredictionError: if the name is unknown, or the numbers do not fit the rule
    """

    name: str
    labels: tuple[str, ...]
    members: int
    weights: tuple[float, ...] | None = None
    coefficients: tuple[tuple[float, ...], ...] | None = None
    intercepts: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        k, inputs = len(self.labels), self.members * len(self.labels)
        weighted, stacking = self.name == "weighted", self.name == "stacking"
        if self.name not in FUSION_RULES:
            raise PredictionError(f"rule {self.name!r} is unknown; expected one of {', '.join(FUSION_RULES)}")
        if (self.weights is not None) != weighted or (weighted and len(self.weights or ()) != self.members):
            raise PredictionError(f"rule {self.name} of {self.members} members: its weights do not fit")
        shape = [len(row) for row in self.coefficients or ()]
        if shape != [inputs] * (k * stacking) or len(self.intercepts or ()) != k * stacking:
            raise PredictionError(f"rule {self.name} of {self.members} members: its coefficients do not fit")

    @property
    def needs_all(self) -> bool:
        """Whether an utterance without the scores of one member cannot be fused; the other rules leave it out."""
        return self.name == "stacking"

    @property
    def size(self) -> int:
        """Number of fitted numbers."""
        return len(self.weights or ()) + sum(map(len, self.coefficients or ())) + len(self.intercepts or ())

    def combine(self, log_probs: Floats) -> Floats:
        """Fuse label log-probabilities.

        Of a vote, they are those of the shares of the votes, with one vote spread evenly over all labels; ties go to
        the label of the first member among those that voted for a tied one.

        Args:
            log_probs: (M, N, K); a row of NaN where a member has not scored an utterance

        Returns:
            (N, K), each row a log_softmax; a row of NaN for an utterance that no member has scored, or with stacking
            not every member
        """
        given: npt.NDArray[np.bool_] = np.isfinite(log_probs.max(axis=2))
        fused = np.full(log_probs.shape[1:], np.nan)
        usable = given.all(axis=0) if self.needs_all else given.any(axis=0)
        if self.weights is not None:
            usable &= (given * np.array(self.weights)[:, None]).sum(axis=0) > 0
        if usable.any():
            fused[usable] = self._combine(log_probs[:, usable], given[:, usable])
        return fused

    def _combine(self, log_probs: Floats, given: npt.NDArray[np.bool_]) -> Floats:
        members, _, k = log_probs.shape
        if self.name == "stacking":
            inputs = np.concatenate(list(log_probs), axis=1)
            stacked: Floats = log_softmax(inputs @ np.array(self.coefficients).T + np.array(self.intercepts), axis=1)
            return stacked
        filled = np.where(given[:, :, None], log_probs, 0.0)
        if self.name == "logits":
            mean: Floats = log_softmax(filled.sum(axis=0) / given.sum(axis=0)[:, None], axis=1)
            return mean
        if self.name == "vote":
            # a vote counts 1 and a little more, less for each further member: it decides ties and never a majority
            counts = given * (1 + 0.5 ** np.arange(2, members + 2))[:, None]
            votes = (np.eye(k)[filled.argmax(axis=2)] * counts[:, :, None]).sum(axis=0)
            shares: Floats = np.log((votes + 1 / k) / (counts.sum(axis=0)[:, None] + 1))
            return shares
        weights = given * np.array(self.weights or [1.0] * members)[:, None]
        with np.errstate(divide="ignore"):
            logs = np.log(weights / weights.sum(axis=0))
        pooled: Floats = logsumexp(filled + logs[:, :, None], axis=0)
        return pooled

    def save(self, folder: Path) -> None:
        """Write the rule as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> FusionRule:
        """Read what ``save`` wrote.

        Raises:
            ModelError: if the file is missing or malformed
        """
        try:
            return parse(cls, read_object(folder / _FILE), str(folder / _FILE))
        except PredictionError as error:
            raise ModelError(str(error)) from error


def fit_rule(
    name: str,
    log_probs: Floats,
    truth: Sequence[str],
    labels: Sequence[str],
    *,
    metric: Metric,
    c: float = 1.0,
) -> FusionRule:
    """Fit a rule on the dev utterances that every member has scored.

    The weights of ``weighted`` are those of an ensemble that grows by one member at a time, repeats included, each time
    by the one with which the metric is highest; of equal ones, that with the higher likelihood. ``stacking`` is a
    logistic regression on the standardised log-probabilities of all members.

    Args:
        name: one of ``FITTED_RULES``
        log_probs: (M, N, K) on dev
        truth: N labels
        labels: the K labels
        metric: selects the weights
        c: inverse strength of the regularisation of ``stacking``

    Raises:
        ConfigError: if dev has no utterance that all have scored, or for stacking none of a label

    References:
        Caruana et al., Ensemble selection from libraries of models, ICML 2004; Wolpert, Stacked generalization, 1992.
    """
    if log_probs.shape[1] == 0:
        raise ConfigError(f"argument 'name': {name}, but no dev utterance is scored by every member; choose mean")
    if name == "weighted":
        return FusionRule(name, tuple(labels), len(log_probs), _weights(log_probs, truth, labels, metric))
    missing = [label for label in labels if label not in set(truth)]
    if missing:
        raise ConfigError(f"argument 'name': {name}, but dev has no utterance of {missing[0]}; choose another rule")
    coefficients, intercepts = _stacked(log_probs, truth, labels, c)
    rows = tuple(tuple(map(float, row)) for row in coefficients)
    return FusionRule(name, tuple(labels), len(log_probs), coefficients=rows, intercepts=tuple(map(float, intercepts)))


def _weights(log_probs: Floats, truth: Sequence[str], labels: Sequence[str], metric: Metric) -> tuple[float, ...]:
    names, members = np.asarray(labels), len(log_probs)
    true = np.array([list(labels).index(label) for label in truth])

    def quality(counts: Floats) -> tuple[float, float]:
        rule = FusionRule("weighted", tuple(labels), members, tuple(map(float, counts / counts.sum())))
        fused = rule.combine(log_probs)
        value = metric.from_labels(truth, names[fused.argmax(axis=1)].tolist(), labels)
        return round(value, 9), float(fused[np.arange(len(true)), true].mean())

    counts, best, chosen = np.zeros(members), (-1.0, -np.inf), np.zeros(members)
    for _ in range(_ROUNDS):
        found = [quality(counts + one) for one in np.eye(members)]
        number = max(range(members), key=found.__getitem__)
        counts[number] += 1
        if found[number] > best:
            best, chosen = found[number], counts.copy()
    return tuple(map(float, chosen / chosen.sum()))


def _stacked(log_probs: Floats, truth: Sequence[str], labels: Sequence[str], c: float) -> tuple[Floats, Floats]:
    """Coefficients (K, M * K) and intercepts (K,) for log-probabilities as they are."""
    from sklearn.linear_model import LogisticRegression  # here, because it takes a second
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    inputs = scaler.fit_transform(np.concatenate(list(log_probs), axis=1))
    model = LogisticRegression(C=c, max_iter=10_000).fit(inputs, np.asarray(truth))
    order = [list(model.classes_).index(label) for label in labels]
    coefficients, intercepts = model.coef_, model.intercept_
    if len(labels) == 2:  # scikit-learn has the row of the second class alone
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    unscaled = coefficients[order] / scaler.scale_
    return unscaled, intercepts[order] - unscaled @ scaler.mean_
