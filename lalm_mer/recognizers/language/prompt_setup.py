"""How an audio-language model is prompted: prompts, label orders, answered examples, and the score of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import LABEL_SCORES
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.prompting.prompts import Prompt

__all__ = ["PromptSetup", "label_rotations"]


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

    Raises:
        ConfigError: if the label score is unknown, or prompts differ in their number of audio slots
    """

    prompts: tuple[Prompt, ...]
    label_set: LabelSet
    orders: tuple[tuple[str, ...], ...]
    shots: tuple[Example, ...] = ()
    label_score: str = "sum"

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

    def uses(self, slot: str) -> bool:
        """Whether any prompt has a slot of that name."""
        return any(prompt.has_slot(slot) for prompt in self.prompts)

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
