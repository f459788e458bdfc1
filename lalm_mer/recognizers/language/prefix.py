"""The beginning that all prompts of a run share, if they have answered examples: it is run once, not per utterance.

    prompt     system, example, answer, example, answer, | audio, transcript, start of the answer
    run        once: keys, values and tower output       | for each utterance, with its answers

It is found by rendering two inputs that differ in every slot, and each prompt is compared with it, token by token: a
batch uses as much of it as all its prompts begin with. If that is less than all examples, or if positions depend on the
length of a row (``Family.keeps_keys``), the batch contains complete prompts. Batches to train on always do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.schema import Audio, Input, Turn
from lalm_mer.models.families.base import Family, LanguageInputs, TowerOutput
from lalm_mer.models.families.parts.keys_values import KeysValues

__all__ = ["Prefix", "PrefixStore", "Rendered", "find_prefix", "without_prefix"]

Rendered: TypeAlias = tuple[list[int], list[Audio]]
"""Token ids of a prompt, up to the start of the answer, and the audio of its placeholders"""


@dataclass(frozen=True)
class Prefix:
    """Tokens with which all prompts begin.

    Args:
        ids: token ids, up to the first that depends on the input
        audio: audio of its placeholders, that of the answered examples
        least: number of tokens up to the last of these placeholders
    """

    ids: list[int]
    audio: list[Audio]
    least: int

    def shared_length(self, family: Family, prompts: Sequence[Rendered], following: int) -> int:
        """Number of tokens of the prefix with which all prompts of a batch begin; 0 if it cannot be used.

        Args:
            family: the family
            prompts: the prompts of the batch
            following: largest number of tokens after a prompt
        """
        length = min(min(_common(self.ids, ids), len(ids) - 1) for ids, _ in prompts)
        longest = max(len(ids) for ids, _ in prompts) + following
        return length if length >= self.least and family.keeps_keys(length, longest) else 0


def find_prefix(family: Family, render: Callable[[Input], Rendered], examples_audio: list[Audio]) -> Prefix | None:
    """The tokens before all content of an input; None if answered examples are not among them.

    Args:
        family: the family
        render: renders the prompt of an input
        examples_audio: audio of the answered examples
    """
    silence = Waveform(np.zeros(family.sampling_rate, dtype=np.float32), family.sampling_rate)
    first, second = (
        render(Input("<none>", words, silence, words, context=(Turn(words, words),), descriptors=words))[0]
        for words in ("0", "x")
    )
    ids = first[: _common(first, second)]
    places = [place for place, token in enumerate(ids) if token == family.audio_token_id]
    count = sum(map(family.placeholder_count, examples_audio))
    if len(places) < count:
        return None
    ids = ids[: places[count]] if len(places) > count else ids  # the next placeholder is one of the input
    return Prefix(ids, examples_audio, places[count - 1] + 1 if count else 0)


def without_prefix(prompts: Sequence[Rendered], prefix: Prefix | None, length: int) -> list[Rendered]:
    """The rest of each prompt after ``length`` tokens of the prefix, with the audio of its placeholders."""
    if prefix is None or not length:
        return list(prompts)
    return [(ids[length:], audio[len(prefix.audio) :]) for ids, audio in prompts]


class PrefixStore:
    """Keys and values of the prefixes of several prompts with the same examples, each computed when first needed.

    They depend on the weights: ``clear`` must be called before these change. With gradients enabled nothing is stored.

    Args:
        family: the model
        prefixes: the prefix of each prompt
    """

    def __init__(self, family: Family, prefixes: Sequence[Prefix | None]) -> None:
        self._family = family
        self._prefixes = prefixes
        self._stored: dict[int, KeysValues] = {}
        self._tower_output: TowerOutput | None = None

    def clear(self) -> None:
        """Remove everything that was stored."""
        self._stored.clear()
        self._tower_output = None

    def keys_values(self, number: int, device: torch.device) -> KeysValues:
        """Keys and values of one prefix, B = 1."""
        if torch.is_grad_enabled():
            self.clear()
            return self._computed(number, device)
        found = self._stored.get(number)
        if found is None or found.device != device:
            found = self._stored[number] = self._computed(number, device)
        return found

    def _computed(self, number: int, device: torch.device) -> KeysValues:
        prefix = self._prefixes[number]
        assert prefix is not None
        audio = self._tower_output
        if prefix.audio and (audio is None or audio.states.device != device):
            inputs = self._family.audio_inputs(prefix.audio)
            audio = self._family.encode_audio(**{name: tensor.to(device) for name, tensor in inputs.items()})
            self._tower_output = None if torch.is_grad_enabled() else audio
        ids = torch.tensor([prefix.ids], device=device)
        filled = KeysValues()
        positions = torch.arange(ids.shape[1], device=device)[None]
        self._family.hidden_states(LanguageInputs(ids, positions, torch.ones_like(ids)), audio, filled)
        return filled


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens with which both begin."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(place for place in range(length) if first[place] != second[place])
