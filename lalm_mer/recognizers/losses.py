"""Training losses of every recognizer, computed from its scores and the targets of the examples.

A recognizer that is trained by plain cross-entropy has it in its ``forward``, because an audio-language model then
computes the tokens of the true answer alone. Every other loss is here, and is the same for all recognizers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.names import LOSSES_OF
from lalm_mer.recognizers.base import Batch

__all__ = ["SMALLEST_CCC_BATCH", "Loss", "concordance", "mean_loss", "mean_of_loss", "require_finite"]

SMALLEST_CCC_BATCH = 8
"""Fewer examples give a correlation of little meaning: that of two is -1, 0 or 1."""
_EPSILON = 1e-8


class Loss:
    """Loss of each example from the output of a recognizer and the targets.

    ``single``: ``cross_entropy`` or ``kl`` (its value minus the entropy of the target, with the same gradient) against
    the label or the distribution of votes; ``focal`` weighs each term by (1 - p)^gamma. ``multi``:
    ``binary_cross_entropy`` or ``focal``, mean over labels. ``scalar``: ``ccc``, 1 - CCC over the batch, mean over
    targets, or ``mse`` in units of half the range.

    ``ccc`` is a loss of the batch, which each of its examples gets: 8 x 1 differs from 1 x 8, and a batch of one has no
    gradient.

    Args:
        task_kind: ``single``, ``multi`` or ``scalar``
        kind: one of ``LOSSES_OF`` that kind, without ``contrastive``
        focal_gamma: gamma of ``focal``
        log_priors: logarithms of the frequencies of the K labels in train; None without logit adjustment
        logit_adjustment: factor of ``log_priors``, which are added to the logits in training only
        label_smoothing: fraction of the target that is distributed over all labels, in training only
        class_weights: factor of the loss of each label of a ``single`` task; of a ``multi`` task that of its presence
        ranges: lowest and highest value of each target of a ``scalar`` task

    Raises:
        ConfigError: if an argument does not fit the task

    References:
        Lin et al. 2017, Focal Loss for Dense Object Detection, ICCV; Menon et al. 2021, Long-tail learning via logit
        adjustment, ICLR (logit adjusted loss); Lin 1989, A concordance correlation coefficient to evaluate
        reproducibility, Biometrics 45; Szegedy et al. 2016, Rethinking the Inception architecture, CVPR (smoothing).
    """

    def __init__(
        self,
        task_kind: str,
        kind: str,
        *,
        focal_gamma: float = 2.0,
        log_priors: Sequence[float] | None = None,
        logit_adjustment: float = 1.0,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        ranges: Sequence[tuple[float, float]] = (),
    ) -> None:
        known = [name for name in LOSSES_OF.get(task_kind, ()) if name != "contrastive"]
        if kind not in known:
            raise ConfigError(f"argument 'kind': {kind!r} for a {task_kind} task; expected one of {', '.join(known)}")
        if task_kind != "single" and (log_priors is not None or label_smoothing):
            name = "label_smoothing" if label_smoothing else "logit_adjustment"
            raise ConfigError(f"argument {name!r}: only for a task of one label an utterance, this one is {task_kind}")
        if task_kind == "scalar" and class_weights is not None:
            raise ConfigError("argument 'class_weights': a task on numbers has no classes; set none")
        self.task_kind, self.kind = task_kind, kind
        self._gamma, self._smoothing = focal_gamma if kind == "focal" else 0.0, label_smoothing
        self._adjustment = None if log_priors is None else logit_adjustment * torch.tensor(log_priors)
        self._weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self._half_ranges = torch.tensor([(high - low) / 2 for low, high in ranges], dtype=torch.float32)

    def __call__(self, output: Batch, target: Tensor) -> Tensor:
        """Loss of each of B training examples, (B,).

        Args:
            output: of a recognizer: ``log_probs`` (B, K), or ``scores`` (B, T), logits of labels or numbers
            target: (B, T), as ``Example.target``
        """
        if self.task_kind == "scalar":
            return self._of_numbers(output["scores"].float(), target)
        if self.task_kind == "multi":
            return _binary(output["scores"].float(), target, self._gamma, self._weights)
        log_probs = output["log_probs"]
        if self._adjustment is not None:
            log_probs = (log_probs + self._adjustment.to(log_probs.device)).log_softmax(dim=1)
        return self._of_labels(log_probs, target)

    def on_dev(self, output: Batch, target: Tensor) -> Tensor:
        """Loss of each of B dev examples, (B,), without weights, adjustment, focus, smoothing; ``mse`` of numbers."""
        if self.task_kind == "scalar":
            return self._squared(output["scores"].float(), target)
        if self.task_kind == "multi":
            return _binary(output["scores"].float(), target, 0.0, None)
        return -(target * output["log_probs"]).sum(dim=1)

    def _of_labels(self, log_probs: Tensor, target: Tensor) -> Tensor:
        terms = target * log_probs
        if self._gamma:
            terms = (1 - log_probs.exp()).clamp(min=0) ** self._gamma * terms
        losses = -terms.sum(dim=1)
        if self._smoothing:
            uniform = -log_probs.sum(dim=1)
            losses = (1 - self._smoothing) * losses + uniform * (self._smoothing / log_probs.shape[1])
        if self.kind == "kl":
            share = self._smoothing / log_probs.shape[1]
            losses = losses - torch.special.entr((1 - self._smoothing) * target + share).sum(dim=1)
        return losses if self._weights is None else losses * (target @ self._weights.to(target.device))

    def _of_numbers(self, scores: Tensor, target: Tensor) -> Tensor:
        if self.kind == "mse":
            return self._squared(scores, target)
        return (1 - concordance(scores, target)).mean().expand(len(target))

    def _squared(self, scores: Tensor, target: Tensor) -> Tensor:
        return ((scores - target) / self._half_ranges.to(scores.device)).square().mean(dim=1)


def concordance(scores: Tensor, target: Tensor) -> Tensor:
    """Concordance correlation coefficient of each of T columns over the B rows of a batch, (T,).

    Example:
        >>> concordance(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [3.0]])).round(decimals=3)
        tensor([0.8570])
    """
    mean, mean_score = target.mean(dim=0), scores.mean(dim=0)
    variance, score_variance = (values.var(dim=0, correction=0) for values in (target, scores))
    covariance = ((target - mean) * (scores - mean_score)).mean(dim=0)
    return 2 * covariance / (variance + score_variance + (mean - mean_score).square() + _EPSILON)


def _binary(logits: Tensor, target: Tensor, gamma: float, weights: Tensor | None) -> Tensor:
    """Binary cross-entropy of each row, mean over labels, with the focal factor of Lin et al."""
    terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if gamma:
        terms = terms * (1 - torch.exp(-terms)) ** gamma
    if weights is not None:
        terms = terms * torch.where(target > 0, weights.to(target.device), torch.ones_like(target))
    return terms.mean(dim=1)


def require_finite(loss: float, step: int, learning_rate: float) -> None:
    """Check that training has not diverged.

    Args:
        loss: mean over the steps since the last logged one
        step: number of optimizer steps
        learning_rate: ``train.learning_rate``

    Raises:
        ModelError: if the loss is infinite or NaN
    """
    if not math.isfinite(loss):
        raise ModelError(
            f"training: the loss is {loss} at step {step}; expected a finite number; lower train.learning_rate "
            f"({learning_rate:g}), or the values of section loss, or replace float16, if it overflows, by bfloat16 or "
            "float32; and remove the run folder"
        )


def mean_of_loss(
    loss: Loss,
    target: Tensor,
    outputs: dict[str, Tensor],
    labels: object,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Sum of a loss over the examples, divided by the examples of the accumulated batch."""
    losses = loss(outputs, target)
    return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)


def mean_loss(
    outputs: dict[str, Tensor],
    labels: object,
    num_items_in_batch: Tensor | int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum of the (weighted) losses divided by the items of the accumulated batch, so that 8 x 1 equals 1 x 8."""
    items = outputs["items"].sum() if num_items_in_batch is None else num_items_in_batch
    losses = outputs["losses"] if weights is None else outputs["losses"] * weights
    return losses.sum() / items
