"""QLoRA's base model: one tower, the language model or CLAP's text tower, in NF4 with double quantisation."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.extras import install_extra

__all__ = ["NF4", "nf4_config", "quantise_in_memory", "require_quantised"]

NF4 = "nf4"


def nf4_config(towers: Mapping[str, str], dtype: torch.dtype, tower: str) -> BitsAndBytesConfig:
    """``quantization_config`` of ``from_pretrained`` for one tower in 4 bits.

    Args:
        towers: tower -> its full module path; bitsandbytes ignores shorter names and would quantise them
        dtype: data type of computation
        tower: the tower to quantise

    Raises:
        ConfigError: if the extra ``quant`` is not installed

    References:
        Dettmers et al. 2023, QLoRA, NeurIPS.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"argument 'quantization': nf4 needs bitsandbytes; {install_extra('quant')}")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*(path for name, path in towers.items() if name != tower), "lm_head"],
    )


def quantise_in_memory(model: nn.Module, config: BitsAndBytesConfig) -> None:
    """Quantise the linear layers of a model that is in memory, as transformers does while it loads weights.

    Args:
        model: the model on its device
        config: result of ``nf4_config``, which names the modules that are not quantised
    """
    import bitsandbytes

    skipped = [f"{path}." for path in config.llm_int8_skip_modules]
    chosen = [
        (path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not f"{path}.".startswith(tuple(skipped))
    ]
    for path, layer in chosen:
        quantised = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            config.bnb_4bit_compute_dtype,
            config.bnb_4bit_use_double_quant,
            NF4,
            device="meta",
        )
        weight = layer.weight.detach()
        quantised.weight = bitsandbytes.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=config.bnb_4bit_use_double_quant, quant_type=NF4
        )
        quantised.bias = layer.bias
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, quantised.to(weight.device))  # the move quantises
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft reads it


def require_quantised(model: nn.Module, path: str, name: str) -> None:
    """Check that the 4-bit layers are in one tower, and keep gradients through them on a CPU.

    On a CPU with avx512_bf16, bitsandbytes repacks the weights in the first forward in evaluation mode, and layers
    below get no gradient from then on; so that path is switched off.

    Args:
        model: the loaded model
        path: module path of the quantised tower
        name: name of the family, for the error

    Raises:
        ModelError: if a 4-bit layer is outside the tower, or there is none
    """
    import bitsandbytes

    layers: dict[str, Any] = {
        layer: module for layer, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    outside = [layer for layer in layers if not layer.startswith(f"{path}.")]
    if outside or not layers:
        found = f"{outside[0]} is quantised" if outside else "no layer is quantised"
        raise ModelError(f"{name}: {found}; expected only the linear layers of {path}")
    for module in layers.values():
        module.support_avx512bf16_for_cpu = False
