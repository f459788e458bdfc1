"""Rows of several utterances, so that hardly anything is padded, and the attention mask of such rows.

A row is ``prompt, answers, prompt, answers, ...``. The positions of each utterance begin at 0 (or after the prefix). A
token attends to the prompt of its own utterance and to the tokens before it in its own answers. Two utterances with the
answers ``sad``, ``unhappy`` and ``unsure`` (``answers``), a ``#`` where the token of the line attends to that of the
column::

                  utterance 0                 utterance 1
                  prompt  sad un happy sure   prompt  sad un happy sure   padding
    prompt 0      #
                  # #
                  # # #
    sad           # # #   #
    un            # # #       #
    happy         # # #       #  #
    sure          # # #       #        #
    prompt 1                                  #
                                              # #
    sad                                       # #     #
    un                                        # #         #
    happy                                     # #         #  #
    sure                                      # #         #        #
    padding       # # #   #   #  #     #      # #     #   #  #     #      #

Losses and scores of an utterance are therefore those of a row of its own, except for rounding. Padding attends to all
that precedes it: its own embedding may be zero, and norms of zero have no gradient. All utterances of a batch are in
its rows, so that batches, the order of examples and the number of items are the same as without packing.

This pattern is one tensor, ``visible_until``: token i attends to token j if j <= i < visible_until[j].
``masked_inputs`` writes it in the form that the implementation of attention takes: a dense mask, a block mask of
FlexAttention, or, if each utterance has a single answer and is thus an ordinary sequence, the places where
FlashAttention begins a new one.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from lalm_mer.models.attention import FLASH, FLEX
from lalm_mer.models.families.base import LanguageInputs

__all__ = ["attention_mask", "masked_inputs", "rows_of"]


def rows_of(lengths: Sequence[int], hidden_size: int) -> list[list[int]]:
    """Distribute the utterances of a batch over rows, so that the language model has least to compute.

    A layer of hidden size H computes about ``tokens * (12 H^2 + 2 H * width)`` products for rows of a width: fewer,
    wider rows have less padding, but their masked scores are computed too.

    Args:
        lengths: tokens of each utterance with its answers
        hidden_size: H of the language model

    Returns:
        indices of the utterances of each row, in ascending order

    Example:
        >>> rows_of([50, 20, 30, 10], hidden_size=64)
        [[0, 3], [1, 2]]
    """
    longest = max(lengths)
    best, least = [list(range(len(lengths)))], sum(lengths) * (6 * hidden_size + sum(lengths))
    for count in range(2, len(lengths) + 1):
        rows, width = _balanced(lengths, count)
        cost = count * width * (6 * hidden_size + width)
        if cost < least:
            best, least = rows, cost
        if width == longest:  # more rows would not be shorter
            break
    return sorted(sorted(row) for row in best)


def _balanced(lengths: Sequence[int], count: int) -> tuple[list[list[int]], int]:
    """``count`` rows of about equal width, and the largest width: the longest first, each into the shortest row."""
    rows: list[list[int]] = [[] for _ in range(count)]
    shortest = [(0, row) for row in range(count)]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        width, row = shortest[0]
        rows[row].append(index)
        heapq.heapreplace(shortest, (width + lengths[index], row))
    return rows, max(width for width, _ in shortest)


def attention_mask(visible_until: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask of rows of several answers or utterances, (R, 1, T, T).

    Args:
        visible_until: (R, T), index of the first later token that does not attend to each; 0 for padding
        dtype: of the language model
    """
    places = torch.arange(visible_until.shape[1], device=visible_until.device)
    padding = visible_until == 0
    visible = (places[:, None] < visible_until[:, None, :]) | padding[:, :, None]
    allowed = visible & (places[:, None] >= places)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=visible_until.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def masked_inputs(
    input_ids: Tensor,
    position_ids: Tensor,
    visible_until: Tensor,
    *,
    implementation: str,
    dtype: torch.dtype,
    dense: bool,
    earlier: int = 0,
) -> LanguageInputs:
    """Inputs of the language model with the attention pattern in the form that an implementation takes.

    Args:
        input_ids: (R, T)
        position_ids: (R, T)
        visible_until: (R, T), as of ``attention_mask``
        implementation: transformers' name; FlashAttention only without answers that share a prompt, and ``earlier`` 0
        dtype: of the language model
        dense: whether a row contains several answers or utterances, so that padding alone does not state the pattern
        earlier: number of stored tokens before them, to which all attend
    """
    if implementation == FLEX:
        return LanguageInputs(input_ids, position_ids, _block_mask(visible_until, earlier))
    if implementation == FLASH:
        return LanguageInputs(input_ids, position_ids, None, _sequence_starts(position_ids, visible_until))
    mask = attention_mask(visible_until, dtype) if dense else (visible_until > 0).long()
    if earlier:
        mask = nn.functional.pad(mask, (earlier, 0), value=0 if dense else 1)
    return LanguageInputs(input_ids, position_ids, mask)


def _block_mask(visible_until: Tensor, earlier: int) -> BlockMask:
    def visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key - earlier).clamp(min=0)
        in_row = (key - earlier <= query) & ((query < visible_until[row, own]) | (visible_until[row, query] == 0))
        return (key < earlier) | in_row

    rows, width = visible_until.shape
    device = str(visible_until.device)
    return create_block_mask(visible, rows, None, width, earlier + width, device=device)


def _sequence_starts(position_ids: Tensor, visible_until: Tensor) -> Tensor:
    """Where each utterance begins; the padding of a row belongs to its last utterance, whose tokens are before it."""
    first = ((position_ids == 0) & (visible_until > 0)).flatten().nonzero()[:, 0]
    return nn.functional.pad(first, (0, 1), value=position_ids.numel()).int()
