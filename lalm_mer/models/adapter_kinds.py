"""Supported methods of peft, their options, and the check of a saved adapter's config.

A method is supported if it works on linear layers listed by name, is merged and saved without loss, and needs nothing
from the training loop. Options that train other modules, change the base weights, import code or fetch data are not
supported, and an adapter with one of them is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalm_mer.core.errors import AdapterError, ConfigError, shown

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = ["KINDS", "PLAIN_STARTS", "AdapterKind", "check_options", "check_saved_config"]


@dataclass(frozen=True)
class AdapterKind:
    """One of peft's methods.

    Args:
        config_name: name of peft's class
        prefix: prefix of the names of its tensors
        options: fields of the config that may be set
        on_4_bits: whether peft supports layers in 4 bits
    """

    config_name: str
    prefix: str
    options: tuple[str, ...]
    on_4_bits: bool = True

    @property
    def config(self) -> type[PeftConfig]:
        """peft's class; peft is only imported here, because ``--help`` lists the kinds."""
        found: type[PeftConfig] = getattr(import_module("peft"), self.config_name)
        return found


_LAYERS = ("layers_to_transform", "layers_pattern")
_PATTERNS = (*_LAYERS, "rank_pattern", "alpha_pattern")
_LYCORIS = ("r", "alpha", "rank_dropout", "module_dropout", "init_weights", *_PATTERNS)

KINDS: Mapping[str, AdapterKind] = {
    "lora": AdapterKind(
        "LoraConfig", "lora_",
        ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "lora_bias", *_PATTERNS),
    ),
    "loha": AdapterKind("LoHaConfig", "hada_", _LYCORIS, on_4_bits=False),
    "lokr": AdapterKind(
        "LoKrConfig", "lokr_", (*_LYCORIS, "decompose_both", "decompose_factor", "rank_dropout_scale"), on_4_bits=False,
    ),
    "vera": AdapterKind(
        "VeraConfig", "vera_", ("r", "projection_prng_key", "vera_dropout", "d_initial", "init_weights", *_LAYERS),
    ),
    "ia3": AdapterKind("IA3Config", "ia3_", ("feedforward_modules", "init_ia3_weights")),
    "oft": AdapterKind(
        "OFTConfig", "oft_",
        ("r", "oft_block_size", "module_dropout", "init_weights", "coft", "eps", "block_share", "use_cayley_neumann",
         "num_cayley_neumann_terms", *_LAYERS),
    ),
}  # fmt: skip
"""``adapter.kind``, which is peft's ``peft_type`` in lower case -> method"""

_LARGEST = {"num_cayley_neumann_terms": 100}  # each is a product of matrices in every forward pass
_SIZES = ("r", "alpha", "lora_alpha")
_NOT_SUPPORTED = {"adalora": "; adalora would have to update its ranks in every step of the training loop"}
PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Values of ``init_lora_weights``; the others change base weights, or need data."""
_IDENTITY = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
             "inference_mode", "target_modules", "exclude_modules", "modules_to_save"}  # fmt: skip
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_LONGEST_NAME, _MOST_NAMES = 1_000, 100_000
_OWN_CODE = ("transformers", "lalm_mer")


def check_options(name: str, options: Mapping[str, Any]) -> AdapterKind:
    """The kind of that name, if it is supported and has the options.

    Raises:
        ConfigError: naming the supported kinds, or the option and those of the kind

    Example:
        >>> try:
        ...     check_options("ia3", {"r": 8})
        ... except ConfigError as error:
        ...     print(error)
        argument 'options.r': not for ia3; expected feedforward_modules, init_ia3_weights
    """
    if name not in KINDS:
        raise ConfigError(f"argument 'kind': {name!r}; expected {', '.join(KINDS)}{_NOT_SUPPORTED.get(name, '')}")
    supported = [option for option in KINDS[name].options if option not in _LAYERS]
    for key in options:
        if key in _LAYERS:  # peft only uses them with ends of names as targets, and here modules have full names
            raise ConfigError(f"argument 'options.{key}': would have no effect; towers choose the adapted layers")
        if key not in supported:
            raise ConfigError(f"argument 'options.{key}': not for {name}; expected {', '.join(supported)}")
        if problem := _number_problem(KINDS[name], key, options[key]):
            raise ConfigError(f"argument 'options.{key}': {options[key]!r}; {problem}")
    start = options.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise ConfigError(
            f"argument 'options.init_lora_weights': {start!r}; expected true, false, gaussian or orthogonal"
        )
    return KINDS[name]


def _number_problem(kind: AdapterKind, key: str, value: Any) -> str | None:  # noqa: ANN401 any value
    """What is wrong with the value of an option that is a number or true or false; None if nothing is."""
    plain = getattr(kind.config(), key)
    if key == "init_lora_weights" or not isinstance(plain, bool | int | float):
        return None
    if isinstance(plain, bool):
        return None if isinstance(value, bool) else "expected true or false"
    allowed = (int, float) if isinstance(plain, float) else (int,)
    if not _is_number(value) or not isinstance(value, allowed):
        return f"expected a number such as {plain}"
    if key in _LARGEST and value > _LARGEST[key]:
        return f"expected {_LARGEST[key]} or less"
    return f"expected {min(plain, 1)} or more" if key in _SIZES and value < min(plain, 1) else None


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME and _MODULE.fullmatch(value) is not None


def _are_names(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_NAMES and all(map(_is_name, value))


def _are_numbers_by_name(value: object) -> bool:
    return isinstance(value, dict) and _are_names(list(value)) and all(map(_is_number, value.values()))


def _is_layer(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int) and 0 <= value < _MOST_NAMES


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _is_own_class(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    library = value.get("parent_library")
    return library is None or (_is_text(library) and library.split(".")[0] in _OWN_CODE)


_NAMES = (_are_names, "a list of module names, no regular expression")
_BY_NAME = (_are_numbers_by_name, "a number for each of its module names, no regular expression")
_TEXT = (_is_text, f"a text of at most {_LONGEST_NAME} characters")
_SAVED_VALUES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"), _NAMES),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), _BY_NAME),
    **dict.fromkeys(("base_model_name_or_path", "revision", "task_type", "peft_version"), _TEXT),
    "layers_pattern": (lambda value: _is_name(value) or _are_names(value), "a module name, no regular expression"),
    "layers_to_transform": (
        lambda value: all(map(_is_layer, value if isinstance(value, list) else [value])), "the numbers of layers"
    ),
    "inference_mode": (lambda value: isinstance(value, bool), "true or false"),
    "auto_mapping": (_is_own_class, "a model class of transformers: no other code is run"),
}  # fmt: skip
"""Key of a saved config -> its check, and what it expects; peft matches names of modules as regular expressions"""


def check_saved_config(content: Mapping[str, Any], where: Path | str) -> AdapterKind:
    """Check that an ``adapter_config.json`` has a supported kind and supported options.

    Args:
        content: content of the file
        where: name of the adapter, for the error

    Raises:
        AdapterError: if the kind or an option is not supported
    """
    file = f"{where}: adapter_config.json"
    kind = KINDS.get(str(content.get("peft_type")).lower())
    if kind is None:
        found, expected = shown(content.get("peft_type")), ", ".join(name.upper() for name in KINDS)
        raise AdapterError(f"{file} says peft_type {found}; expected {expected}")
    for key, (is_valid, expected) in _SAVED_VALUES.items():
        if content.get(key) is not None and not is_valid(content[key]):
            raise AdapterError(f"{file} says {key} {shown(content[key])}; expected {expected}")
    plain = json.loads(json.dumps(asdict(kind.config()), default=list))
    for key in sorted({field.name for field in fields(kind.config)} - _IDENTITY - set(kind.options)):
        if (content.get(key, plain[key]) or None) != (plain[key] or None):  # peft writes [] for None
            found = shown(content[key])
            raise AdapterError(f"{file} says {key} {found}; expected {plain[key]!r}: nothing else is loaded")
    for key in kind.options:
        if key in content and (problem := _number_problem(kind, key, content[key])):
            raise AdapterError(f"{file} says {key} {shown(content[key])}; {problem}")
    start = content.get("init_lora_weights", True)
    if not isinstance(start, bool | str) or start not in PLAIN_STARTS:
        raise AdapterError(
            f"{file} says init_lora_weights {shown(start)}, which changes the base weights; convert it to plain LoRA "
            "by peft's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    return kind
