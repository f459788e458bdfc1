"""Batches: a prompt and its answers packed into one row, so that many answers share one pass over the prompt.

A row is ``prompt, answer 1, answer 2, ...``; every answer starts at the position after the prompt and sees the prompt
and itself alone. With a single answer (training) this is the ordinary causal sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import Prompt

__all__ = ["IGNORED", "AnswerCollator", "answer_forms", "asked"]

IGNORED = -100
"""Fills ``targets`` where there is no token to predict, as everywhere in transformers."""


def answer_forms(label_set: LabelSet) -> list[tuple[int, str]]:
    """All surface forms with the index of their label, the first form of every label before its others."""
    return [(index, form) for index, label in enumerate(label_set.labels) for form in label_set.forms_of(label)]


def asked(
    family: Family,
    prompt: Prompt,
    label_set: LabelSet,
    example: Example,
    *,
    shots: Sequence[Example] = (),
    order: Sequence[str] | None = None,
) -> tuple[list[int], list[Waveform]]:
    """What a model is given of one example: token ids up to where the answer begins, and the waveforms in them.

    Args:
        family: tokenizer and audio front end
        prompt: what is asked
        label_set: the K labels
        example: about whom
        shots: examples that stand answered before it
        order: in which the prompt lists the labels; None for that of the label set

    Raises:
        ConfigError: if the prompt hears and no audio was loaded
    """
    conversation = prompt.conversation(example, label_set, shots=shots, order=order)
    waveforms = [waveform for waveform in conversation.waveforms if waveform is not None]
    if len(waveforms) < conversation.audio_slots:
        raise ConfigError(f"utterance {example.utterance_id}: the prompt hears, but no audio was loaded")
    counts = [family.audio_token_count(len(waveform.samples)) for waveform in waveforms]
    return family.prompt_ids(conversation, counts), waveforms


class AnswerCollator:
    """Makes a batch of B examples; pickles, so that it can run in worker processes.

    Args:
        family: tokenizer and audio front end
        prompt: what is asked
        label_set: the K labels, with the prompt's surface forms
        every_answer: pack all surface forms (scoring) instead of the true label's first (training)
        shots: examples that stand answered in every prompt
        order: all labels, in the order in which the prompt lists them; None for that of the label set

    Raises:
        ConfigError: if two surface forms have the same tokens
    """

    def __init__(
        self,
        family: Family,
        prompt: Prompt,
        label_set: LabelSet,
        *,
        every_answer: bool,
        shots: Sequence[Example] = (),
        order: Sequence[str] | None = None,
    ) -> None:
        self._family = family
        self._prompt = prompt
        self._label_set = label_set
        self._every_answer = every_answer
        self._shots = tuple(shots)
        self._order = order
        self._answers = [family.answer_ids(form) for _, form in answer_forms(label_set)]
        self._true_answer = {label: family.answer_ids(label_set.forms_of(label)[0]) for label in label_set.labels}
        if len({tuple(answer) for answer in self._answers}) < len(self._answers):
            raise ConfigError(f"two surface forms of {list(label_set.labels)} have the same tokens; change one of them")

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Collate B examples.

        Returns:
            ``input_ids``, ``position_ids``, ``segment_ids`` (B, T), the last 0 in the prompt, a in answer a, -1 in
            padding; ``sources`` (B, A, L): the position whose hidden state predicts each answer token; ``targets``
            (B, A, L): those tokens, ``IGNORED`` after the stop token; ``truth`` (B,): index of the true label; the
            audio tower's inputs where the prompt hears; and, to train on, ``labels``: the targets, for counting
        """
        asks = [
            asked(self._family, self._prompt, self._label_set, example, shots=self._shots, order=self._order)
            for example in examples
        ]
        rows = [self._row(example, ids) for example, (ids, _) in zip(examples, asks, strict=True)]
        width = max(len(ids) for ids, _, _ in rows)
        answers = rows[0][2]
        longest = max(len(answer) for _, _, answers in rows for answer in answers)
        shape = (len(rows), width)
        batch = {
            "input_ids": torch.full(shape, self._family.pad_token_id),
            "position_ids": torch.zeros(shape, dtype=torch.long),
            "segment_ids": torch.full(shape, -1),
            "sources": torch.zeros((len(rows), len(answers), longest), dtype=torch.long),
            "targets": torch.full((len(rows), len(answers), longest), IGNORED),
            "truth": torch.tensor([self._label_set.index(example.label) for example in examples]),
        }
        for index, (ids, prompt_length, answers) in enumerate(rows):
            batch["input_ids"][index, : len(ids)] = torch.tensor(ids)
            batch["position_ids"][index, :prompt_length] = torch.arange(prompt_length)
            batch["segment_ids"][index, :prompt_length] = 0
            start = prompt_length
            for number, answer in enumerate(answers):
                end = start + len(answer)
                batch["position_ids"][index, start:end] = torch.arange(prompt_length, prompt_length + len(answer))
                batch["segment_ids"][index, start:end] = number + 1
                batch["sources"][index, number, : len(answer)] = torch.tensor(
                    [prompt_length - 1, *range(start, end - 1)]
                )
                batch["targets"][index, number, : len(answer)] = torch.tensor(answer)
                start = end
        if self._prompt.hears:
            # without any audio the tower runs on silence all the same: processes that share weights must run alike
            heard = [waveform for _, waveforms in asks for waveform in waveforms]
            batch.update(self._family.audio_inputs(heard or [_silence(self._family.sampling_rate)]))
        if not self._every_answer:
            batch["labels"] = batch["targets"]  # the Trainer counts these and does not hand them on
        return batch

    def _row(self, example: Example, prompt: list[int]) -> tuple[list[int], int, list[list[int]]]:
        """Token ids, length of the prompt, and the packed answers."""
        answers = self._answers if self._every_answer else [self._true_answer[example.label]]
        return [*prompt, *(token for answer in answers for token in answer)], len(prompt), answers


def _silence(sampling_rate: int) -> Waveform:
    """One second."""
    return Waveform(np.zeros(sampling_rate, dtype=np.float32), sampling_rate)
