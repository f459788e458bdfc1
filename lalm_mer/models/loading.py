"""Every load from the folder or repository of a model: no code runs, no pickle is read, no adapter is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import find_adapter_config_file

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.models.hub_connection import require_hub

__all__ = ["from_pretrained", "load_weights"]


def from_pretrained(kind: Any, source: str | Path, revision: str | None = None, **options: Any) -> Any:  # noqa: ANN401
    """``kind.from_pretrained`` with ``trust_remote_code=False``, so that transformers neither runs code nor asks to.

    Args:
        kind: a class of transformers: config, tokenizer, processor or model
        source: Hub id or folder
        revision: branch, tag or commit on the Hub
        options: other arguments of ``from_pretrained``

    Raises:
        ModelError: if the Hub cannot be reached, and the model is not in its cache
    """
    require_hub(str(source), "config.json", revision)
    return kind.from_pretrained(str(source), revision=revision, trust_remote_code=False, **options)


def load_weights(
    kind: Any,  # noqa: ANN401 a class of transformers
    source: str | Path,
    revision: str | None = None,
    *,
    with_adapter: bool = False,
    **options: Any,  # noqa: ANN401 of transformers
) -> Any:  # noqa: ANN401 a model of transformers, or with ``output_loading_info`` a pair
    """Load a model from safetensors.

    Args:
        kind: its class
        source: Hub id or folder
        revision: branch, tag or commit on the Hub
        with_adapter: whether an adapter is published with these weights, which transformers then loads too
        options: other arguments of ``from_pretrained``

    Raises:
        ModelError: if there is an adapter where none is published, or one for other base weights
    """
    require_hub(str(source), "config.json", revision)
    _check_adapter(str(source), revision, with_adapter)
    return from_pretrained(kind, source, revision, use_safetensors=True, **options)


def _check_adapter(source: str, revision: str | None, expected: bool) -> None:
    """Refuse an adapter that transformers would load silently, and base weights from elsewhere that it names."""
    found = find_adapter_config_file(source, revision=revision)
    if found is None:
        return
    if not expected:
        raise ModelError(
            f"model {source!r}: has adapter_config.json, an adapter that would change the weights silently; expected "
            "a base model: name an adapter with model.adapter, or merge it with recipes/merge_adapter.py"
        )
    if Path(source).is_dir():  # transformers then loads the base weights of this folder
        return
    try:
        base = json.loads(Path(found).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"model {source!r}: adapter_config.json cannot be read ({one_line(error)})") from error
    if base != source:
        raise ModelError(
            f"model {source!r}: its adapter_config.json takes the base weights from {base!r}; expected {source!r}: "
            "download the repository, and name its folder as model.id"
        )
