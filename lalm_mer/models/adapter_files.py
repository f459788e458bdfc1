"""Check of an adapter's folder: weights in safetensors, and a config with supported options only.

Such a folder may come from anyone: peft would read a pickle, import a module that the config names, or follow a link.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lalm_mer.core.errors import AdapterError, PredictionError, one_line, shown
from lalm_mer.core.paths import is_within
from lalm_mer.core.strict_json import read_object
from lalm_mer.models.adapter_kinds import check_saved_config

__all__ = ["CONFIG", "WEIGHTS", "check_adapter_folder", "read_json"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_OTHER_FILES = ("run.json", "labels.json", "prompt.yaml")
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "megatron_config")  # keys that name code


def check_adapter_folder(
    folder: Path,
    *,
    named: str | None = None,
    root: Path | None = None,
    towers: Collection[str] | None = None,
    targets_of_tensors: bool = False,
) -> dict[str, Any]:
    """Refuse a folder that contains anything but an adapter of a supported kind without code.

    Complete modules are accepted only if the config names them in ``modules_to_save``.

    Args:
        folder: a folder written by peft
        named: name of the folder in errors; None for its path
        root: folder that no link may leave, except those of the Hub's cache from a snapshot to its blobs; None for no
            check of links: a download only has those of the cache
        towers: module paths of the base model's towers, the only modules that may be saved completely; None to leave
            that check to ``load_adapter``
        targets_of_tensors: whether a regular expression in ``target_modules`` is replaced by the modules of the tensors

    Returns:
        content of ``adapter_config.json``

    Raises:
        AdapterError: naming file and key
    """
    where = named or str(folder)
    for name in (CONFIG, WEIGHTS, *_OTHER_FILES):
        path = folder / name
        if root is not None and not is_within(path, root):
            raise AdapterError(f"{where}: {name} is a link that leads out of the folder; put the file itself there")
        if name not in _OTHER_FILES and not path.is_file():
            raise AdapterError(f"{where}: no {name}; expected an adapter saved by peft, in safetensors and not pickled")
    config = read_json(folder / CONFIG)
    if targets_of_tensors and isinstance(config.get("target_modules"), str):
        config["target_modules"] = _adapted_modules(where, folder / WEIGHTS)
    code = [key for key in _CODE if config.get(key) not in (None, False)]
    if code:
        raise AdapterError(
            f"{where}: {CONFIG}, key {code[0]!r}: names code to run; only adapters without code are loaded, "
            "remove the key if the weights do not need it"
        )
    kind = check_saved_config(config, where)
    complete = config.get("modules_to_save") or []
    unexpected = [module for module in complete if towers is not None and module not in towers]
    if unexpected:
        raise AdapterError(
            f"{where}: {CONFIG}, key 'modules_to_save': {unexpected[0]!r} would replace a part of the base model; "
            f"expected an adapter, or complete towers: {', '.join(sorted(towers or ()))}"
        )
    largest = _check_weights(where, folder / WEIGHTS, kind.prefix, complete)
    for key, size in _sizes(config):
        if size > largest + 1:  # peft would create it before it reads the weights
            raise AdapterError(f"{where}: {CONFIG}, key {key!r}: {size}; the largest tensor has only {largest}")
    return config


def _sizes(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The sizes of tensors in a config; r of LoKr is only an upper limit."""
    if config["peft_type"].lower() == "lokr":
        return []
    patterns = (config.get("rank_pattern") or {}).values()
    sizes = [(key, config.get(key) or 0) for key in ("r", "oft_block_size")]
    return [*sizes, *(("rank_pattern", size) for size in patterns)]


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file of an adapter.

    Raises:
        AdapterError: as ``core.strict_json.read_object``
    """
    try:
        return read_object(file)
    except PredictionError as error:
        raise AdapterError(str(error)) from error


def _check_weights(where: str, file: Path, prefix: str, complete: Collection[str]) -> int:
    """Accept tensors of the adapter and of modules that the config lists as saved completely; the largest dimension."""
    shapes = _tensor_shapes(where, file)
    names = list(shapes)
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    declared = tuple(f"base_model.model.{module}." for module in complete)
    unexpected = [name for name in names if f".{prefix}" not in name and not name.startswith(declared)]
    if unexpected or not names:
        found = shown(unexpected[0], 200) if unexpected else "nothing"
        raise AdapterError(f"{where}: {WEIGHTS} contains {found}; expected only what its config names")
    return largest


def _tensor_shapes(where: str, file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            return {name: opened.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{where}: {WEIGHTS} is not safetensors ({one_line(error)})") from error


def _adapted_modules(where: str, file: Path) -> list[str]:
    """The modules that have tensors of LoRA, by their full names."""
    names = (name.removeprefix("base_model.model.").partition(".lora_")[0] for name in _tensor_shapes(where, file))
    return sorted(set(names))
