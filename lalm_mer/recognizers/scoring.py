"""Scores of inputs by a recognizer, in this process or over all processes of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor, nn

from lalm_mer.core.schema import Input
from lalm_mer.recognizers.base import (
    Batch,
    PromptScores,
    Scores,
    as_scores,
    kind_of,
    require_numbers,
    scores_of,
    targets_of,
)
from lalm_mer.recognizers.score_journal import ScoreJournal
from lalm_mer.recognizers.training import Inputs, RecognizerTrainer

__all__ = [
    "average_prompts", "averaged_scores", "content_free_scores", "run_batch", "score_batch", "score_by_trainer",
    "score_inputs",
]  # fmt: skip


def score_by_trainer(trainer: RecognizerTrainer, inputs: Inputs, journal: ScoreJournal | None = None) -> Scores:
    """Scores of N inputs by all processes of the trainer, averaged over the recognizer's prompts.

    Args:
        trainer: of the recognizer
        inputs: N inputs
        journal: keeps the scores on disk; those that it has are not computed again

    Raises:
        ModelError: if a score is NaN
    """
    recognizer = trainer.recognizer
    kind, targets = kind_of(recognizer), targets_of(recognizer)
    collator, content_free = recognizer.joint_collator, recognizer.content_free
    scores = trainer.score(inputs, collator, journal)
    require_numbers(scores, "scoring")
    if kind != "single":
        return Scores(kind, targets, as_scores(kind, scores))
    log_probs = _by_prompt(scores)
    empty = None if content_free is None else _by_prompt(trainer.score([content_free], collator))
    return averaged_scores(recognizer, log_probs, empty)


def averaged_scores(
    recognizer: Any,  # noqa: ANN401 as ``score_inputs``
    log_probs: Sequence[npt.NDArray[np.float64]],
    content_free: Sequence[npt.NDArray[np.float64]] | None,
) -> Scores:
    """Scores of a ``single`` task by a recognizer, averaged over its P prompts, with those of each prompt if P > 1.

    Args:
        recognizer: a ``Recognizer``; if P > 1, its ``setup`` has ``variants``
        log_probs: as of ``average_prompts``
        content_free: likewise
    """
    each = _calibrated(log_probs, content_free)
    mean = average_prompts(log_probs, content_free)
    if len(each) == 1:
        return Scores("single", targets_of(recognizer), mean)
    by_prompt = tuple(
        PromptScores(prompt.name, order[0], values)
        for (prompt, order), values in zip(recognizer.setup.variants, each, strict=True)
    )
    return Scores("single", targets_of(recognizer), mean, by_prompt)


def score_inputs(recognizer: Any, inputs: Iterable[Input], *, batch_size: int = 1) -> Iterator[npt.NDArray[np.float64]]:  # noqa: ANN401 a Recognizer and nn.Module
    """Scores of each input in this process, (K,): label log-probabilities averaged over the recognizer's prompts, or
    of other kinds than ``single`` those of ``as_scores``.

    Args:
        recognizer: a ``Recognizer``, on its device and in evaluation mode
        inputs: read one batch at a time
        batch_size: inputs per batch

    Raises:
        ModelError: if a score is NaN
    """
    collator, empty = recognizer.joint_collator, content_free_scores(recognizer)
    remaining = iter(inputs)
    while batch := list(islice(remaining, batch_size)):
        yield from score_batch(recognizer, collator(batch), empty)


def content_free_scores(recognizer: Any) -> list[npt.NDArray[np.float64]] | None:  # noqa: ANN401 as ``score_inputs``
    """Scores of the recognizer's input without content by each of its P prompts, (1, K); None if it has none."""
    if recognizer.content_free is None:
        return None
    return _by_prompt(_log_probs(recognizer, recognizer.joint_collator([recognizer.content_free])))


def score_batch(
    recognizer: Any,  # noqa: ANN401 as ``score_inputs``
    batch: Batch,
    content_free: Sequence[npt.NDArray[np.float64]] | None,
) -> npt.NDArray[np.float64]:
    """Label log-probabilities of a batch of the ``joint_collator``, (B, K), averaged over the recognizer's prompts.

    Of other kinds than ``single`` they are those of ``as_scores``.

    Args:
        recognizer: as of ``score_inputs``
        batch: of B inputs
        content_free: result of ``content_free_scores``

    Raises:
        ModelError: if a score is NaN
    """
    output = _log_probs(recognizer, batch)
    if (kind := kind_of(recognizer)) != "single":
        return as_scores(kind, output)
    return average_prompts(_by_prompt(output), content_free)


def average_prompts(
    log_probs: Sequence[npt.NDArray[np.float64]], content_free: Sequence[npt.NDArray[np.float64]] | None
) -> npt.NDArray[np.float64]:
    """Label probabilities averaged over P prompts, as log-probabilities (N, K).

    Args:
        log_probs: P arrays (N, K)
        content_free: P arrays (1, K), scores of an input without content to subtract (pointwise mutual information);
            None subtracts nothing
    """
    each = _calibrated(log_probs, content_free)
    mean: npt.NDArray[np.float64] = logsumexp(np.stack(each), axis=0) - np.log(len(each))
    return mean


def run_batch(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Output of a recognizer for a batch, on the device of its parameters."""
    device = next(module.parameters()).device
    output: dict[str, Tensor] = module(**{name: tensor.to(device) for name, tensor in batch.items()})
    return output


def _calibrated(
    log_probs: Sequence[npt.NDArray[np.float64]], content_free: Sequence[npt.NDArray[np.float64]] | None
) -> Sequence[npt.NDArray[np.float64]]:
    if content_free is None:
        return log_probs
    return [log_softmax(values - empty, axis=1) for values, empty in zip(log_probs, content_free, strict=True)]


def _by_prompt(log_probs: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """P arrays (N, K) of an array (N, K) or (N, P, K)."""
    return [log_probs] if log_probs.ndim == 2 else list(np.moveaxis(log_probs, 1, 0))


def _log_probs(module: nn.Module, batch: Batch) -> npt.NDArray[np.float64]:
    with torch.inference_mode():
        log_probs = scores_of(run_batch(module, batch))
    scores = np.asarray(log_probs.float().cpu(), dtype=np.float64)
    require_numbers(scores, "scoring")
    return scores
