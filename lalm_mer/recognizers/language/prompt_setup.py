"""How an audio-language model is prompted: prompts, label orders, answered examples, and the score of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.names import LABEL_SCORES
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.prompting.prompts import Prompt

__all__ = ["MOST_NUMBERS", "YES_NO", "PromptSetup", "label_rotations", "target_setup"]

YES_NO = ("yes", "no")
MOST_NUMBERS = 11
"""Most whole numbers of a scale that are answers."""


@dataclass(frozen=True)
class PromptSetup:
    """All prompts of a recognizer, over which label probabilities are averaged; training uses only the first.

    Args:
        prompts: at least one, all of the same modalities
        label_set: the K labels with the prompts' surface forms
        orders: orders in which the prompts list the labels
        shots: answered examples that precede every input
        label_score: one of ``LABEL_SCORES``: the sum of an answer's token log-probabilities, their mean, or the sum
            minus that of an input without content (``pmi``)
        kind: kind of the task; of ``multi`` and ``scalar`` ones each prompt is about one target, ``label_set`` has the
            answers, yes and no or numbers, and nothing is averaged
        targets: the T labels or dimensions that the prompts are about; empty for ``single``

    Raises:
        ConfigError: if the label score is unknown, or prompts differ in their number of audio slots
    """

    prompts: tuple[Prompt, ...]
    label_set: LabelSet
    orders: tuple[tuple[str, ...], ...]
    shots: tuple[Example, ...] = ()
    label_score: str = "sum"
    kind: Literal["single", "multi", "scalar"] = "single"
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.label_score not in LABEL_SCORES:
            expected = ", ".join(LABEL_SCORES)
            raise ConfigError(f"argument 'label_score': {self.label_score!r}; expected one of {expected}")
        slots = {prompt.name: sum(slot == "audio" for slot, _ in prompt.parts) for prompt in self.prompts}
        if len(set(slots.values())) > 1:
            found = ", ".join(f"{name} has {count}" for name, count in slots.items())
            raise ConfigError(f"argument 'prompts': {found} audio slots; expected the same number in all prompts")

    @property
    def modalities(self) -> str:
        """One of ``core.names.MODALITIES``."""
        return self.prompts[0].modalities

    @property
    def variants(self) -> tuple[tuple[Prompt, tuple[str, ...]], ...]:
        """All combinations of a prompt and an order."""
        return tuple(product(self.prompts, self.orders))

    def uses(self, slot: str) -> bool:
        """Whether any prompt has a slot of that name."""
        return any(prompt.has_slot(slot) for prompt in self.prompts)

    def scores(self, log_probs: Tensor) -> Tensor:
        """Scores of the targets of another task than ``single`` from log-probabilities of the answers.

        ``multi``: the logit of yes, log p(yes) - log p(no). ``scalar``: the expected value of the number.

        Args:
            log_probs: (B, T, A), log_softmax over the A answers

        Returns:
            (B, T)
        """
        if self.kind == "multi":
            return log_probs[..., 0] - log_probs[..., 1]
        numbers = torch.tensor([float(label) for label in self.label_set.labels], device=log_probs.device)
        return (log_probs.exp() * numbers).sum(dim=-1)

    def content_free(self, sampling_rate: int) -> Input | None:
        """An input without content for PMI: a second of silence, and N/A as all texts; None for other scores.

        References:
            Zhao et al. 2021, Calibrate Before Use, ICML; Holtzman et al. 2021, Surface Form Competition, EMNLP.
        """
        if self.label_score != "pmi":
            return None
        silence = Waveform(np.zeros(sampling_rate, dtype=np.float32), sampling_rate)
        return Input("<content-free>", "N/A", silence, descriptors="N/A")

    def digests(self) -> dict[str, str | None]:
        """Hashes of what the scores depend on, for run.json."""
        also = {"also": hash_json([prompt.digest for prompt in self.prompts[1:]])} if self.prompts[1:] else {}
        shots = {"shots": hash_json([shot.input.utterance_id for shot in self.shots])} if self.shots else {}
        return {"prompt": self.prompts[0].digest, **also, **shots}


def target_setup(prompt: Prompt, task: Task, ranges: Sequence[tuple[float, float]]) -> PromptSetup:
    """The prompts about each target of a ``multi`` or ``scalar`` task.

    The answers of a label are ``yes`` and ``no``, with the surface forms of the prompt; those of a dimension are the
    whole numbers of its scale.

    Args:
        prompt: with a slot for the target
        task: the task
        ranges: lowest and highest value of each dimension

    Raises:
        ConfigError: if the prompt has no slot for a target, or scales differ, have no two whole numbers, or more than
            ``MOST_NUMBERS``
    """
    if task.kind == "multi":
        answers = prompt.label_set(LabelSet(YES_NO))
        prompts = tuple(prompt.about(task.labels.forms_of(label)[0]) for label in task.targets)
        return PromptSetup(prompts, answers, (answers.labels,), kind="multi", targets=task.targets)
    if len(set(ranges)) > 1:
        raise ConfigError(
            f"task {task.name}: its dimensions have the scales {sorted(set(ranges))}; expected a single one"
        )
    low, high = math.ceil(ranges[0][0]), math.floor(ranges[0][1])
    if not 1 <= high - low < MOST_NUMBERS:
        raise ConfigError(
            f"task {task.name}: its scale from {ranges[0][0]:g} to {ranges[0][1]:g} has {max(0, high - low + 1)} whole "
            f"numbers; expected 2 to {MOST_NUMBERS} as answers"
        )
    numbers = LabelSet(tuple(str(number) for number in range(low, high + 1)))
    prompts = tuple(prompt.about(target, (str(low), str(high))) for target in task.targets)
    return PromptSetup(prompts, numbers, (numbers.labels,), kind="scalar", targets=task.targets)


def label_rotations(labels: Sequence[str], count: int) -> tuple[tuple[str, ...], ...]:
    """Rotations of the label list, evenly spaced, the list itself first.

    Raises:
        ConfigError: if ``count`` is not between 1 and the number of labels

    Example:
        >>> label_rotations(["a", "b", "c", "d"], 2)
        (('a', 'b', 'c', 'd'), ('c', 'd', 'a', 'b'))
    """
    if not 1 <= count <= len(labels):
        raise ConfigError(f"label_orders {count}: expected 1 to {len(labels)}")
    starts = [round(number * len(labels) / count) for number in range(count)]
    return tuple((*labels[start:], *labels[:start]) for start in starts)
