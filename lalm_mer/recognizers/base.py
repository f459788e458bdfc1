"""The interface of every recognizer: inputs without a truth become scores of the task's labels.

A prompted or fine-tuned audio-language model, a CLAP and the fusion baseline are all recognizers, so whatever can be
scored in a test set can be predicted for a new recording with the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor

from lalm_mer.core.errors import CorpusError, ModelError, PredictionError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.evaluation.prediction_checks import prefix_of

__all__ = [
    "Batch", "Collator", "LabelledCollator", "PromptScores", "Recognizer", "Scores", "Setup", "TargetCollator",
    "TrainingCollator", "as_scores", "kind_of", "require_numbers", "scores_of", "targets_of", "true_indices",
]  # fmt: skip

Batch = dict[str, Tensor]
"""Keyword arguments of a recognizer's ``forward``; the first axis of every tensor is B, the utterances, except for
tokens of rows that contain several"""
Collator = Callable[[Sequence[Input]], Batch]
"""Makes a batch to score from B inputs; picklable, so that it can run in worker processes."""
TrainingCollator = Callable[[Sequence[Example]], Batch]
"""Makes a batch to train on from B examples; the Trainer counts its ``labels`` and removes them; picklable."""


@dataclass(frozen=True)
class PromptScores:
    """Scores of N inputs by one of the prompts that are averaged.

    Args:
        prompt: name of the prompt
        first_label: label that it lists first
        values: (N, K) label log-probabilities
    """

    prompt: str
    first_label: str
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of N inputs.

    Args:
        kind: ``single`` (one label per utterance), ``multi`` (several labels) or ``scalar`` (numbers)
        targets: the K labels of the task, in order, or the T numbers that it predicts
        values: (N, K) label log-probabilities of a ``single`` task, each row a log_softmax, or (N, T) scores of the
            others; a row of NaN for an input that was not scored
        by_prompt: those of each prompt, if they are averaged over several

    Raises:
        PredictionError: if the shape does not fit the targets
    """

    kind: Literal["single", "multi", "scalar"]
    targets: tuple[str, ...]
    values: npt.NDArray[np.float64]
    by_prompt: tuple[PromptScores, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.targets):
            raise PredictionError(
                f"scores of shape {self.values.shape} for {len(self.targets)} targets; expected (N, K)"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in a table of predictions: ``log_prob_<label>``, or ``score_<target>``.

        Example:
            >>> Scores("single", ("hap", "sad"), np.zeros((0, 2))).columns
            ('log_prob_hap', 'log_prob_sad')
        """
        return tuple(prefix_of(self.kind) + target for target in self.targets)


class Setup(Protocol):
    """The prompts of an audio-language model, or the descriptions that a dual encoder compares audio with."""

    @property
    def label_set(self) -> LabelSet:
        """The K labels, with the surface forms of its prompts."""

    @property
    def modalities(self) -> str:
        """One of ``core.names.MODALITIES``."""

    @property
    def shots(self) -> Sequence[Example]:
        """Answered examples that precede every input."""

    def uses(self, slot: str) -> bool:
        """Whether any prompt has a slot of that name."""

    def digests(self) -> dict[str, str | None]:
        """Hashes of what the scores depend on, for run.json."""


class Recognizer(Protocol):
    """An ``nn.Module`` that scores labels, with the collators that make its batches.

    One for a task of several labels or of numbers also has ``kind``, ``multi`` or ``scalar``, and ``targets``, the
    names of its T labels or numbers; without them it is ``single``. One with ``own_learning_rates`` names modules that
    are trained at another rate than the others, with this rate.
    """

    @property
    def label_set(self) -> LabelSet:
        """The K labels, in the order of the scores."""

    @property
    def modalities(self) -> str:
        """One of ``core.names.MODALITIES``."""

    @property
    def sampling_rate(self) -> int | None:
        """Rate of the audio that it takes, in Hz; None if it uses no audio."""

    @property
    def training_collator(self) -> TrainingCollator:
        """Makes batches to train on."""

    @property
    def scoring_collators(self) -> Sequence[Collator]:
        """Make batches to score, one for each of P prompts; label probabilities are averaged over them."""

    @property
    def joint_collator(self) -> Collator:
        """Makes batches to score by all P prompts at once, which contain what prompts share, such as audio, once; the
        only one of ``scoring_collators`` if P is 1.
        """

    @property
    def content_free(self) -> Input | None:
        """An input without content, whose score with each prompt is subtracted (PMI); None subtracts nothing."""

    def refuses(self, duration_s: float) -> str | None:
        """The reason why it cannot take audio of this duration, in seconds; None if it can."""

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """``log_probs`` (B, K) of a batch to score, (B, P, K) if of several prompts; with ``truth`` (B,), index of the
        true label, also ``losses`` (B,) and ``items`` (B,), the number of terms in each loss. A batch to train on gives
        only the last two. Other kinds than ``single`` give ``scores`` (B, T): logits of the presence of each label, or
        numbers in the units of the corpus.
        """

    def save_trained(self, folder: Path) -> None:
        """Write what was trained, so that it can be loaded again; one with ``saves_every_weight`` true also writes
        weights that were not trained.
        """


def kind_of(recognizer: Any) -> Literal["single", "multi", "scalar"]:  # noqa: ANN401 a Recognizer
    """Kind of the task of a recognizer: ``single`` unless it says another one."""
    kind: Literal["single", "multi", "scalar"] = getattr(recognizer, "kind", "single")
    return kind


def targets_of(recognizer: Any) -> tuple[str, ...]:  # noqa: ANN401 a Recognizer
    """The K labels of a recognizer, or the T numbers that it predicts."""
    targets: tuple[str, ...] = (
        recognizer.label_set.labels if kind_of(recognizer) == "single" else tuple(recognizer.targets)
    )
    return targets


def scores_of(output: Batch) -> Tensor:
    """``log_probs`` of labels, or ``scores`` of targets, in the output of a recognizer."""
    return output["log_probs"] if "log_probs" in output else output["scores"]


def require_numbers(scores: npt.NDArray[np.floating], where: str) -> None:
    """Check that no score of a model is NaN, since a figure computed from such scores means nothing.

    Args:
        scores: (N, ...) scores of N utterances, as a model gave them
        where: what was scored, for the error

    Raises:
        ModelError: naming the number of utterances
    """
    found = np.isnan(scores).reshape(len(scores), -1).any(axis=1)
    if found.any():
        raise ModelError(
            f"{where}: the model gives NaN in place of a score for {int(found.sum())} of {len(found)} utterances; its "
            "training diverged (lower the learning rate), its weights are damaged, or float16 overflows (use bfloat16 "
            "or float32)"
        )


class LabelledCollator:
    """Makes a batch to train on from that of a ``Collator`` and ``truth`` (B,), which is repeated as ``labels``."""

    def __init__(self, collator: Collator, label_set: LabelSet) -> None:
        self._collator = collator
        self._label_set = label_set

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate B examples."""
        truth = true_indices(examples, self._label_set)
        return self._collator([example.input for example in examples]) | {"truth": truth, "labels": truth}


def as_scores(kind: str, output: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Scores of targets from the output of a recognizer, (N, T): probabilities of logits of labels, or numbers."""
    return np.asarray(expit(output) if kind == "multi" else output, dtype=np.float64)


class TargetCollator:
    """Makes a batch to train on, or of dev, from that of a ``Collator``: adds ``target`` (B, T), and ``labels`` (B,),
    which the Trainer counts and removes.
    """

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate B examples, all with targets."""
        target = torch.tensor([example.target for example in examples], dtype=torch.float32)
        batch = self._collator([example.input for example in examples])
        return batch | {"target": target, "labels": torch.zeros(len(target), dtype=torch.long)}


def true_indices(examples: Sequence[Example], label_set: LabelSet) -> Tensor:
    """Index of each example's label, (B,).

    Raises:
        CorpusError: naming an utterance whose label is not in the label set
    """
    for example in examples:
        if example.label not in label_set.labels:
            raise CorpusError(
                f"utterance {example.input.utterance_id}: label {example.label!r} is not one of "
                f"{', '.join(label_set.labels)}"
            )
    return torch.tensor([label_set.index(example.label) for example in examples])
