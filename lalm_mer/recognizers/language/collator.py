"""Batches: a prompt and its answers packed into one row, so that all answers share one pass over the prompt.

A row is the prompt and the tree of its answers (``answers``): every answer starts at the position after the prompt, and
a token attends to the prompt and to the tokens before it in its own answers. With a single answer (training) this is
the ordinary causal sequence. With ``packing`` a row contains several utterances one after another (``packing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Audio, Example, Input
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.conversation import Conversation
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.base import Batch, true_indices
from lalm_mer.recognizers.language.answers import AnswerTree, answer_forms, answer_tree
from lalm_mer.recognizers.language.packing import rows_of
from lalm_mer.recognizers.language.prefix import Prefix, Rendered, find_prefix, without_prefix

__all__ = ["IGNORED", "AnswerCollator", "PromptCollator", "TrainingAnswerCollator"]

IGNORED = -100
"""Value of ``targets`` where there is no token to predict, as in transformers."""


@dataclass(eq=False)
class PromptCollator:
    """Makes a batch of B prompts without answers; picklable, so that it can run in worker processes.

    Args:
        family: tokenizer and audio front end
        prompt: the prompt
        label_set: the K labels, with the prompt's surface forms
        shots: answered examples that precede every input
        order: all labels, in the order in which the prompt lists them; None for that of the label set
        number: index of its prefix in a ``PrefixStore``
        following: largest number of tokens that will follow a prompt; ``AnswerCollator`` knows it
    """

    family: Family
    prompt: Prompt
    label_set: LabelSet
    _: KW_ONLY
    shots: Sequence[Example] = ()
    order: Sequence[str] | None = None
    number: int = 0
    following: int = 0

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            ``input_ids`` (B, T), padded at the right; ``prompt_lengths`` (B,), in tokens; and the audio tower's inputs
            if the prompt uses audio. With answered examples also ``prefix`` (B, 2): its ``number``, and how many tokens
            of it precede ``input_ids`` and are not contained
        """
        rendered = [self.render(given) for given in inputs]
        length = self.prefix_length(rendered)
        prompts = without_prefix(rendered, self.prefix, length)
        lengths = torch.tensor([len(ids) for ids, _ in prompts])
        input_ids = torch.full((len(prompts), int(lengths.max())), self.family.pad_token_id)
        for row, (ids, _) in enumerate(prompts):
            input_ids[row, : len(ids)] = torch.tensor(ids)
        audio = [each for _, of_prompt in prompts for each in of_prompt]
        batch = {"input_ids": input_ids, "prompt_lengths": lengths, **self.prefix_tensors(length, len(prompts))}
        return batch | (self.family.audio_inputs(audio) if audio else {})

    @cached_property
    def prefix(self) -> Prefix | None:
        """The beginning of all prompts; None without answered examples."""
        if not self.shots:
            return None
        conversation = self.prompt.conversation(self.shots[0].input, self.label_set, shots=self.shots)
        audio = [each for each in Conversation(conversation.messages[:-1]).audio if each is not None]
        return find_prefix(self.family, self.render, audio)

    def prefix_length(self, prompts: Sequence[Rendered]) -> int:
        """Number of tokens of the prefix that a batch of rendered prompts need not contain."""
        return 0 if self.prefix is None else self.prefix.shared_length(self.family, prompts, self.following)

    def prefix_tensors(self, length: int, count: int) -> Batch:
        """``prefix`` (B, 2) of a batch; empty without answered examples."""
        return {} if self.prefix is None else {"prefix": torch.tensor([[self.number, length]] * count)}

    def render(self, given: Input) -> Rendered:
        """Token ids of the prompt of one input, up to the start of the answer, and the audio of its placeholders.

        Raises:
            ConfigError: if the prompt uses audio and no audio was loaded
        """
        conversation = self.conversation(given)
        audio = [each for each in conversation.audio if each is not None]
        if len(audio) < conversation.audio_slots:
            raise ConfigError(f"utterance {given.utterance_id}: the prompt uses audio, but none was loaded")
        return self.family.prompt_ids(conversation, list(map(self.family.placeholder_count, audio))), audio

    def conversation(self, given: Input) -> Conversation:
        """The conversation with one input, up to its question."""
        return self.prompt.conversation(given, self.label_set, shots=self.shots, order=self.order)


@dataclass(eq=False)
class AnswerCollator(PromptCollator):
    """Makes a batch to score: the prompts of B inputs, each with all answers.

    Args:
        packing: whether rows contain several utterances; other arguments as for ``PromptCollator``
        widths: rows are padded to a multiple of this

    Raises:
        ConfigError: if two surface forms have the same tokens
    """

    packing: bool = False
    widths: int = 1

    def __post_init__(self) -> None:
        forms = answer_forms(self.label_set)
        self._labels = [label for label, _ in forms]
        self._tree = answer_tree([self.family.answer_ids(form) for _, form in forms])
        answers = self._tree.answers
        if len(set(map(tuple, answers))) < len(answers):
            labels = list(self.label_set.labels)
            raise ConfigError(f"two surface forms of {labels} have the same tokens; change one of them")
        self.following = max(map(len, answers)) - 1

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            ``input_ids``, ``position_ids`` (R, T); ``visible_until`` (R, T): index in the row of the first later token
            that does not attend to this one, 0 for padding; ``sources`` (B, S): the positions whose hidden states
            predict answer tokens; ``targets`` (B, A, L): the tokens of each answer, ``IGNORED`` after the stop token;
            ``source_of`` (B, A, L): which of the S predicts each; ``label_of_answer`` (B, A): index of the label of
            each answer; and the audio tower's inputs if the prompt uses audio; with answered examples also ``prefix``,
            as of ``PromptCollator``. Without packing, R is B; with it also ``rows`` (B,): the row of each utterance
        """
        rendered = [self.render(given) for given in inputs]
        length = self.prefix_length(rendered)
        prompts = without_prefix(rendered, self.prefix, length)
        rows = self.rows(self.lengths(prompts))
        batch = self.packed(prompts, rows, start=length) | self.audio(prompts, rows)
        return batch | self.prefix_tensors(length, len(prompts))

    def lengths(self, prompts: Sequence[Rendered]) -> list[int]:
        """Number of tokens of each rendered prompt with all answers."""
        return [len(ids) + len(self._tree.tokens) for ids, _ in prompts]

    def rows(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of the utterances of each row, from their numbers of tokens."""
        if not self.packing:
            return [[index] for index in range(len(lengths))]
        return rows_of(lengths, self.family.hidden_size)

    def packed(self, prompts: Sequence[Rendered], rows: Sequence[Sequence[int]], start: int = 0) -> Batch:
        """The tokens of a batch of B rendered prompts, each followed by all answers.

        Args:
            prompts: results of ``render``, or the rest of them after the prefix
            rows: R rows, the indices of the prompts of each
            start: position of their first token
        """
        return self._packed(prompts, rows, [self._tree] * len(prompts), [self._labels] * len(prompts), start)

    def of_trees(self, inputs: Sequence[Input], trees: Sequence[AnswerTree], labels: Sequence[Sequence[int]]) -> Batch:
        """A batch of B inputs, each with its own A answers.

        Args:
            inputs: B inputs
            trees: the answers of each
            labels: index of the label of each answer, for each input
        """
        prompts = [self.render(given) for given in inputs]
        rows = self.rows([len(ids) + len(tree.tokens) for (ids, _), tree in zip(prompts, trees, strict=True)])
        return self._packed(prompts, rows, trees, labels) | self.audio(prompts, rows)

    def _packed(
        self,
        prompts: Sequence[Rendered],
        rows: Sequence[Sequence[int]],
        trees: Sequence[AnswerTree],
        labels: Sequence[Sequence[int]],
        start: int = 0,
    ) -> Batch:
        """The tokens of B prompts, each followed by its own A answers, whose labels are given by index."""
        lengths = [len(ids) + len(tree.tokens) for (ids, _), tree in zip(prompts, trees, strict=True)]
        width = max(sum(lengths[index] for index in row) for row in rows)
        width += -width % self.widths
        count, longest = len(labels[0]), max(len(answer) for tree in trees for answer in tree.answers)
        tokens = {
            "input_ids": torch.full((len(rows), width), self.family.pad_token_id),
            "position_ids": torch.zeros((len(rows), width), dtype=torch.long),
            "visible_until": torch.zeros((len(rows), width), dtype=torch.long),
        }
        of_answers = {
            "sources": torch.zeros((len(prompts), max(tree.source_count for tree in trees)), dtype=torch.long),
            "source_of": torch.zeros((len(prompts), count, longest), dtype=torch.long),
            "targets": torch.full((len(prompts), count, longest), IGNORED),
        }
        row_of = torch.zeros(len(prompts), dtype=torch.long)
        for row, indices in enumerate(rows):
            begin = 0
            for index in indices:
                place = slice(begin, begin + lengths[index])
                own = {name: tensor[row, place] for name, tensor in tokens.items()}
                own |= {name: tensor[index] for name, tensor in of_answers.items()}
                _fill(own, prompts[index][0], trees[index], begin, start)
                row_of[index] = row
                begin = place.stop
        batch = tokens | of_answers | {"label_of_answer": torch.tensor(labels)}
        return batch | ({"rows": row_of} if self.packing else {})

    def audio(self, prompts: Sequence[Rendered], rows: Sequence[Sequence[int]]) -> Batch:
        """The audio tower's inputs of rendered prompts, in the order of rows; empty if the prompt uses no audio."""
        if not self.prompt.uses_audio:
            return {}
        audio = [each for row in rows for index in row for each in prompts[index][1]]
        return self.family.audio_inputs(audio or [self._silence()])

    def _silence(self) -> Audio:
        """A second of silence, or its place in stored outputs: processes that share weights must do the same work."""
        rate = self.family.sampling_rate
        return self.family.silence or Waveform(np.zeros(rate, dtype=np.float32), rate)


class TrainingAnswerCollator(AnswerCollator):
    """Makes a batch to train on: each example's prompt and the first surface form of its label."""

    def __call__(self, examples: Sequence[Example]) -> Batch:  # type: ignore[override]
        """Collate B examples.

        Returns:
            as ``AnswerCollator``, with A = 1; ``truth`` (B,): index of the true label; ``labels``: the targets, which
            the Trainer counts and removes
        """
        answers = self._tree.answers
        first = {label: answers[number] for number, label in reversed(list(enumerate(self._labels)))}
        truth = true_indices(examples, self.label_set)
        trees = [answer_tree([first[label]], complete=True) for label in truth.tolist()]
        batch = self.of_trees([example.input for example in examples], trees, truth[:, None].tolist())
        return batch | {"truth": truth, "labels": batch["targets"]}


def _fill(own: Batch, prompt: Sequence[int], tree: AnswerTree, begin: int, start: int) -> None:
    """Write a prompt and its answers into their part of an empty batch.

    Args:
        own: views of this part
        prompt: token ids
        tree: its answers
        begin: index of the first token in its row
        start: position of the first token
    """
    length = len(prompt)
    end = length + len(tree.tokens)
    own["input_ids"][:] = torch.tensor([*prompt, *tree.tokens])
    own["position_ids"][:] = start + torch.tensor([*range(length), *(length + depth for depth in tree.depths)])
    own["visible_until"][:] = begin + torch.tensor([end] * length + [length + last for last in tree.ends])
    own["sources"][: tree.source_count] = begin + torch.arange(length - 1, length - 1 + tree.source_count)
    for number, (answer, sources) in enumerate(zip(tree.answers, tree.sources, strict=True)):
        own["targets"][number, : len(answer)] = torch.tensor(answer)
        own["source_of"][number, : len(answer)] = torch.tensor(sources)
