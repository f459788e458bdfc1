"""Memory, operations and disk of a run, from the config of its model; no weights are loaded.

Only the positions of the audio tower are counted in a tiny random model of the family. What is left out: logits, masks,
fragmentation and what the process itself needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import nn

from lalm_mer.core.audio import Waveform
from lalm_mer.core.names import FULL, uses_audio, uses_transcript
from lalm_mer.core.schema import Input
from lalm_mer.launch.config.sections import AdapterSettings
from lalm_mer.models.adapters import add_adapter, tower_of
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.models.from_config import random_weights
from lalm_mer.models.full_training import train_in_full
from lalm_mer.recognizers.cost import Work, model_flops, tower_costs, tower_positions
from lalm_mer.recognizers.language.answers import answer_forms, answer_tree
from lalm_mer.recognizers.language.collator import AnswerCollator
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.memory import BlockMemory, Memory, activation_bytes, block_memory, blocks_of, stored_bytes

__all__ = ["Estimate", "Method", "empty_family", "estimate", "flowing_towers", "nf4_bytes"]

_WORDS_PER_S = 2.5  # of a transcript that is not known
_WEIGHTS_IN_A_SCALE, _SCALES_IN_A_SCALE = 64, 256  # of NF4 with double quantisation


@dataclass(frozen=True)
class Method:
    """What is done with the model.

    Args:
        towers: tower -> last names of the adapted layers; None without an adapter
        r: rank of the adapter
        quantization: ``nf4`` or None
        batch_size: utterances on the device at once
        checkpointing: whether activations are recomputed in the backward pass
        full: towers that are trained in full, without an adapter; with neither, the model only scores
    """

    towers: Mapping[str, Sequence[str]] | None = None
    r: int = 16
    quantization: str | None = None
    batch_size: int = 8
    checkpointing: bool = False
    full: Sequence[str] = ()

    @classmethod
    def of(cls, adapter: AdapterSettings, family: Family, *, quantization: str | None, batch_size: int) -> Self:
        """The training of section ``adapter``, with the defaults of the family."""
        if adapter.kind == FULL:
            return cls(batch_size=batch_size, full=tuple(adapter.full or family.towers))
        return cls(adapter.towers or family.adapter_targets, adapter.r, quantization, batch_size)

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.towers is not None or bool(self.full)


@dataclass(frozen=True)
class Estimate:
    """What a run needs.

    Args:
        memory: bytes on the device, if every utterance of a batch is the longest
        flops: operations for one utterance of mean duration, in one epoch
        tower_flops: part of it for an audio tower that is not trained, whose output a cache stores for later epochs
        tokens: positions of the language model for it
        saved_bytes: adapter, or complete model that is trained in full, on disk
        checkpoint_bytes: trained weights with AdamW's moments
        tower_bytes: output of the audio tower for it, in the model's dtype: what a cache of a frozen tower stores
    """

    memory: Memory
    flops: float
    tower_flops: float
    tokens: int
    saved_bytes: int
    checkpoint_bytes: int
    tower_bytes: int


def empty_family(name: str, source: str, revision: str | None, dtype: str) -> Family:
    """A family's model without values, with the real processor; config and processor are read, no weights.

    Raises:
        ModelError: if there is no such model
        ConfigError: if there is no such family, or a package that it needs is not installed
    """
    with random_weights("meta"):
        return family_class(name).load(source, revision=revision, dtype=dtype)


def estimate(family: Family, setup: PromptSetup, method: Method, *, mean_s: float, longest_s: float) -> Estimate:
    """Estimate what scoring or training needs.

    Args:
        family: result of ``empty_family``, possibly with ``full_window``; the adapter is added to it, or it is trained
            in full
        setup: prompts and labels
        method: what is done
        mean_s: mean duration of an utterance, in seconds
        longest_s: longest duration
    """
    costs = tower_costs(family)
    weights = stored_bytes(family.model)
    if method.quantization is not None:
        weights += sum(_saved_by_nf4(family))
    trains = method.trains
    if method.full:
        train_in_full(family, method.full)
    elif trains:
        add_adapter(family, {key: value for key, value in (method.towers or {}).items() if value}, {"r": method.r})
    learning = [each for each in family.model.parameters() if each.requires_grad] if trains else []
    trained = sum(each.numel() * each.element_size() for each in learning)
    mean, longest = (_work(family, setup, seconds, trains=trains) for seconds in (mean_s, longest_s))
    activations = activation_bytes(list(_blocks(family, longest)), learns=trains, checkpointing=method.checkpointing)
    element = next(family.model.parameters()).element_size()
    flowing = flowing_towers(family) if trains else {}
    stored = 0.0 if flowing.get("audio_tower") else costs["audio_tower"].flops(mean.audio_positions)
    return Estimate(
        memory=Memory(
            weights if method.full else weights + trained, trained, 2 * trained, activations * method.batch_size
        ),
        flops=model_flops(costs, mean, flowing or None, method.full),
        tower_flops=stored,
        tokens=round(mean.tokens),
        saved_bytes=weights if method.full else trained,
        checkpoint_bytes=3 * trained,
        tower_bytes=round(mean.audio_tokens) * _output_width(family) * element,
    )


def flowing_towers(family: Family) -> dict[str, bool]:
    """Tower -> whether a gradient flows through it: from the first tower with trained weights on."""
    own = {tower_of(family, name) for name, each in family.model.named_parameters() if each.requires_grad}
    flows, found = False, {}
    for tower in ("audio_tower", "projector", "language_model"):
        flows = flows or tower in own
        found[tower] = flows
    return found


def nf4_bytes(count: int) -> int:
    """Bytes of weights in NF4 with double quantisation: 4 bits each, a byte for 64, 4 bytes for 256 of those.

    Example:
        >>> nf4_bytes(256 * 256)
        33808
    """
    scales = -(-count // _WEIGHTS_IN_A_SCALE)
    return -(-count // 2) + scales + 4 * -(-scales // _SCALES_IN_A_SCALE)


def _saved_by_nf4(family: Family) -> Iterator[int]:
    """Change of the bytes of each linear layer that is quantised."""
    for module in family.submodule(str(family.quantised_tower)).modules():
        if isinstance(module, nn.Linear):
            yield nf4_bytes(module.weight.numel()) - module.weight.numel() * module.weight.element_size()


def _work(family: Family, setup: PromptSetup, seconds: float, *, trains: bool) -> Work:
    """What must be computed for an utterance of this duration."""
    rate = family.sampling_rate
    samples = round(min(seconds, family.longest_audio_s) * rate)
    waveform = Waveform(np.zeros(samples, dtype=np.float32), rate) if uses_audio(setup.modalities) else None
    words = " ".join(["word"] * max(1, round(_WORDS_PER_S * seconds))) if uses_transcript(setup.modalities) else None
    collator = AnswerCollator(family, setup.prompts[0], setup.label_set)
    prompt = len(collator.render(Input("estimate", words, waveform))[0])
    answers = [family.answer_ids(form) for _, form in answer_forms(setup.label_set)]
    tree = answer_tree([max(answers, key=len)], complete=True) if trains else answer_tree(answers)
    length = prompt + len(tree.tokens)
    if waveform is None:
        return Work(0, 0, length, tree.source_count)
    tokens, tower = family.audio_token_count(samples), tower_positions(family.name)
    window = family.audio_token_count(round(family.longest_audio_s * rate))
    positions = tower.per_token * (window if tower.padded or family.full_window else tokens)
    return Work(positions, tokens, length, tree.source_count)


def _blocks(family: Family, work: Work) -> Iterator[BlockMemory]:
    """For ``activation_bytes``: the blocks of the audio tower and of the language model, in this order."""
    positions = {"audio_tower": work.audio_positions, "language_model": work.tokens}
    for tower, count in positions.items():
        for block in blocks_of(family.submodule(tower)) if count else ():
            linear: Any = [each for each in block.modules() if isinstance(each, nn.Linear)]
            if linear:
                yield block_memory(block, round(count) * linear[-1].out_features * linear[-1].weight.element_size())


def _output_width(family: Family) -> int:
    """Width of the audio tower's output: that of its last block."""
    blocks = blocks_of(family.submodule("audio_tower"))
    linear: Any = [each for block in blocks for each in block.modules() if isinstance(each, nn.Linear)]
    return int(linear[-1].out_features)
