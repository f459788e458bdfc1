"""Every load from the folder or repository of a model: no code runs, no pickle is read, no adapter is added.

The weights are those of the folder: an index that names files elsewhere is refused, since ``base_digest`` does not
cover these.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import cached_file, find_adapter_config_file

from lalm_mer.core.errors import ModelError, PredictionError, one_line, shown
from lalm_mer.core.strict_json import read_object
from lalm_mer.models.hub_connection import require_hub

__all__ = ["WEIGHTS", "find_file", "from_pretrained", "load_weights"]

WEIGHTS: ContextVar[Callable[..., Any] | None] = ContextVar("WEIGHTS", default=None)
"""Makes a model instead of its files, from class, source, revision and options; ``models.from_config`` sets it"""
_SETTINGS = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
             "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # fmt: skip
_INDEX = "model.safetensors.index.json"
_NO_FOLDER = "no-adapter"  # where transformers finds none
# of transformers and of the constructors of its classes, for files with values of the wrong type or size
_FAILURES = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ImportError, ArithmeticError, AssertionError,
    RuntimeError, SafetensorError, StrictDataclassError,
)  # fmt: skip


def from_pretrained(kind: Any, source: str | Path, revision: str | None = None, **options: Any) -> Any:  # noqa: ANN401
    """``kind.from_pretrained`` with ``trust_remote_code=False``, so that no code runs and no question is printed.

    Args:
        kind: a class of transformers: config, tokenizer, processor or model
        source: Hub id or folder
        revision: branch, tag or commit on the Hub
        options: other arguments of ``from_pretrained``

    Raises:
        ModelError: if a JSON file of a folder contains no object, or names weights outside the folder; or if the Hub
            cannot be reached, and the model is not in its cache
        ValueError: if transformers cannot load it, with the reason on one line
    """
    require_hub(str(source), "config.json", revision)
    if Path(source).is_dir():
        _check_folder(Path(source))
    try:
        return kind.from_pretrained(str(source), revision=revision, trust_remote_code=False, **options)
    except ModelError:
        raise
    except _FAILURES as error:
        if "trust_remote_code" in str(error):
            raise ValueError("it needs code of its own (auto_map in its files), which is never run") from error
        raise ValueError(one_line(error)) from error


def load_weights(
    kind: Any,  # noqa: ANN401 a class of transformers
    source: str | Path,
    revision: str | None = None,
    *,
    with_adapter: bool = False,
    **options: Any,  # noqa: ANN401 of transformers
) -> Any:  # noqa: ANN401 a model of transformers, or with ``output_loading_info`` a pair
    """Load a model from safetensors, without any adapter.

    Args:
        kind: its class
        source: Hub id or folder
        revision: branch, tag or commit on the Hub
        with_adapter: whether an adapter is published with these weights; it is not loaded here
        options: other arguments of ``from_pretrained``

    Raises:
        ModelError: if there is an adapter where none is published, or no ``model_type`` in the config
        ValueError: as ``from_pretrained``
    """
    require_hub(str(source), "config.json", revision)
    config = Path(source) / "config.json"
    if config.is_file() and not isinstance(_read(config).get("model_type"), str):  # its defaults are large models
        raise ModelError(f"{config}: has no model_type; expected the config of a model of transformers")
    if (build := WEIGHTS.get()) is not None:
        return build(kind, str(source), revision, options)
    if with_adapter:  # transformers would load it, and the base weights that it names
        options["adapter_kwargs"] = {"subfolder": _NO_FOLDER}
    elif find_adapter_config_file(str(source), revision=revision) is not None:
        raise ModelError(
            f"model {str(source)!r}: has adapter_config.json, an adapter that would change the weights silently; "
            "expected a base model: name an adapter with model.adapter, or merge it with recipes/merge_adapter.py"
        )
    return from_pretrained(kind, source, revision, use_safetensors=True, **options)


def find_file(source: str, name: str, revision: str | None = None, *, subfolder: str = "") -> Path | None:
    """A file of a folder, or of a repository, which is then downloaded; None if there is none.

    Raises:
        OSError: if there is no such repository, or it cannot be reached
    """
    require_hub(source, "config.json", revision)
    found = cached_file(
        source, name, revision=revision, subfolder=subfolder, _raise_exceptions_for_missing_entries=False
    )
    return None if found is None else Path(found)


def _check_folder(folder: Path) -> None:
    """Refuse JSON files without an object, on which transformers would fail, and weights outside the folder."""
    content = {name: _read(folder / name) for name in (*_SETTINGS, _INDEX) if (folder / name).is_file()}
    named: list[object] = []
    if (explicit := content.get("config.json", {}).get("transformers_weights")) is not None:
        named.append(explicit)
    if _INDEX in content:
        shards = content[_INDEX].get("weight_map")
        named += shards.values() if isinstance(shards, dict) else [shards]
    for name in named:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise ModelError(f"{folder}: takes weights from {shown(name)}; expected the name of a file in this folder")


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except PredictionError as error:
        raise ModelError(str(error)) from error
