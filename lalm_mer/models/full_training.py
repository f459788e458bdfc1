"""Training of every weight of chosen towers, without an adapter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from lalm_mer.core.errors import AdapterError
from lalm_mer.models.adapters import TowerReport, refuse_adapted, require_float32, require_tower, tower_of, tower_paths
from lalm_mer.models.pretrained import PretrainedModel

__all__ = ["train_in_full"]

_LANGUAGE_MODEL = "language_model"


def train_in_full(base: PretrainedModel, towers: Sequence[str]) -> list[TowerReport]:
    """Choose the towers whose weights are trained, in place; everything else is frozen.

    With the language model its output layer is trained, too, which belongs to no tower. What the architecture itself
    never trains, such as the sinusoidal positions of Whisper's encoder, remains as it is.

    Args:
        base: the model; ``trained_in_full`` then has the towers
        towers: names of the towers

    Returns:
        a report with one row per tower

    Raises:
        AdapterError: if there is no tower, one is unknown, quantised or not in float32, one shares weights with a
            tower that is not trained, or the model has an adapter
    """
    if not towers:
        raise AdapterError(f"argument 'full': no tower; name at least one of {', '.join(base.towers)}")
    for tower in towers:
        require_tower(base, tower, "full")
    refuse_adapted(base)
    constant = _constant(base)
    parameters = dict(base.model.named_parameters())
    owners: dict[int, set[str]] = defaultdict(set)
    for tower, name, parameter in _of_towers(base):
        if name not in constant:
            owners[id(parameter)].add(tower)
    for name, parameter in parameters.items():
        own = owners[id(parameter)]
        trained = own.intersection(towers)
        if trained and own != trained:
            raise AdapterError(
                f"argument 'full': the {min(trained)} of {base.name} shares {name} with the {min(own - trained)}; "
                "train both, or neither"
            )
        if trained:
            require_float32([parameter], f"argument 'full': the {min(trained)} of {base.name}")
    for parameter in parameters.values():
        parameter.requires_grad = not owners[id(parameter)].isdisjoint(towers)
    base.trained_in_full = tuple(towers)
    return _report(base)


def _of_towers(base: PretrainedModel) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Tower, name and parameter; one that is shared has several names, and one outside all towers none."""
    roots = {tower: tower_paths(base, tower) for tower in base.towers}
    roots.get(_LANGUAGE_MODEL, []).extend(base.language_model_parts)
    output: Any = base.model.get_output_embeddings() if _LANGUAGE_MODEL in roots else None
    of_output = set() if output is None else set(map(id, output.parameters()))
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        inner = tower_of(base, name)
        for tower, paths in roots.items():
            if inner in (tower, None) and any(name.startswith(f"{path}.") for path in paths):
                yield tower, name, parameter
        if id(parameter) in of_output:
            yield _LANGUAGE_MODEL, name, parameter


def _constant(base: PretrainedModel) -> set[str]:
    """Names of the parameters that the architecture does not train; ``from_pretrained`` forgets which these are."""
    with torch.device("meta"):
        empty = type(base.model)(deepcopy(base.model.config))
    return {name for name, parameter in empty.named_parameters() if not parameter.requires_grad}


def _report(base: PretrainedModel) -> list[TowerReport]:
    counts = {tower: {True: 0, False: 0} for tower in base.towers}
    counted: set[tuple[str, int]] = set()
    for tower, _, parameter in _of_towers(base):
        if (tower, id(parameter)) not in counted:
            counted.add((tower, id(parameter)))
            counts[tower][parameter.requires_grad] += parameter.numel()
    return [TowerReport(tower, 0, 0, count[False], count[True]) for tower, count in counts.items()]
