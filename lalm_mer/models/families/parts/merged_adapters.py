"""Adapters that are part of published weights: merged, so that a new adapter finds plain layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lalm_mer.core.errors import ModelError

__all__ = ["merge_adapters", "refuse_pickled"]


def refuse_pickled(folder: Path) -> None:
    """Refuse an adapter without safetensors: transformers would read a pickled one.

    Raises:
        ModelError: naming the folder
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: an adapter_config.json without adapter_model.safetensors; save it in that format")


def merge_adapters(model: Any, name: str) -> None:  # noqa: ANN401 transformers' own
    """Merge every adapter that transformers has added to a model, and restore the plain layers.

    In half precision the sum is rounded, as in every merge.

    Args:
        model: a transformers model; changed in place
        name: name of the family, for the error

    Raises:
        ModelError: if an adapter is empty, as after a change of tensor names, or a layer is quantised
    """
    adapted = [(path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    trained = [key for key, parameter in model.named_parameters() if ".lora_B." in key and bool(parameter.any())]
    if adapted and not trained:
        raise ModelError(
            f"{name}: the adapter of the weights has no tensors in this model; load it with another transformers"
        )
    for path, layer in adapted:
        if type(layer.get_base_layer()) is not nn.Linear:
            raise ModelError(
                f"{name}: the adapter of the weights cannot be merged into the quantised layer {path}; open the model "
                "without model.quantization, save it with save_pretrained, and name that folder as model.id"
            )
        layer.merge(safe_merge=True)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if adapted:
        model._hf_peft_config_loaded = False  # so that transformers finds no adapter
        model.peft_config = {}
        model._weight_conversions = None  # those of the adapter would rename the tensors of a saved copy
