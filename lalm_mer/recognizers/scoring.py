"""One score of each label from several ways of asking for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from lalm_mer.core.schema import Example
from lalm_mer.recognizers.training import Collator, Examples, RecognizerTrainer

__all__ = ["score_by_all"]


@dataclass(frozen=True)
class _Alone:
    """One example as a dataset."""

    example: Example

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Example:
        return [self.example][index]

    def truths(self) -> list[str]:
        return [self.example.label]


def score_by_all(
    trainer: RecognizerTrainer,
    examples: Examples,
    collators: Sequence[Collator],
    content_free: Example | None = None,
) -> npt.NDArray[np.float64]:
    """Label log-probabilities under several prompts or orders of labels, averaged as probabilities.

    Args:
        trainer: of the recognizer
        examples: N examples
        collators: one for each way of asking
        content_free: an example that says nothing, whose score in each way is taken off (pointwise mutual
            information); None takes nothing off

    Returns:
        (N, K), each row a log_softmax
    """
    ways = []
    for collator in collators:
        log_probs = trainer.score(examples, collator)
        if content_free is not None:
            log_probs = log_softmax(log_probs - trainer.score(_Alone(content_free), collator), axis=1)
        ways.append(log_probs)
    mean: npt.NDArray[np.float64] = logsumexp(np.stack(ways), axis=0) - np.log(len(ways))
    return mean
