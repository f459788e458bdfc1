"""Adapters that are part of published weights: merged, so that a new adapter finds plain layers."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn

from lalm_mer.core.errors import AdapterError, ModelError, one_line
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, check_adapter_folder
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.loading import find_file

__all__ = ["merge_adapters", "merge_published"]


def merge_published(
    model: Any,  # noqa: ANN401 transformers' own
    name: str,
    source: str,
    revision: str | None,
    *,
    subfolder: str = "",
    **options: Any,  # noqa: ANN401 of transformers
) -> bool:
    """Merge the LoRA adapter that is published with the weights, if there is one.

    It is checked like any other adapter, and the layers are those that its config lists, or those of its tensors if the
    config has a regular expression, which is not evaluated.

    Args:
        model: a transformers model; changed in place
        name: name of the family, for errors
        source: Hub id or folder of the weights
        revision: branch, tag or commit on the Hub
        subfolder: folder of the adapter; empty if it is in the folder of the weights
        options: further arguments of ``load_adapter`` of transformers

    Returns:
        whether there is one

    Raises:
        ModelError: naming the adapter, if it is malformed, empty, pickled, or of another model
    """
    where = "/".join(filter(None, (source, subfolder)))
    try:
        config_file = find_file(source, CONFIG, revision, subfolder=subfolder)
        if config_file is None:
            return False
        find_file(source, WEIGHTS, revision, subfolder=subfolder)  # to download it
        checked = check_adapter_folder(config_file.parent, named=where, towers=(), targets_of_tensors=True)
        if checked["peft_type"] != "LORA":
            raise AdapterError(f"{where}: {CONFIG} says peft_type {checked['peft_type']!r}; expected 'LORA'")
        kept = (*KINDS["lora"].options, "target_modules", "exclude_modules")
        config = KINDS["lora"].config(**{key: checked[key] for key in kept if key in checked})
        model.load_adapter(str(config_file.parent), peft_config=config, **options)
    except (AdapterError, OSError) as error:
        raise ModelError(str(error)) from error
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{where}: the adapter of the weights does not fit {name}: {one_line(error)}") from error
    merge_adapters(model, name)
    return True


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
