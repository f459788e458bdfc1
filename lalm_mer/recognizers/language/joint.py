"""Batches of several prompts for the same utterances, whose audio is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lalm_mer.core.schema import Input
from lalm_mer.recognizers.base import Batch
from lalm_mer.recognizers.language.collator import IGNORED, AnswerCollator
from lalm_mer.recognizers.language.prefix import without_prefix

__all__ = ["JointCollator", "split_prompts"]

_FILL = {"targets": IGNORED}
_OF_TOKENS = ("input_ids", "position_ids", "visible_until")


@dataclass(eq=False)
class JointCollator:
    """Makes a batch to score by P prompts, in which the audio of B inputs is contained once; picklable.

    Args:
        collators: one for each prompt, all with the same audio slots, examples and answers
    """

    collators: Sequence[AnswerCollator]

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            the tensors of an ``AnswerCollator``, of which those of tokens have a second axis P and are padded to the
            longest
        """
        rendered = [[collator.render(given) for given in inputs] for collator in self.collators]
        lengths = [collator.prefix_length(prompts) for collator, prompts in zip(self.collators, rendered, strict=True)]
        lengths = lengths if all(lengths) else [0] * len(lengths)  # the audio of examples is in the batch, or it is not
        rests = [
            without_prefix(prompts, collator.prefix, length)
            for collator, prompts, length in zip(self.collators, rendered, lengths, strict=True)
        ]
        first = self.collators[0]
        each = [collator.lengths(rest) for collator, rest in zip(self.collators, rests, strict=True)]
        rows = first.rows(
            [max(of_input) for of_input in zip(*each, strict=True)]
        )  # the same for all: audio is in order
        batches = [
            collator.packed(rest, rows, start=length) | collator.prefix_tensors(length, len(rest))
            for collator, rest, length in zip(self.collators, rests, lengths, strict=True)
        ]
        stacked = {name: _stacked([batch[name] for batch in batches], _FILL.get(name, 0)) for name in batches[0]}
        return stacked | first.audio(rests[0], rows)


def split_prompts(batch: Batch) -> list[Batch]:
    """The token tensors of a ``JointCollator``, (B, P, ...), as P batches without the padding of longer prompts."""
    prompts = []
    for number in range(batch["input_ids"].shape[1]):
        own = {name: tensor[:, number] for name, tensor in batch.items()}
        width = int((own["visible_until"] > 0).sum(dim=1).max())
        prompts.append(own | {name: own[name][:, :width] for name in _OF_TOKENS})
    return prompts


def _stacked(tensors: Sequence[Tensor], fill: int) -> Tensor:
    """P tensors (B, ..., T) of different T as one, (B, P, ..., T)."""
    width = max(tensor.shape[-1] for tensor in tensors)
    return torch.stack([pad(tensor, (0, width - tensor.shape[-1]), value=fill) for tensor in tensors], dim=1)
