"""Adapters by peft in chosen towers only, with a report of the modules that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from torch import nn

from lalm_mer.core.errors import AdapterError, one_line
from lalm_mer.models.adapter_files import WEIGHTS, check_adapter_folder
from lalm_mer.models.adapter_kinds import check_options, kind_named
from lalm_mer.models.pretrained import PretrainedModel

__all__ = ["ALL_LINEAR", "TowerReport", "add_adapter", "load_adapter", "tower_of"]

ALL_LINEAR = "all-linear"
"""Target name, as in peft, for every linear layer of a tower."""


@dataclass(frozen=True)
class TowerReport:
    """What an adapter does to one tower.

    Args:
        tower: ``language_model``, ``projector`` or ``audio_tower``
        modules: modules with an adapter
        adapter_parameters: trainable parameters in them
        base_parameters: parameters of the tower itself, which stay as they are
        full_parameters: those of its copy, where the tower is trained in full
    """

    tower: str
    modules: int
    adapter_parameters: int
    base_parameters: int
    full_parameters: int = 0


def add_adapter(
    family: PretrainedModel,
    towers: Mapping[str, Sequence[str]],
    options: Mapping[str, Any],
    *,
    kind: str = "lora",
    full: Sequence[str] = (),
) -> tuple[PeftModel, list[TowerReport]]:
    """Add an adapter to the chosen modules of the chosen towers; everything else is frozen.

    A tower of ``full`` is trained in a copy of its own, which is saved with the adapter.

    Args:
        family: the model; its modules are changed in place
        towers: tower -> last names of the linear layers to adapt, or ``all-linear``; an empty list for no adapter
        options: of peft's config for this kind, under peft's names
        kind: one of ``KINDS``
        full: towers to be trained in full

    Returns:
        the model as peft wraps it, and a report with a row for every tower

    Raises:
        AdapterError: if a tower is unknown, a target matches no linear layer in its tower, nothing is targeted, or a
            tower cannot be trained so
        ConfigError: if there is no such kind, or it does not take an option
    """
    check_options(kind, options)
    _refuse_adapted(family)
    modules: list[str] = []
    for tower, targets in towers.items():
        _require_tower(family, tower, "towers")
        if targets:
            modules += _targeted(family, tower, targets)
    if not modules:
        raise AdapterError("argument 'towers': no tower has a target; name at least one, for example q_proj")
    method = kind_named(kind)
    four_bit = next((name for name in modules if _in_4_bits(family.model.get_submodule(name))), None)
    if four_bit is not None and not method.on_4_bits:
        raise AdapterError(
            f"argument 'kind': peft has no {kind} for layers in 4 bits, such as {four_bit}; choose another kind, or "
            "load the model without quantization"
        )
    copied = [path for tower in full for path in _copied(family, tower, targets=towers.get(tower, ()))]
    chosen = dict(options)
    if kind == "ia3":  # peft compares by the end of the name, and has no default for these models
        scaled_inputs = chosen.get("feedforward_modules") or ()
        chosen["feedforward_modules"] = [name for name in modules if name.rpartition(".")[2] in scaled_inputs]
    with _peft_errors("argument 'options'"):
        config: Any = method.config(**chosen, target_modules=modules)
        config.modules_to_save = copied or None
        model = get_peft_model(family.model, config)
    return model, _report(family, model, towers, full, method.prefix)


def load_adapter(
    family: PretrainedModel,
    folder: Path,
    *,
    trainable: bool = False,
    name: str = "default",
    onto: PeftModel | None = None,
) -> PeftModel:
    """Load an adapter onto the family's model, from safetensors only.

    Several may be on one model, of which one is active: ``model.set_adapter(name)`` chooses it. One that is loaded onto
    a model that has others is inactive until then.

    Args:
        family: the model; its modules are changed in place
        folder: as peft saves an adapter
        trainable: whether it is to be trained on
        name: that ``set_adapter`` takes
        onto: what an earlier call returned, which is then returned again; None where there is no adapter yet

    Raises:
        AdapterError: naming the folder, if it has no adapter, one in another format, one for another model, or one
            that names more than linear layers and towers
    """
    check_adapter_folder(folder, towers=[path for tower in family.towers for path in _paths(family, tower)])
    with _peft_errors(f"{folder}: the adapter does not fit this {family.name} model"):
        if onto is None:
            _refuse_adapted(family)
            model = PeftModel.from_pretrained(
                family.model, folder, adapter_name=name, is_trainable=trainable, use_safetensors=True
            )
        else:
            model = onto
            model.load_adapter(folder, adapter_name=name, is_trainable=trainable, use_safetensors=True)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            # "auto" would send a request to the Hub
            kept = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
            odd = set(file.keys()) ^ set(kept)
    if odd:  # peft would leave these as they are
        raise AdapterError(
            f"{folder}: the adapter does not fit this {family.name} model: {len(odd)} odd tensors, {min(odd)}"
        )
    return model


def tower_of(family: PretrainedModel, name: str) -> str | None:
    """The tower of a module or parameter by its full name; None outside all.

    A module inside two nested towers belongs to the inner one.
    """
    holding = [tower for tower, root in family.towers.items() if f"{name}.".startswith(f"{root}.")]
    return max(holding, key=lambda tower: len(family.towers[tower]), default=None)


def _targeted(family: PretrainedModel, tower: str, targets: Sequence[str]) -> list[str]:
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
                f"argument 'towers.{tower}': target {target!r} matches no linear layer; the {tower} of "
                f"{family.name} has {', '.join(last_names)}"
            )
    return [name for name in linear if name.rpartition(".")[2] in chosen]


def _report(
    family: PretrainedModel, model: PeftModel, towers: Mapping[str, Sequence[str]], full: Sequence[str], prefix: str
) -> list[TowerReport]:
    trainable = {name: parameter for name, parameter in family.model.named_parameters() if parameter.requires_grad}
    rows = []
    counted = 0
    for tower, root in family.towers.items():
        own = {name: parameter for name, parameter in trainable.items() if tower_of(family, name) == tower}
        copies = {name for name in own if ".modules_to_save." in name}
        modules = {name.partition(f".{prefix}")[0] for name in own if name not in copies}
        if bool(modules) != bool(towers.get(tower)) or bool(copies) != (tower in full):
            raise AdapterError(f"{family.name}: the adapter has {len(own)} tensors in the {tower}, against its config")
        parameters = family.submodule(tower).named_parameters(prefix=root)
        every = sum(parameter.numel() for name, parameter in parameters if tower_of(family, name) == tower)
        in_full = sum(own[name].numel() for name in copies)
        added = sum(parameter.numel() for parameter in own.values()) - in_full
        rows.append(TowerReport(tower, len(modules), added, every - added - in_full, in_full))
        counted += len(own)
    if counted != len(trainable):
        outside = next(name for name in trainable if tower_of(family, name) is None)
        raise AdapterError(f"{family.name}: the adapter reaches outside the towers, for example {outside}")
    return rows


def _require_tower(family: PretrainedModel, tower: str, argument: str) -> None:
    if tower not in family.towers:
        raise AdapterError(f"argument '{argument}': unknown tower {tower!r}; expected {', '.join(family.towers)}")


def _refuse_adapted(family: PretrainedModel) -> None:
    """Adapters that are added one after another would all be active at once."""
    kinds = (BaseTunerLayer, ModulesToSaveWrapper)
    if any(isinstance(module, kinds) for module in family.model.modules()):
        raise AdapterError(f"this {family.name} model has an adapter already; load it anew, or give onto=")


def _paths(family: PretrainedModel, tower: str) -> list[str]:
    """Paths of the modules that a tower is: its own, or those of its parts where it has no module to itself."""
    root, module = family.towers[tower], family.submodule(tower)
    if module is family.model.get_submodule(root):
        return [root]
    return [f"{root}.{name}" for name, _ in module.named_children()]


def _copied(family: PretrainedModel, tower: str, *, targets: Sequence[str]) -> list[str]:
    """Paths of the modules of a tower that can be trained in full."""
    _require_tower(family, tower, "full")
    where = f"argument 'full': the {tower} of {family.name}"
    if targets:
        raise AdapterError(f"{where} is trained in full and adapted; set towers.{tower}=[]")
    paths = _paths(family, tower)
    modules = [(path, family.model.get_submodule(path)) for path in paths]
    names = [f"{path}.{name}" for path, module in modules for name, _ in module.named_modules() if name]
    inner = {tower_of(family, name) for name in names} - {tower, None}
    if inner:
        raise AdapterError(
            f"{where} has the {min(map(str, inner))} within it, which would be trained too; adapt it instead"
        )
    own = {id(parameter): parameter for _, module in modules for parameter in module.parameters()}
    if any(not parameter.is_floating_point() for parameter in own.values()):
        raise AdapterError(f"{where} is quantised and cannot be trained in full; adapt it instead")
    dtype = next(iter(own.values())).dtype
    if dtype != torch.float32:
        raise AdapterError(
            f"{where} is in {str(dtype).removeprefix('torch.')}, in which small steps are lost; load it in "
            "float32, and train with bf16=true for speed"
        )
    for name, parameter in family.model.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not any(name.startswith(f"{path}.") for path in paths):
            raise AdapterError(f"{where} shares weights with {name}, which would stay as they are; adapt it instead")
    return paths


def _in_4_bits(module: nn.Module) -> bool:
    weight = module.get_parameter("weight")
    return not weight.is_floating_point()


@contextmanager
def _peft_errors(what: str) -> Iterator[None]:
    """Turn an error of peft into one line."""
    try:
        yield
    except AdapterError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise AdapterError(f"{what}: {one_line(error)}") from error
