"""QLoRA's base model: one tower, the language model or CLAP's text tower, in NF4 with double quantisation."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from lalm_mer.core.errors import ConfigError, ModelError

__all__ = ["NF4", "nf4_config", "require_quantised_alone"]

NF4 = "nf4"


def nf4_config(towers: Mapping[str, str], dtype: torch.dtype, quantised: str = "language_model") -> BitsAndBytesConfig:
    """What ``from_pretrained`` takes to load one tower in 4 bits.

    Args:
        towers: tower -> its full module path; bitsandbytes ignores shorter names and would quantise them
        dtype: of computation
        quantised: the tower

    Raises:
        ConfigError: if the extra ``quant`` is not installed

    References:
        Dettmers et al. 2023, QLoRA, NeurIPS.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("argument 'quantization': nf4 needs bitsandbytes; pip install 'lalm-mer[quant]'")
    kept = [path for tower, path in towers.items() if tower != quantised]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*kept, "lm_head"],
    )


def require_quantised_alone(
    model: nn.Module, towers: Mapping[str, str], name: str, quantised: str = "language_model"
) -> int:
    """Check where the 4-bit layers are, and keep them trainable through on a CPU.

    On a CPU with avx512_bf16, bitsandbytes packs the weights anew in the first forward in evaluation mode, and layers
    below get no gradient through them from then on; so that path is switched off.

    Args:
        model: as loaded
        towers: tower -> its module path
        name: of the family, for the error
        quantised: the tower that is to be in 4 bits

    Returns:
        how many layers are quantised

    Raises:
        ModelError: if one lies outside the tower, or there is none
    """
    import bitsandbytes

    layers: dict[str, Any] = {
        path: module for path, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    inside = f"{towers[quantised]}."
    stray = [path for path in layers if not path.startswith(inside)]
    if stray or not layers:
        found = f"{stray[0]} is quantised" if stray else "no layer is quantised"
        raise ModelError(f"{name}: {found}; expected only the linear layers of {towers[quantised]}")
    for module in layers.values():
        module.support_avx512bf16_for_cpu = False
    return len(layers)
