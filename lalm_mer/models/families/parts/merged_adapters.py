"""Adapters that belong to published weights: merged, so that a new adapter finds plain layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lalm_mer.core.errors import ModelError

__all__ = ["merge_adapters", "refuse_pickled"]


def refuse_pickled(folder: Path) -> None:
    """Refuse an adapter whose tensors are not safetensors; transformers would read a pickled one instead.

    Raises:
        ModelError: naming the folder
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: an adapter_config.json without adapter_model.safetensors; save it again as those")


def merge_adapters(model: nn.Module, name: str) -> int:
    """Merge every adapter that transformers has put into a model, and put the plain layers back.

    In half precision the sum is rounded to it, as in every merge.

    Args:
        model: a transformers model; changed in place
        name: of the family, for the error

    Returns:
        how many layers had one

    Raises:
        ModelError: if an adapter is there but empty, as after a change of tensor names, or a layer is quantised
    """
    adapted = [(path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    trained = [key for key, parameter in model.named_parameters() if ".lora_B." in key and bool(parameter.any())]
    if adapted and not trained:
        raise ModelError(
            f"{name}: the weights' own adapter came without its tensors; load it with another transformers"
        )
    for path, module in adapted:
        layer: Any = module
        if type(layer.get_base_layer()) is not nn.Linear:
            raise ModelError(
                f"{name}: the weights' own adapter cannot be merged into the quantised layer {path}; open the model "
                "without model.quantization, save it with save_pretrained, and name that folder as model.id"
            )
        layer.merge(safe_merge=True)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if adapted:
        merged: Any = model
        merged._hf_peft_config_loaded = False  # so transformers itself says that there is no adapter
        merged.peft_config = {}
        merged._weight_conversions = None  # of the adapter's tensor names: a saved copy would bear them
    return len(adapted)
