"""How well label probabilities agree with the votes of raters."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from lalm_mer.evaluation.metrics import Floats

__all__ = ["vote_metrics"]


def vote_metrics(votes: Floats, log_probs: Floats) -> dict[str, Any]:
    """Compare label log-probabilities with the votes of raters.

    Only utterances with votes and log-probabilities count, since no divergence is defined for the others; ``n`` is
    their number.

    Args:
        votes: shares of the votes, (N, K), rows of NaN where there are none
        log_probs: (N, K), log_softmax over the labels, rows of NaN where there are none

    Returns:
        ``n``; means over the utterances, in nats: ``kl``, KL(votes || prediction), ``cross_entropy``, and
        ``kl_of_mean``, the KL of the mean distribution of these votes, which a prediction without information about
        the utterance cannot beat; ``accuracy_any_vote``, the fraction whose most probable label has a vote. None where
        no utterance counts

    Example:
        >>> found = vote_metrics(np.array([[0.5, 0.5], [1.0, 0.0]]), np.log([[0.5, 0.5], [0.8, 0.2]]))
        >>> {name: round(value, 3) for name, value in found.items()}
        {'n': 2, 'kl': 0.112, 'cross_entropy': 0.458, 'kl_of_mean': 0.216, 'accuracy_any_vote': 1.0}
    """
    known = np.isfinite(votes).all(axis=1) & np.isfinite(log_probs).all(axis=1)
    shares, scores = votes[known], log_probs[known]
    names = ("kl", "cross_entropy", "kl_of_mean", "accuracy_any_vote")
    if not len(shares):
        return {"n": 0, **dict.fromkeys(names)}
    entropy = scipy.special.entr(shares).sum(axis=1)
    cross_entropy = -np.where(shares > 0, shares * scores, 0.0).sum(axis=1)
    mean = shares.mean(axis=0)
    hit = np.take_along_axis(shares, scores.argmax(axis=1)[:, None], axis=1)[:, 0] > 0
    kl_of_mean = float(scipy.special.entr(mean).sum() - entropy.mean())
    values = (float((cross_entropy - entropy).mean()), float(cross_entropy.mean()), kl_of_mean, float(hit.mean()))
    return {"n": len(shares), **dict(zip(names, values, strict=True))}
