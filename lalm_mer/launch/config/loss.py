"""Section ``loss`` of the recipes that train."""

from __future__ import annotations

from dataclasses import dataclass

from lalm_mer.core import names
from lalm_mer.core.settings import setting

__all__ = ["LossSettings"]


@dataclass(frozen=True)
class LossSettings:
    """The training loss, the same for all recognizers; dev selects the checkpoint by the protocol's metric."""

    kind: str | None = setting(
        None,
        choices=names.LOSSES,
        help="null: by the task, cross_entropy of one label, binary_cross_entropy of several, ccc (1 minus the "
        "concordance correlation coefficient of a batch) of numbers; contrastive only for dual encoders",
    )
    soft_labels: bool = setting(
        False,
        help="train against the distribution of the raters' votes, also of utterances whose raters do not agree; with "
        "cross_entropy, kl or focal",
    )
    focal_gamma: float = setting(2.0, at_least=0, help="with focal: exponent of 1 - p; 0 is the loss without focus")
    logit_adjustment: float = setting(
        0.0,
        at_least=0,
        help="factor of the log-frequencies of the labels in train, which are added to the logits in training only; 1 "
        "is the usual value, 0 adds nothing",
    )
    label_smoothing: float = setting(0.0, at_least=0, below=1, help="share of the target divided among all labels")
