"""The tensors of a safetensors file, written anew: its header may contain more."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import AdapterError, one_line
from lalm_mer.sharing.public_record import is_module_path

__all__ = ["check_tensor_names", "copy_tensors"]


def check_tensor_names(file: Path) -> list[str]:
    """Names of the tensors, which are pushed, of weights without metadata of their own.

    Raises:
        AdapterError: if the file is not safetensors, has metadata besides ``format``, or a name that is no path of a
            parameter
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata, found = opened.metadata() or {}, list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file}: is not safetensors ({one_line(error)})") from error
    if metadata.keys() - {"format"}:
        raise AdapterError(f"{file}: has metadata {sorted(metadata)}; expected only format")
    for name in found:
        if not is_module_path(name):
            raise AdapterError(f"{file}: has a tensor {name!r}; expected the path of a parameter")
    return found


def copy_tensors(file: Path, out: Path) -> None:
    """Write the tensors of a file to another one, with the metadata ``format`` alone.

    Raises:
        AdapterError: if a tensor is not finite
    """
    tensors = load_file(file)
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise AdapterError(f"{file}: tensor {name} has values that are not finite; its training diverged")
    save_file(tensors, out, metadata={"format": "pt"})
