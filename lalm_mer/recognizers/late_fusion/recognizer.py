"""A recognizer over others: each scores the input, and a rule combines their label log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lalm_mer.core.errors import ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import modalities_of, uses_audio, uses_transcript
from lalm_mer.core.schema import Input
from lalm_mer.recognizers.base import Batch, Collator, TrainingCollator
from lalm_mer.recognizers.late_fusion.rules import FusionRule
from lalm_mer.recognizers.scoring import content_free_scores, score_batch

__all__ = ["LateFusion", "LateFusionCollator"]

_TAKES = "takes"


class LateFusion(nn.Module):
    """Members whose label log-probabilities a rule combines; it is never trained as a whole.

    A member that cannot use an input is left out of its fusion, except with a rule that needs all.

    Args:
        members: M recognizers
        rule: of M members

    Raises:
        ModelError: if the number of members or their labels do not fit the rule
    """

    content_free = None

    def __init__(self, members: Sequence[Any], rule: FusionRule) -> None:  # each a Recognizer and nn.Module
        super().__init__()
        if len(members) != rule.members:
            raise ModelError(f"{len(members)} members, but the rule is of {rule.members}; run the fusion again")
        for number, member in enumerate(members, start=1):
            if set(member.label_set.labels) != set(rule.labels):
                found = ", ".join(member.label_set.labels)
                raise ModelError(f"member {number} has the labels {found}, but the rule {', '.join(rule.labels)}")
        self.members: Any = nn.ModuleList(members)
        self.rule = rule
        self.label_set = LabelSet(rule.labels)
        self.modalities = modalities_of(
            audio=any(uses_audio(member.modalities) for member in members),
            transcript=any(uses_transcript(member.modalities) for member in members),
        )
        self.sampling_rate: int | None = max(member.sampling_rate or 0 for member in members) or None
        self._orders = [[member.label_set.labels.index(label) for label in rule.labels] for member in members]
        self._content_free: list[list[npt.NDArray[np.float64]] | None] | None = None

    @property
    def training_collator(self) -> TrainingCollator:
        """There is none.

        Raises:
            ModelError: always
        """
        raise ModelError("a late fusion is not trained as a whole; train its members")

    @property
    def joint_collator(self) -> Collator:
        """Makes batches to score."""
        return LateFusionCollator(self)

    @property
    def scoring_collators(self) -> tuple[Collator, ...]:
        """The same, in a tuple."""
        return (self.joint_collator,)

    def refuses(self, duration_s: float) -> str | None:
        """The reason of the first member that cannot take the audio, if none can or the rule needs all; or None."""
        reasons = [member.refuses(duration_s) for member in self.members if member.sampling_rate is not None]
        found = [reason for reason in reasons if reason is not None]
        refused = bool(found) if self.rule.needs_all else len(found) == len(self.members)
        return found[0] if refused else None

    def forward(self, takes: Tensor, **parts: Tensor) -> dict[str, Tensor]:
        """Run a batch of a ``LateFusionCollator``.

        Args:
            takes: (M, B), whether a member can use an input
            parts: the batches of the members, with the number of the member before each name
        """
        if self._content_free is None:
            self._content_free = [content_free_scores(member) for member in self.members]
        used = takes.cpu().numpy()
        log_probs = np.full((*used.shape, len(self.rule.labels)), np.nan)
        for number, member in enumerate(self.members):
            if used[number].any():
                prefix = f"{number}."
                own = {name.removeprefix(prefix): each for name, each in parts.items() if name.startswith(prefix)}
                scores = score_batch(member, own, self._content_free[number])
                log_probs[number, used[number]] = scores[:, self._orders[number]]
        return {"log_probs": torch.from_numpy(self.rule.combine(log_probs)).to(takes.device)}

    def save_trained(self, folder: Path) -> None:
        """Write the rule; the members have folders of their own."""
        self.rule.save(folder)


class LateFusionCollator:
    """Makes a batch of the batches of all members, each of the inputs that it can use."""

    def __init__(self, fusion: LateFusion) -> None:
        self._fusion = fusion

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs."""
        batch: Batch = {}
        takes = np.ones((len(self._fusion.members), len(inputs)), dtype=bool)
        for number, member in enumerate(self._fusion.members):
            own = []
            for place, given in enumerate(inputs):
                takes[number, place] = _takes(member, given)
                if takes[number, place]:
                    own.append(_input_of(member, given))
            if own:
                batch |= {f"{number}.{name}": tensor for name, tensor in member.joint_collator(own).items()}
        return batch | {_TAKES: torch.from_numpy(takes)}


def _takes(member: Any, given: Input) -> bool:  # noqa: ANN401 a Recognizer
    waveform = given.waveform if member.sampling_rate is not None else None
    return waveform is None or member.refuses(waveform.duration_s) is None


def _input_of(member: Any, given: Input) -> Input:  # noqa: ANN401 a Recognizer
    """The input with the audio at the rate of the member, or without it if the member uses none."""
    if member.sampling_rate is None or given.waveform is None:
        return replace(given, waveform=None)
    return replace(given, waveform=given.waveform.resampled(member.sampling_rate))
