"""Answers as text, by greedy decoding with the two steps that every family has.

Audio is encoded once, the prompt is run once, and each further token is a pass over that token alone, which attends to
the stored keys and values of the others. Rows are padded at the right, and new tokens come after the padding, which
masks exclude; positions are counted without it. A row whose prompt has 2 tokens in a batch with one of 4:

    tokens     p p - - a a a
    positions  0 1 . . 2 3 4
    mask       1 1 0 0 1 1 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lalm_mer.core.errors import ModelError
from lalm_mer.models.families.base import Family, LanguageInputs
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.recognizers.language.prefix import PrefixStore

__all__ = ["decode_answer", "generate", "stop_ids"]


def stop_ids(family: Family) -> set[int]:
    """Tokens that end an answer: the family's stop token and those of the model's generation config."""
    config: Any = getattr(family.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    return {family.stop_token_id, *([] if named is None else [named] if isinstance(named, int) else named)}


@torch.no_grad()
def generate(
    family: Family,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    prefix: Tensor | None = None,
    *,
    max_new_tokens: int,
    prefixes: PrefixStore | None = None,
    **audio: Tensor,
) -> list[list[int]]:
    """Token ids of greedy answers to a batch of a ``PromptCollator``, without the stop token.

    The most probable token is appended until it is one of ``stop_ids`` or there are ``max_new_tokens``. The audio
    placeholder is never chosen, since there are no frames for it. Each token is a full pass if the family keeps no keys
    and values, or if they would change with the length of the answer.

    Args:
        family: the model, possibly with an adapter in it, in evaluation mode
        input_ids: (B, T), padded at the right
        prompt_lengths: (B,), in tokens
        prefix: (B, 2) of prompts with answered examples
        max_new_tokens: largest number of tokens of an answer
        prefixes: the prefixes, for prompts with answered examples
        audio: keyword arguments of ``encode_audio``
    """
    stops = stop_ids(family)
    tower_output = family.encode_audio(**audio) if audio else None
    start = 0 if prefix is None else int(prefix[0, 1])  # the same in every row
    cache = _cache(family, prefix, prefixes, int(prompt_lengths.max()), max_new_tokens)
    answers: list[list[int]] = [[] for _ in input_ids]
    unfinished = torch.ones_like(prompt_lengths, dtype=torch.bool)
    ends = (start + prompt_lengths)[:, None]
    places = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)[None]
    mask = (places < ends).long()
    position_ids = places * mask
    mask = torch.nn.functional.pad(mask, (start, 0), value=1)
    last = prompt_lengths - 1  # index of the last token of each row among those of the pass
    for _ in range(max_new_tokens):
        hidden = family.hidden_states(LanguageInputs(input_ids, position_ids, mask), tower_output, cache)
        logits = family.logits(hidden[torch.arange(len(hidden), device=hidden.device), last]).float()
        logits[:, family.audio_token_id] = -torch.inf
        chosen = logits.argmax(dim=1)
        for row, token in enumerate(chosen.tolist()):
            if unfinished[row] and token in stops:
                unfinished[row] = False
            elif unfinished[row]:
                answers[row].append(token)
        if not unfinished.any():
            break
        new = chosen.where(unfinished, family.pad_token_id)[:, None]
        mask = torch.cat([mask, torch.ones_like(new)], dim=1)
        if cache is None:
            input_ids, position_ids = torch.cat([input_ids, new], dim=1), torch.cat([position_ids, ends], dim=1)
        else:
            input_ids, position_ids, tower_output = new, ends, None
        ends, last = ends + 1, torch.full_like(last, -1)
    return answers


def _cache(
    family: Family, prefix: Tensor | None, prefixes: PrefixStore | None, longest: int, new_tokens: int
) -> KeysValues | None:
    """Keys and values of the prefix, or none yet; None if no keys and values can be kept."""
    if prefix is None or not prefix[0, 1]:
        return KeysValues() if family.keeps_keys(longest, longest + new_tokens) else None
    number, start = prefix[0].tolist()
    if prefixes is None or not family.keeps_keys(start, start + longest + new_tokens):
        raise ModelError(
            f"{family.name}: prompts without their prefix need 'prefixes', and 'following' of the collator"
        )
    return prefixes.keys_values(number, prefix.device).beginning(len(prefix), start, grows=True)


def decode_answer(family: Family, ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens."""
    return str(family.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
