"""Answers as text, by greedy decoding with the two steps that every family has.

Audio is encoded once; each further token is a full pass over the prompt and the answer so far. A cache of keys and
values would be faster, but families and adapters would have to support it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lalm_mer.models.families.base import Family, LanguageInputs

__all__ = ["decode_answer", "generate", "stop_ids"]


def stop_ids(family: Family) -> set[int]:
    """Tokens that end an answer: the family's stop token and those of the model's generation config."""
    config: Any = getattr(family.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    return {family.stop_token_id, *([] if named is None else [named] if isinstance(named, int) else named)}


@torch.no_grad()
def generate(
    family: Family, input_ids: Tensor, prompt_lengths: Tensor, *, max_new_tokens: int, **audio: Tensor
) -> list[list[int]]:
    """Token ids of greedy answers to a batch of a ``PromptCollator``, without the stop token.

    The most probable token is appended until it is one of ``stop_ids`` or there are ``max_new_tokens``. The audio
    placeholder is never chosen, since there are no frames for it.

    Args:
        family: the model, possibly with an adapter in it, in evaluation mode
        input_ids: (B, T), padded at the right
        prompt_lengths: (B,), in tokens
        max_new_tokens: largest number of tokens of an answer
        audio: keyword arguments of ``encode_audio``
    """
    stops = stop_ids(family)
    tower_output = family.encode_audio(**audio) if audio else None
    answers: list[list[int]] = [[] for _ in input_ids]
    rows, ends = torch.arange(len(input_ids), device=input_ids.device), prompt_lengths.clone()
    unfinished = torch.ones_like(ends, dtype=torch.bool)
    for _ in range(max_new_tokens):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None, :]
        inside = places < ends[:, None]
        hidden = family.hidden_states(LanguageInputs(input_ids, places * inside, inside.long()), tower_output)
        logits = family.logits(hidden[rows, ends - 1]).float()
        logits[:, family.audio_token_id] = -torch.inf
        chosen = logits.argmax(dim=1)
        for row, token in enumerate(chosen.tolist()):
            if unfinished[row] and token in stops:
                unfinished[row] = False
            elif unfinished[row]:
                answers[row].append(token)
        if not unfinished.any():
            break
        input_ids = torch.nn.functional.pad(input_ids, (0, 1), value=family.pad_token_id)
        input_ids[rows[unfinished], ends[unfinished]] = chosen[unfinished]
        ends = ends + unfinished
    return answers


def decode_answer(family: Family, ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens."""
    return str(family.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
