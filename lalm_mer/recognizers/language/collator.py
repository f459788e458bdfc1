"""Batches: a prompt and its answers packed into one row, so that many answers share one pass over the prompt.

A row is ``prompt, answer 1, answer 2, ...``; every answer starts at the position after the prompt and sees the prompt
and itself alone. With a single answer (training) this is the ordinary causal sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.base import Batch, true_indices

__all__ = ["IGNORED", "AnswerCollator", "TrainingAnswerCollator", "answer_forms", "render_prompt"]

IGNORED = -100
"""Fills ``targets`` where there is no token to predict, as everywhere in transformers."""


def answer_forms(label_set: LabelSet) -> list[tuple[int, str]]:
    """All surface forms with the index of their label, the first form of every label before its others."""
    return [(index, form) for index, label in enumerate(label_set.labels) for form in label_set.forms_of(label)]


def render_prompt(
    family: Family,
    prompt: Prompt,
    label_set: LabelSet,
    given: Input,
    *,
    shots: Sequence[Example] = (),
    order: Sequence[str] | None = None,
) -> tuple[list[int], list[Waveform]]:
    """Token ids of the prompt of one input, up to where the answer begins, and the waveforms for its placeholders.

    Args:
        family: tokenizer and audio front end
        prompt: the prompt
        label_set: the K labels
        given: transcript, audio and the rest of one utterance
        shots: examples that precede it with their answers
        order: in which the prompt lists the labels; None for that of the label set

    Raises:
        ConfigError: if the prompt uses audio and no audio was loaded
    """
    conversation = prompt.conversation(given, label_set, shots=shots, order=order)
    waveforms = [waveform for waveform in conversation.waveforms if waveform is not None]
    if len(waveforms) < conversation.audio_slots:
        raise ConfigError(f"utterance {given.utterance_id}: the prompt uses audio, but none was loaded")
    counts = [family.audio_token_count(len(waveform.samples)) for waveform in waveforms]
    return family.prompt_ids(conversation, counts), waveforms


class AnswerCollator:
    """Makes a batch to be scored: all answers to each of B inputs; pickles, so that it can run in worker processes.

    Args:
        family: tokenizer and audio front end
        prompt: the prompt
        label_set: the K labels, with the prompt's surface forms
        shots: examples that precede every input with their answers
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
        shots: Sequence[Example] = (),
        order: Sequence[str] | None = None,
    ) -> None:
        self._family = family
        self._prompt = prompt
        self._label_set = label_set
        self._shots = tuple(shots)
        self._order = order
        self._answers = [(label, family.answer_ids(form)) for label, form in answer_forms(label_set)]
        if len({tuple(ids) for _, ids in self._answers}) < len(self._answers):
            raise ConfigError(f"two surface forms of {list(label_set.labels)} have the same tokens; change one of them")

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            ``input_ids``, ``position_ids``, ``segment_ids`` (B, T), the last 0 in the prompt, a in answer a, -1 in
            padding; ``sources`` (B, A, L): the position whose hidden state predicts each answer token; ``targets``
            (B, A, L): those tokens, ``IGNORED`` after the stop token; ``label_of_answer`` (B, A): index of the label
            of each answer; and the audio tower's inputs where the prompt uses audio
        """
        return self._packed(inputs, [self._answers] * len(inputs))

    def _packed(self, inputs: Sequence[Input], answers: Sequence[Sequence[tuple[int, list[int]]]]) -> Batch:
        """A batch in which each input is followed by its own A answers, as index of the label and token ids."""
        prompts = [
            render_prompt(self._family, self._prompt, self._label_set, given, shots=self._shots, order=self._order)
            for given in inputs
        ]
        width = max(
            len(ids) + sum(len(answer) for _, answer in own) for (ids, _), own in zip(prompts, answers, strict=True)
        )
        longest = max(len(answer) for own in answers for _, answer in own)
        batch = {
            "input_ids": torch.full((len(inputs), width), self._family.pad_token_id),
            "position_ids": torch.zeros((len(inputs), width), dtype=torch.long),
            "segment_ids": torch.full((len(inputs), width), -1),
            "sources": torch.zeros((len(inputs), len(answers[0]), longest), dtype=torch.long),
            "targets": torch.full((len(inputs), len(answers[0]), longest), IGNORED),
            "label_of_answer": torch.tensor([[label for label, _ in own] for own in answers]),
        }
        for row, ((prompt, _), own) in enumerate(zip(prompts, answers, strict=True)):
            _fill_row({name: tensor[row] for name, tensor in batch.items()}, prompt, [answer for _, answer in own])
        if self._prompt.uses_audio:
            # without any audio the tower still runs, on silence: processes that share weights must do the same work
            waveforms = [waveform for _, of_prompt in prompts for waveform in of_prompt]
            batch.update(self._family.audio_inputs(waveforms or [_silence(self._family.sampling_rate)]))
        return batch


class TrainingAnswerCollator(AnswerCollator):
    """Makes a batch to learn from: each example's prompt and the first surface form of its label."""

    def __call__(self, examples: Sequence[Example]) -> Batch:  # type: ignore[override]
        """Collate B examples.

        Returns:
            as ``AnswerCollator``, with A = 1; ``truth`` (B,): index of the true label; ``labels``: the targets, which
            the Trainer counts and does not pass on
        """
        first = {label: number for number, (label, _) in reversed(list(enumerate(self._answers)))}
        truth = true_indices(examples, self._label_set)
        answers = [[self._answers[first[label]]] for label in truth.tolist()]
        batch = self._packed([example.input for example in examples], answers)
        return batch | {"truth": truth, "labels": batch["targets"]}


def _fill_row(row: Batch, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> None:
    """Write a prompt and its answers into the row of an empty batch."""
    length = len(prompt)
    row["input_ids"][:length] = torch.tensor(prompt)
    row["position_ids"][:length] = torch.arange(length)
    row["segment_ids"][:length] = 0
    start = length
    for number, answer in enumerate(answers):
        end = start + len(answer)
        row["input_ids"][start:end] = torch.tensor(answer)
        row["position_ids"][start:end] = torch.arange(length, length + len(answer))
        row["segment_ids"][start:end] = number + 1
        row["sources"][number, : len(answer)] = torch.tensor([length - 1, *range(start, end - 1)])
        row["targets"][number, : len(answer)] = torch.tensor(answer)
        start = end


def _silence(sampling_rate: int) -> Waveform:
    """One second."""
    return Waveform(np.zeros(sampling_rate, dtype=np.float32), sampling_rate)
