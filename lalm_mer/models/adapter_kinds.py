"""Supported methods of peft, their options, and the check of a saved adapter's config.

A method is supported if it works on linear layers listed by name, is merged and saved without loss, and needs nothing
from the training loop. Options that train other modules, change the base weights, import code or fetch data are not
supported, and an adapter with one of them is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalm_mer.core.errors import AdapterError, ConfigError

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = ["KINDS", "AdapterKind", "check_options", "check_saved_config"]


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

_SIZES = ("r", "alpha", "lora_alpha")
_NOT_SUPPORTED = {"adalora": "; adalora would have to update its ranks in every step of the training loop"}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")  # the others change base weights, or need data
_IDENTITY = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
             "inference_mode", "target_modules", "exclude_modules", "modules_to_save"}  # fmt: skip
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
        _check_number(name, key, options[key])
    start = options.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ConfigError(
            f"argument 'options.init_lora_weights': {start!r}; expected true, false, gaussian or orthogonal"
        )
    return KINDS[name]


def _check_number(name: str, key: str, value: Any) -> None:  # noqa: ANN401 any value
    plain = getattr(KINDS[name].config(), key)
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        return
    where = f"argument 'options.{key}': {value!r}"
    allowed = (int, float) if isinstance(plain, float) else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ConfigError(f"{where}; expected a number such as {plain}")
    if key in _SIZES and value < min(plain, 1):
        raise ConfigError(f"{where}; expected {min(plain, 1)} or more")


def check_saved_config(content: Any, where: Path | str) -> AdapterKind:  # noqa: ANN401 any JSON
    """Check that an ``adapter_config.json`` has a supported kind and supported options.

    Args:
        content: content of the file
        where: name of the adapter, for the error

    Raises:
        AdapterError: if the kind or an option is not supported
    """
    file = f"{where}: adapter_config.json"
    if not isinstance(content, dict):
        raise AdapterError(f"{file} contains a {type(content).__name__}; expected a mapping")
    kind = KINDS.get(str(content.get("peft_type")).lower())
    if kind is None:
        raise AdapterError(
            f"{file} says peft_type {content.get('peft_type')!r}; expected {', '.join(name.upper() for name in KINDS)}"
        )
    copies = content.get("modules_to_save") or []
    if not isinstance(copies, list) or not all(isinstance(path, str) and path for path in copies):
        raise AdapterError(f"{file} says modules_to_save {copies!r}; expected a list of module paths")
    library = (content.get("auto_mapping") or {}).get("parent_library") or _OWN_CODE[0]
    if str(library).split(".")[0] not in _OWN_CODE:
        raise AdapterError(
            f"{file} says auto_mapping {library!r}; expected a model class of transformers: no other code is run"
        )
    plain = json.loads(json.dumps(asdict(kind.config()), default=list))
    for key in sorted({field.name for field in fields(kind.config)} - _IDENTITY - set(kind.options)):
        if (content.get(key, plain[key]) or None) != (plain[key] or None):  # peft writes [] for None
            raise AdapterError(f"{file} says {key} {content[key]!r}; expected {plain[key]!r}: nothing else is loaded")
    start = content.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise AdapterError(
            f"{file} says init_lora_weights {start!r}, which changes the base weights; convert it to plain LoRA by "
            "peft's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    return kind
