"""Arithmetic of a recognizer: floating-point operations of its towers, from their weights and positions.

A multiplication and an addition are two operations. Counted are linear layers, convolutions and the products of
attention; normalisation, activations, softmax and the low-rank layers of an adapter are not (below 1% of a 7 B model).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.models.tiny import build_tiny
from lalm_mer.recognizers.memory import block_outputs

__all__ = ["TowerCost", "TowerPositions", "Work", "model_flops", "tower_costs", "tower_positions"]

_QUERIES = ("q_proj", "linear_q", "qkv_proj")
_TINY_WINDOW_S = 2


@dataclass(frozen=True)
class TowerCost:
    """What a tower does for each position.

    Args:
        weights: weights of its linear layers and convolutions
        attention: sum of the widths of its attention layers
    """

    weights: int
    attention: int

    def flops(self, positions: float) -> float:
        """Operations of one forward pass over a sequence; attention is counted in full, as most kernels compute it."""
        return 2 * self.weights * positions + 4 * self.attention * positions**2


@dataclass(frozen=True)
class TowerPositions:
    """Positions of the audio tower.

    Args:
        per_token: positions of the transformer for each placeholder of the prompt
        padded: whether it always runs over its full window
    """

    per_token: float
    padded: bool


@dataclass(frozen=True)
class Work:
    """What must be computed for one utterance, whatever computes it.

    Args:
        audio_positions: positions of the audio tower, without padding
        audio_tokens: placeholders, which the projector makes
        tokens: positions of the language model: the prompt with its placeholders, and the tokens of the tree of answers
        predicted: positions whose next token is predicted
    """

    audio_positions: float
    audio_tokens: float
    tokens: float
    predicted: float


def tower_costs(family: Family) -> dict[str, TowerCost]:
    """Tower -> its cost, with the output layer as ``output``; from a model on any device, meta included."""
    costs = {}
    language_model = family.submodule("language_model")
    counted = set(map(id, language_model.modules()))
    for tower in family.towers:
        module = family.submodule(tower)
        inside = [each for each in module.modules() if tower == "language_model" or id(each) not in counted]
        weights = sum(_weights(each) for each in inside) + round(_active(module) * sum(map(_expert_weights, inside)))
        queries = [each for name, each in module.named_modules() if name.rpartition(".")[2] in _QUERIES]
        costs[tower] = TowerCost(weights, sum(_out_features(each) for each in queries if each in inside))
    model: Any = family.model
    head = model.get_output_embeddings()
    return costs | {"output": TowerCost(0 if head is None else _weights(head), 0)}


def model_flops(
    costs: Mapping[str, TowerCost],
    work: Work,
    trained: Mapping[str, bool] | None = None,
    in_full: Collection[str] = (),
) -> float:
    """Operations for one utterance.

    A training step computes, besides the forward pass, the gradient with respect to the inputs of every layer from the
    first trained one on: as many operations again; and of a tower that is trained in full the gradient of its weights:
    as many once more. Gradients of the weights of an adapter are not counted.

    Args:
        costs: result of ``tower_costs``
        work: what must be computed
        trained: tower -> whether a gradient flows through it; None for scoring
        in_full: towers that are trained in full; the output layer is trained with the language model
    """
    positions = {
        "audio_tower": work.audio_positions,
        "projector": work.audio_tokens,
        "language_model": work.tokens,
        "output": work.predicted,
    }
    flows = {tower: trained is not None and trained.get(tower, True) for tower in costs}
    learns = {tower: ("language_model" if tower == "output" else tower) in in_full for tower in costs}
    passes = {tower: 1 + flows[tower] + learns[tower] for tower in costs}
    return sum(cost.flops(positions[tower]) * passes[tower] for tower, cost in costs.items() if tower in positions)


@cache
def tower_positions(name: str) -> TowerPositions:
    """Positions of a family's audio tower, counted in a tiny random model of it over half a window and a full one."""
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(name, Path(folder), words=["happy sad"], window_s=_TINY_WINDOW_S, hidden_size=64, layers=1)
        family = family_class(name).load(folder)
    full = round(_TINY_WINDOW_S * family.sampling_rate)
    counts = [_positions(family, samples) for samples in (full // 2, full)]
    tokens = family.audio_token_count(full)
    return TowerPositions(counts[1] / tokens, counts[0] == counts[1])


def _positions(family: Family, samples: int) -> int:
    """Positions of the first transformer block of the audio tower for one waveform."""
    waveform = Waveform(np.zeros(samples, dtype=np.float32), family.sampling_rate)
    inputs = family.audio_inputs([waveform])
    with torch.inference_mode():
        outputs = block_outputs(family.submodule("audio_tower"), partial(family.encode_audio, **inputs))
    transformer = [each for each in outputs if _attends(each[0])]
    block, size = (transformer or outputs)[0]
    width = _last_width(block)
    return size // (width * 4)


def _attends(block: nn.Module) -> bool:
    return any(name.rpartition(".")[2] in _QUERIES for name, _ in block.named_modules())


def _last_width(block: nn.Module) -> int:
    """Width of the output of a block: that of its last linear layer."""
    linear = [each for each in block.modules() if isinstance(each, nn.Linear)]
    return linear[-1].out_features


def _weights(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):  # also in 4 bits, whose tensor has another shape
        return module.in_features * module.out_features
    return module.weight.numel() if isinstance(module, nn.Conv1d | nn.Conv2d) else 0


def _expert_weights(module: nn.Module) -> int:
    """Weights of all experts of a mixture, which transformers stores as parameters of three axes."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return 0
    return sum(each.numel() for each in module.parameters(recurse=False) if each.dim() == 3)


def _active(tower: nn.Module) -> float:
    """Share of the experts that a token uses; 1 if the config does not say."""
    config = getattr(tower, "config", None)
    used, total = (getattr(config, name, None) for name in ("num_experts_per_tok", "num_experts"))
    return used / total if used and total else 1.0


def _out_features(module: nn.Module) -> int:
    return int(getattr(module, "out_features", 0))
