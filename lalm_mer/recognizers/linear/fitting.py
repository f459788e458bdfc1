"""Fits a linear model by scikit-learn; its coefficients are plain arrays, as they are saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.evaluation.metrics import Floats, Metric
from lalm_mer.recognizers.linear.settings import LinearModelSettings

__all__ = ["Block", "Blocks", "LinearFit", "Scale", "Split", "fit_linear", "refit", "scales_of"]

Block: TypeAlias = "Floats | sparse.csr_array"
Blocks: TypeAlias = "dict[str, Block]"
"""Modality -> its vectors, (N, D); sparse for TF-IDF"""

_ABSENT = -100.0  # logit of a label without a training utterance
_CONSTANT = 1e-12
_MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class Scale:
    """Shift and factor of the features of a modality.

    Args:
        mean: (D,), subtracted first; None subtracts nothing
        factor: (D,) or (1,), multiplied
    """

    mean: Floats | None
    factor: Floats

    def apply(self, block: Block) -> Block:
        """The features, scaled, (N, D)."""
        if sparse.issparse(block):
            assert self.mean is None
            return sparse.csr_array(block * self.factor)
        shifted = block if self.mean is None else block - self.mean
        dense: Floats = np.asarray(shifted) * self.factor
        return dense


@dataclass(frozen=True)
class Split:
    """The vectors of a split and its N labels."""

    blocks: Blocks
    truth: Sequence[str]


@dataclass(frozen=True)
class LinearFit:
    """A fitted model.

    Args:
        labels: the K labels, in the order of the logits
        scales: modality -> scale of its features, in the order in which they are concatenated
        coefficients: (K, D)
        intercepts: (K,)
        factor: of the logits; 1 for a logistic regression
        c: inverse strength of the regularisation
    """

    labels: tuple[str, ...]
    scales: dict[str, Scale]
    coefficients: Floats
    intercepts: Floats
    factor: float
    c: float

    @property
    def size(self) -> int:
        """Number of coefficients and intercepts."""
        return int(self.coefficients.size + self.intercepts.size)

    def logits(self, blocks: Blocks) -> Floats:
        """(N, K), before ``factor``."""
        values: Floats = _concatenated(blocks, self.scales) @ self.coefficients.T + self.intercepts
        return values

    def predict(self, blocks: Blocks) -> list[str]:
        """N labels."""
        return [self.labels[k] for k in self.logits(blocks).argmax(axis=1)]

    def log_probs(self, blocks: Blocks) -> Floats:
        """Label log-probabilities, (N, K)."""
        values: Floats = log_softmax(self.logits(blocks) * self.factor, axis=1)
        return values


def fit_linear(
    settings: LinearModelSettings,
    train: Split,
    dev: Split,
    labels: Sequence[str],
    metric: Metric,
    report: Callable[[float, float | None], None] = lambda c, value: None,
) -> LinearFit:
    """Fit on train with each c, and choose the best on dev; the first one of equals.

    Args:
        settings: classifier, candidates of c and class weights
        train: N training utterances
        dev: chooses c, and fits the temperature of an SVM
        labels: the K labels
        metric: of the protocol
        report: called with each c and its value on dev, None if the fit does not converge

    Raises:
        ConfigError: if no fit converges
        CorpusError: if train has one label alone
    """
    if len(set(train.truth)) < 2:
        raise CorpusError(f"train has one label alone, {train.truth[0]}; a linear model needs two")
    scales = scales_of(settings, train.blocks)
    best: tuple[float, LinearFit] | None = None
    for c in settings.c:
        fit = _fit(settings, train, labels, scales, c)
        value = None if fit is None else metric.from_labels(dev.truth, fit.predict(dev.blocks), labels)
        report(c, value)
        if fit is not None and value is not None and (best is None or value > best[0]):
            best = value, fit
    if best is None:
        raise ConfigError(f"argument 'c': no fit converges in {_MAX_ITERATIONS} iterations; give smaller numbers")
    fit = best[1]
    if settings.classifier != "svm":
        return fit
    return replace(fit, factor=_temperature(fit.logits(dev.blocks), [labels.index(label) for label in dev.truth]))


def refit(settings: LinearModelSettings, fit: LinearFit, train: Split, dev: Split) -> LinearFit:
    """Fit on train and dev together, with the c and the temperature that were chosen; TF-IDF stays that of train.

    Raises:
        ConfigError: if the fit does not converge
    """
    stack = {name: sparse.vstack if sparse.issparse(block) else np.vstack for name, block in train.blocks.items()}
    blocks = {name: stack[name]([train.blocks[name], dev.blocks[name]]) for name in train.blocks}
    both = Split(blocks, [*train.truth, *dev.truth])
    found = _fit(settings, both, fit.labels, scales_of(settings, blocks), fit.c)
    if found is None:
        raise ConfigError(f"argument 'c': {fit.c:g} does not converge on train and dev; give smaller numbers")
    return replace(found, factor=fit.factor)


def scales_of(settings: LinearModelSettings, blocks: Blocks) -> dict[str, Scale]:
    """Scales of the features of train; TF-IDF is not centred, and vectors normalised by speaker are not scaled again.

    With two modalities, each is then scaled to a mean squared norm of 1, so that the larger one does not decide.
    """
    scales = {}
    for modality, block in blocks.items():
        mean, factor = None, np.ones(1)
        if not sparse.issparse(block) and settings.normalisation == "train":
            mean, deviation = block.mean(axis=0), block.std(axis=0)
            factor = 1 / np.where(deviation > _CONSTANT, deviation, 1.0)
        scale = Scale(mean, factor)
        if len(blocks) > 1:
            scaled = scale.apply(block)
            squares = (scaled * scaled).sum() / scaled.shape[0]
            scale = replace(scale, factor=factor / np.sqrt(squares if squares > 0 else 1.0))
        scales[modality] = scale
    return scales


def _fit(
    settings: LinearModelSettings, train: Split, labels: Sequence[str], scales: dict[str, Scale], c: float
) -> LinearFit | None:
    """Fit with one c; None if it does not converge. A label without a training utterance is never predicted."""
    from sklearn.exceptions import ConvergenceWarning  # here, because scikit-learn takes a second

    model = _classifier(settings, c)
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=ConvergenceWarning)
        try:
            model.fit(_concatenated(train.blocks, scales), np.asarray(train.truth))
        except ConvergenceWarning:
            return None
    found, coefficients, intercepts = list(model.classes_), model.coef_, model.intercept_
    if len(found) == 2:  # scikit-learn has the row of the second class alone
        zeros = np.zeros_like if settings.classifier == "logistic_regression" else np.negative
        coefficients = np.concatenate([zeros(coefficients), coefficients])
        intercepts = np.concatenate([zeros(intercepts), intercepts])
    complete = np.zeros((len(labels), coefficients.shape[1]))
    offsets = np.full(len(labels), _ABSENT)
    for row, label in enumerate(found):
        complete[labels.index(label)], offsets[labels.index(label)] = coefficients[row], intercepts[row]
    return LinearFit(tuple(labels), scales, complete, offsets, 1.0, c)


def _concatenated(blocks: Blocks, scales: dict[str, Scale]) -> Any:  # noqa: ANN401 dense or sparse
    parts = [scale.apply(blocks[modality]) for modality, scale in scales.items()]
    if len(parts) == 1:
        return parts[0]
    if any(map(sparse.issparse, parts)):
        return sparse.hstack(parts, format="csr")
    return np.hstack(parts)


def _classifier(settings: LinearModelSettings, c: float) -> Any:  # noqa: ANN401 scikit-learn is untyped
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    weight = None if settings.class_weight == "none" else settings.class_weight
    if settings.classifier == "svm":
        return LinearSVC(C=c, class_weight=weight, max_iter=_MAX_ITERATIONS, random_state=0)
    return LogisticRegression(C=c, class_weight=weight, max_iter=_MAX_ITERATIONS)


def _temperature(logits: Floats, truth: Sequence[int]) -> float:
    """Factor of the logits with the highest likelihood of the truth."""
    rows: npt.NDArray[np.int64] = np.arange(len(truth))

    def loss(log_factor: float) -> float:
        return -float(log_softmax(logits * np.exp(log_factor), axis=1)[rows, truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x))
