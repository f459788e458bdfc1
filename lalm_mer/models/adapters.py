"""LoRA by peft, told which towers it may touch, with a report of what it really touches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from lalm_mer.core.errors import AdapterError
from lalm_mer.models.adapter_files import WEIGHTS, check_adapter_folder, one_line

__all__ = ["ALL_LINEAR", "Adaptable", "TowerReport", "add_lora", "load_adapter", "tower_of"]

ALL_LINEAR = "all-linear"
"""Target name, as in peft, for every linear layer of a tower."""


class Adaptable(Protocol):
    """What an adapter asks of a model: a family has it, and so has ``Clap``."""

    model: Any

    @property
    def name(self) -> str:
        """Its name in errors."""
        ...

    @property
    def towers(self) -> Mapping[str, str]:
        """Tower -> module path in the transformers model."""
        ...

    def submodule(self, tower: str) -> nn.Module:
        """The module of a tower, adapters included."""
        ...


@dataclass(frozen=True)
class TowerReport:
    """What an adapter does to one tower.

    Args:
        tower: ``language_model``, ``projector`` or ``audio_tower``
        modules: modules with an adapter
        adapter_parameters: trainable parameters in them
        base_parameters: parameters of the tower itself
    """

    tower: str
    modules: int
    adapter_parameters: int
    base_parameters: int


def add_lora(
    family: Adaptable,
    towers: Mapping[str, Sequence[str]],
    *,
    r: int,
    lora_alpha: int,
    lora_dropout: float,
    use_rslora: bool = False,
    use_dora: bool = False,
) -> tuple[PeftModel, list[TowerReport]]:
    """Add a LoRA adapter to the chosen modules of the chosen towers; everything else is frozen.

    Args:
        family: the model; its modules are changed in place
        towers: tower -> last names of the linear layers to adapt, or ``all-linear``; an empty list leaves it alone
        r: rank; the other arguments are peft's too

    Returns:
        the model as peft wraps it, and a report with a row for every tower

    Raises:
        AdapterError: if a tower is unknown, a target matches no linear layer in its tower, or nothing is targeted
    """
    modules: list[str] = []
    for tower, targets in towers.items():
        if tower not in family.towers:
            raise AdapterError(f"key 'adapter.towers': unknown tower {tower!r}; expected {', '.join(family.towers)}")
        if targets:
            modules += _targeted(family, tower, targets)
    if not modules:
        raise AdapterError("key 'adapter.towers': no tower has a target; name at least one, for example q_proj")
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        use_rslora=use_rslora,
        use_dora=use_dora,
        target_modules=modules,
    )
    model = get_peft_model(family.model, config)
    return model, _report(family, model, towers)


def load_adapter(family: Adaptable, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Load an adapter onto the family's model, from safetensors alone.

    Raises:
        AdapterError: naming the folder, if it holds no adapter, one in another format, one for another model, or more
            than an adapter
    """
    check_adapter_folder(folder, towers=family.towers.values())
    try:
        model = PeftModel.from_pretrained(family.model, folder, is_trainable=trainable, use_safetensors=True)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = one_line(error)
        raise AdapterError(f"{folder}: the adapter does not fit this {family.name} model: {reason}") from error
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        kept = get_peft_model_state_dict(model, save_embedding_layers=False)  # "auto" would ask the Hub
        odd = set(file.keys()) ^ set(kept)
    if odd:  # peft would leave these as they are
        raise AdapterError(
            f"{folder}: the adapter does not fit this {family.name} model: {len(odd)} odd tensors, {min(odd)}"
        )
    return model


def tower_of(family: Adaptable, name: str) -> str | None:
    """The tower of a module or parameter by its full name; None outside all.

    Where one tower stands within another, what is inside belongs to the inner one.
    """
    holding = [tower for tower, root in family.towers.items() if f"{name}.".startswith(f"{root}.")]
    return max(holding, key=lambda tower: len(family.towers[tower]), default=None)


def _targeted(family: Adaptable, tower: str, targets: Sequence[str]) -> list[str]:
    """Full names of exactly the targets within one tower.

    Not a regular expression: for a mixture of experts peft replaces one by the last names of what it matched, which
    then match in every tower.
    """
    root = family.towers[tower]
    modules = {f"{root}.{name}".rstrip("."): module for name, module in family.submodule(tower).named_modules()}
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    linear = [name for name in linear if tower_of(family, name) == tower]
    last_names = sorted({name.rpartition(".")[2] for name in linear})
    chosen = last_names if list(targets) == [ALL_LINEAR] else list(targets)
    for target in chosen:
        if target not in last_names:
            raise AdapterError(
                f"key 'adapter.towers.{tower}': target {target!r} matches no linear layer; the {tower} of "
                f"{family.name} has {', '.join(last_names)}"
            )
    return [name for name in linear if name.rpartition(".")[2] in chosen]


def _report(family: Adaptable, model: PeftModel, towers: Mapping[str, Sequence[str]]) -> list[TowerReport]:
    trainable = {name: parameter for name, parameter in family.model.named_parameters() if parameter.requires_grad}
    rows = []
    counted = 0
    for tower, root in family.towers.items():
        own = {name: parameter for name, parameter in trainable.items() if tower_of(family, name) == tower}
        modules = {name.partition(".lora_")[0] for name in own}
        if bool(own) != bool(towers.get(tower)):
            raise AdapterError(f"{family.name}: the adapter has {len(own)} tensors in the {tower}, against its config")
        parameters = family.submodule(tower).named_parameters(prefix=root)
        every = sum(parameter.numel() for name, parameter in parameters if tower_of(family, name) == tower)
        added = sum(parameter.numel() for parameter in own.values())
        rows.append(TowerReport(tower, len(modules), added, every - added))
        counted += len(own)
    if counted != len(trainable):
        outside = next(name for name in trainable if tower_of(family, name) is None)
        raise AdapterError(f"{family.name}: the adapter reaches outside the towers, for example {outside}")
    return rows
