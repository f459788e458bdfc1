"""Answers in words, by greedy decoding through the two steps that every family has.

Audio is encoded once; each further token is a whole pass over the prompt and what was said so far. A cache of keys and
values would be faster and another path through every family; this is the second mode of zero-shot prompting, kept so
simple that families and adapters need nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.families.base import Family, LanguageInputs
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.collator import render_prompt

__all__ = ["PromptCollator", "generate", "in_words", "stop_ids"]


class PromptCollator:
    """Makes a batch of B prompts without answers; pickles, so that it can run in worker processes.

    Args:
        family: tokenizer and audio front end
        prompt: what is asked
        label_set: the K labels, with the prompt's surface forms
        shots: examples that stand answered in every prompt
    """

    def __init__(self, family: Family, prompt: Prompt, label_set: LabelSet, *, shots: Sequence[Example] = ()) -> None:
        self._family = family
        self._prompt = prompt
        self._label_set = label_set
        self._shots = tuple(shots)

    def __call__(self, inputs: Sequence[Input]) -> dict[str, Tensor]:
        """Collate B inputs.

        Returns:
            ``input_ids`` (B, T), padded at the right; ``prompt_lengths`` (B,), in tokens; and the audio tower's inputs
            where the prompt hears
        """
        rows = [render_prompt(self._family, self._prompt, self._label_set, each, shots=self._shots) for each in inputs]
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        input_ids = torch.full((len(rows), int(lengths.max())), self._family.pad_token_id)
        for row, (ids, _) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
        waveforms = [waveform for _, heard in rows for waveform in heard]
        audio = self._family.audio_inputs(waveforms) if waveforms else {}
        return {"input_ids": input_ids, "prompt_lengths": lengths, **audio}


def stop_ids(family: Family) -> set[int]:
    """Tokens that end an answer: the family's stop token, and those that the model's generation config names."""
    config: Any = getattr(family.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    return {family.stop_token_id, *([] if named is None else [named] if isinstance(named, int) else named)}


@torch.no_grad()
def generate(
    family: Family, input_ids: Tensor, prompt_lengths: Tensor, *, max_new_tokens: int, **audio: Tensor
) -> list[list[int]]:
    """Token ids of greedy answers to a batch of a ``PromptCollator``, without the token that stopped them.

    The most probable token is appended until it is one of ``stop_ids`` or there are ``max_new_tokens``. The audio
    placeholder is never chosen: it is no word, and would ask for sound that there is not.

    Args:
        family: the model, which an adapter may be part of, in evaluation mode
        input_ids: (B, T), padded at the right
        prompt_lengths: (B,), in tokens
        max_new_tokens: at most, for each answer
        audio: keyword arguments of ``encode_audio``
    """
    stops = stop_ids(family)
    heard = family.encode_audio(**audio) if audio else None
    answers: list[list[int]] = [[] for _ in input_ids]
    rows, ends = torch.arange(len(input_ids), device=input_ids.device), prompt_lengths.clone()
    going = torch.ones_like(ends, dtype=torch.bool)
    for _ in range(max_new_tokens):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None, :]
        inside = places < ends[:, None]
        hidden = family.hidden_states(LanguageInputs(input_ids, places * inside, inside.long()), heard)
        logits = family.logits(hidden[rows, ends - 1]).float()
        logits[:, family.audio_token_id] = -torch.inf
        chosen = logits.argmax(dim=1)
        for row, token in enumerate(chosen.tolist()):
            if going[row] and token in stops:
                going[row] = False
            elif going[row]:
                answers[row].append(token)
        if not going.any():
            break
        input_ids = torch.nn.functional.pad(input_ids, (0, 1), value=family.pad_token_id)
        input_ids[rows[going], ends[going]] = chosen[going]
        ends = ends + going
    return answers


def in_words(family: Family, ids: Sequence[int]) -> str:
    """An answer as written, without special tokens."""
    return str(family.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
