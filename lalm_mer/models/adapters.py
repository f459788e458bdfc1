"""Adapters by peft in chosen towers, with a report of the adapted modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lalm_mer.models.adapter_kinds import check_options
from lalm_mer.models.pretrained import PretrainedModel

__all__ = [
    "ALL_LINEAR", "TowerReport", "add_adapter", "load_adapter", "refuse_adapted", "require_float32", "require_tower",
    "save_adapter", "save_trained", "tower_of", "tower_paths",
]  # fmt: skip

ALL_LINEAR = "all-linear"
"""Target name, as in peft, for all linear layers of a tower"""


@dataclass(frozen=True)
class TowerReport:
    """Adapted modules and numbers of parameters of one tower.

    Args:
        tower: name of the tower
        modules: number of modules with an adapter
        adapter_parameters: their trainable parameters
        base_parameters: frozen parameters of the tower itself
        full_parameters: those that are trained in full, in addition to an adapter in a copy of the tower
    """

    tower: str
    modules: int
    adapter_parameters: int
    base_parameters: int
    full_parameters: int = 0


def add_adapter(
    base: PretrainedModel,
    towers: Mapping[str, Sequence[str]],
    options: Mapping[str, Any],
    *,
    kind: str = "lora",
    full: Sequence[str] = (),
) -> tuple[PeftModel, list[TowerReport]]:
    """Add an adapter to the chosen modules of the chosen towers; everything else is frozen.

    A tower of ``full`` is trained as a copy, which is saved with the adapter.

    Args:
        base: the model; its modules are changed in place
        towers: tower -> last names of the linear layers to adapt, or ``all-linear``; an empty list for no adapter
        options: options of peft's config for this kind
        kind: one of ``KINDS``
        full: towers to be trained in full

    Returns:
        peft's model, and a report with one row per tower

    Raises:
        AdapterError: if a tower is unknown, a target matches no linear layer in its tower, there is no target, or a
            tower cannot be adapted or trained in full
        ConfigError: if the kind is unknown or does not have an option
    """
    method = check_options(kind, options)
    refuse_adapted(base)
    modules: list[str] = []
    for tower, targets in towers.items():
        require_tower(base, tower, "towers")
        if targets:
            modules += _targeted(base, tower, targets)
    if not modules:
        raise AdapterError("argument 'towers': no tower has a target; name at least one, for example q_proj")
    weights = ((name, base.model.get_parameter(f"{name}.weight")) for name in modules)
    four_bit = next((name for name, weight in weights if not weight.is_floating_point()), None)
    if four_bit is not None and not method.on_4_bits:
        raise AdapterError(
            f"argument 'kind': peft has no {kind} for layers in 4 bits, such as {four_bit}; choose another kind, or "
            "load the model without quantization"
        )
    copied = [path for tower in full for path in _copied(base, tower, targets=towers.get(tower, ()))]
    chosen = dict(options)
    if kind == "ia3":  # peft compares ends of names, and has no default for these models
        scaled_inputs = chosen.get("feedforward_modules") or ()
        chosen["feedforward_modules"] = [name for name in modules if name.rpartition(".")[2] in scaled_inputs]
    with _peft_errors("argument 'options'"):
        config: Any = method.config(**chosen, target_modules=modules)
        config.modules_to_save = copied or None
        model = get_peft_model(base.model, config)
    return model, _report(base, model, towers, full, method.prefix)


def load_adapter(
    base: PretrainedModel,
    folder: Path,
    *,
    trainable: bool = False,
    name: str = "default",
    onto: PeftModel | None = None,
) -> PeftModel:
    """Load an adapter, from safetensors only.

    If a model has several, one is active: ``model.set_adapter(name)`` chooses it. An adapter loaded onto a model with
    others is inactive.

    Args:
        base: the model; its modules are changed in place
        folder: an adapter saved by peft
        trainable: whether training continues
        name: name of the adapter for ``set_adapter``
        onto: result of an earlier call, which is returned again; None for the first adapter

    Raises:
        AdapterError: naming the folder, if it has no adapter, one in another format, one for another model, or one
            that names more than linear layers and towers
    """
    check_adapter_folder(folder, towers=[path for tower in base.towers for path in tower_paths(base, tower)])
    options: dict[str, Any] = {"adapter_name": name, "is_trainable": trainable, "use_safetensors": True}
    if onto is None:
        refuse_adapted(base)
    with _peft_errors(f"{folder}: the adapter does not fit this {base.name} model"):
        if onto is None:
            model = PeftModel.from_pretrained(base.model, folder, **options)
        else:
            model = onto
            model.load_adapter(folder, **options)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            # "auto" would send a request to the Hub
            kept = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
            odd = set(file.keys()) ^ set(kept)
    if odd:  # peft would ignore them
        raise AdapterError(
            f"{folder}: the adapter does not fit this {base.name} model: {len(odd)} unexpected or missing tensors, "
            f"such as {min(odd)}"
        )
    return model


def save_trained(base: PretrainedModel, model: Any, folder: Path) -> None:  # noqa: ANN401 of peft or transformers
    """Write what was trained: the complete model if it was trained in full, or else its adapter.

    Args:
        base: the model
        model: the model with its adapter
        folder: a folder
    """
    if base.trained_in_full:
        base.save(folder)
    else:
        save_adapter(model, folder)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write an adapter as peft does, with the names of its config in order: peft keeps them as sets."""
    for config in model.peft_config.values():
        for key in ("target_modules", "feedforward_modules"):
            if isinstance(getattr(config, key, None), set):
                setattr(config, key, sorted(getattr(config, key)))
    model.save_pretrained(folder)


def tower_of(base: PretrainedModel, name: str) -> str | None:
    """The tower of a module or parameter by its full name, the inner one of nested towers; None outside all."""
    containing = [tower for tower, root in base.towers.items() if f"{name}.".startswith(f"{root}.")]
    return max(containing, key=lambda tower: len(base.towers[tower]), default=None)


def _targeted(base: PretrainedModel, tower: str, targets: Sequence[str]) -> list[str]:
    """Full names of the targets in one tower.

    Not a regular expression: for a mixture of experts peft replaces it by last names, which match in every tower.
    """
    modules = base.submodule(tower).named_modules(prefix=base.towers[tower])
    linear = [name for name, module in modules if isinstance(module, nn.Linear) and tower_of(base, name) == tower]
    last_names = sorted({name.rpartition(".")[2] for name in linear})
    chosen = last_names if list(targets) == [ALL_LINEAR] else list(targets)
    for target in chosen:
        if target not in last_names:
            raise AdapterError(
                f"argument 'towers.{tower}': target {target!r} matches no linear layer; the {tower} of "
                f"{base.name} has {', '.join(last_names)}"
            )
    return [name for name in linear if name.rpartition(".")[2] in chosen]


def _report(
    base: PretrainedModel, model: PeftModel, towers: Mapping[str, Sequence[str]], full: Sequence[str], prefix: str
) -> list[TowerReport]:
    trainable = {name: parameter for name, parameter in base.model.named_parameters() if parameter.requires_grad}
    rows = []
    counted = 0
    for tower, root in base.towers.items():
        own = {name: parameter for name, parameter in trainable.items() if tower_of(base, name) == tower}
        copies = {name for name in own if ".modules_to_save." in name}
        modules = {name.partition(f".{prefix}")[0] for name in own if name not in copies}
        if bool(modules) != bool(towers.get(tower)) or bool(copies) != (tower in full):
            raise AdapterError(f"{base.name}: the adapter has {len(own)} tensors in the {tower}, against its config")
        parameters = base.submodule(tower).named_parameters(prefix=root)
        every = sum(parameter.numel() for name, parameter in parameters if tower_of(base, name) == tower)
        in_full = sum(own[name].numel() for name in copies)
        added = sum(parameter.numel() for parameter in own.values()) - in_full
        rows.append(TowerReport(tower, len(modules), added, every - added - in_full, in_full))
        counted += len(own)
    if counted != len(trainable):
        outside = next(name for name in trainable if tower_of(base, name) is None)
        raise AdapterError(f"{base.name}: the adapter reaches outside the towers, for example {outside}")
    return rows


def require_tower(base: PretrainedModel, tower: str, argument: str) -> None:
    """Check that a model has a tower.

    Raises:
        AdapterError: naming the argument and the towers
    """
    if tower not in base.towers:
        raise AdapterError(f"argument '{argument}': unknown tower {tower!r}; expected {', '.join(base.towers)}")


def refuse_adapted(base: PretrainedModel) -> None:
    """Check that a model has no adapter: those added one after another would all be active.

    Raises:
        AdapterError: if it has one
    """
    kinds = (BaseTunerLayer, ModulesToSaveWrapper)
    if any(isinstance(module, kinds) for module in base.model.modules()):
        raise AdapterError(f"this {base.name} model has an adapter already; load the model again, or set onto=")


def tower_paths(base: PretrainedModel, tower: str) -> list[str]:
    """Path of the module of a tower, or of its parts if other modules are in it too."""
    root, module = base.towers[tower], base.submodule(tower)
    if module is base.model.get_submodule(root):
        return [root]
    return [f"{root}.{name}" for name, _ in module.named_children()]


def _copied(base: PretrainedModel, tower: str, *, targets: Sequence[str]) -> list[str]:
    """Paths of the modules of a tower that can be trained in full."""
    require_tower(base, tower, "full")
    where = f"argument 'full': the {tower} of {base.name}"
    if targets:
        raise AdapterError(f"{where} is trained in full and adapted; set towers.{tower}=[]")
    paths = tower_paths(base, tower)
    modules = [(path, base.model.get_submodule(path)) for path in paths]
    names = [f"{path}.{name}" for path, module in modules for name, _ in module.named_modules() if name]
    inner = {tower_of(base, name) for name in names} - {tower, None}
    if inner:
        raise AdapterError(f"{where} contains the {min(map(str, inner))}, which would be trained too; adapt it instead")
    own = {id(parameter): parameter for _, module in modules for parameter in module.parameters()}
    require_float32(own.values(), where)
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not any(name.startswith(f"{path}.") for path in paths):
            raise AdapterError(f"{where} shares weights with {name}, which would not change; adapt it instead")
    return paths


def require_float32(parameters: Iterable[nn.Parameter], where: str) -> None:
    """Check that weights can be trained in full.

    Args:
        parameters: the weights
        where: argument and tower, for the error

    Raises:
        AdapterError: if one is quantised or in half precision
    """
    for parameter in parameters:
        if not parameter.is_floating_point():
            raise AdapterError(f"{where} is quantised and cannot be trained in full; adapt it instead")
        if parameter.dtype != torch.float32:
            raise AdapterError(
                f"{where} is in {str(parameter.dtype).removeprefix('torch.')}, which loses small steps; load it in "
                "float32, and set bf16=true or fp16=true for speed"
            )


@contextmanager
def _peft_errors(what: str) -> Iterator[None]:
    """Turn an error of peft into one line."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise AdapterError(f"{what}: {one_line(error)}") from error
