"""Conversion of LAION's CLAP checkpoints, ``.pt`` files of its package laion-clap, to folders for transformers.

The architecture is the same, the names differ. laion-clap itself is not needed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, ClapConfig, ClapModel, ClapProcessor

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.output import writing
from lalm_mer.models.loading import from_pretrained

__all__ = [
    "DERIVED_BUFFERS",
    "convert_laion_checkpoint",
    "read_laion_checkpoint",
    "transformers_names",
    "transformers_weights",
]

_UNUSED = (
    "text_branch.embeddings.position_ids",
    "text_transform.",
    "audio_transform.",
    "audio_branch.spectrogram_extractor.",
    "audio_branch.logmel_extractor.",
    "audio_branch.tscam_conv.",
    "audio_branch.head.",
)
"""Parts that embeddings do not depend on: LAION's second training loss, its front end, the classifier of HTS-AT"""
_MASK = re.compile(r"audio_branch\.layers\.\d+\.blocks\.\d+\.attn_mask")  # follows from the shape
_BLOCK = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.", ".attention.self."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
_PARTS = (
    ("text_branch.", "text_model."),
    ("audio_branch.bn0.", "audio_model.audio_encoder.batch_norm."),
    ("audio_branch.", "audio_model.audio_encoder."),
    ("text_projection.0.", "text_projection.linear1."),
    ("text_projection.2.", "text_projection.linear2."),
    ("audio_projection.0.", "audio_projection.linear1."),
    ("audio_projection.2.", "audio_projection.linear2."),
)
_ROBERTA_EPS = 1e-5  # of LAION's RoBERTa; the default of ClapTextConfig is 1e-12
DERIVED_BUFFERS = ("relative_position_index", "position_ids", "token_type_ids")
"""Last names of the buffers of a ClapModel that follow from its config"""


def transformers_names(name: str) -> tuple[str, ...]:
    """Names in transformers' ClapModel of a LAION weight: none, one, or three for queries, keys and values.

    They are those of transformers' ``models/clap/convert_clap_original_pytorch_to_hf.py``.

    Args:
        name: without the ``module.`` of a checkpoint that was trained on several devices

    Example:
        >>> transformers_names("audio_branch.layers.0.blocks.1.attn.proj.bias")
        ('audio_model.audio_encoder.layers.0.blocks.1.attention.output.dense.bias',)
        >>> transformers_names("audio_branch.head.bias")
        ()
    """
    if name.startswith(_UNUSED) or _MASK.fullmatch(name):
        return ()
    if name.startswith("audio_branch.layers.") and ".blocks." in name:
        for theirs, ours in _BLOCK:
            if theirs in name:
                name = name.replace(theirs, ours)
                break
    for theirs, ours in _PARTS:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    if ".qkv." in name:
        return tuple(name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
    return (name,)


def read_laion_checkpoint(path: Path) -> dict[str, Tensor]:
    """Weights of a ``.pt`` file under LAION's names; code in it is not run.

    Raises:
        ModelError: naming the file, if it is missing, contains more than weights and numbers, or no weights
    """
    try:
        with torch.serialization.safe_globals(_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: not a checkpoint that can be read as weights only: {one_line(error)}") from error
    weights: Any = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ModelError(f"{path}: no weights in it; expected a checkpoint of laion-clap, with 'state_dict'")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def transformers_weights(weights: Mapping[str, Tensor], config: ClapConfig, source: str) -> dict[str, Tensor]:
    """A complete state dict of ClapModel from LAION's weights.

    Args:
        weights: weights under LAION's names
        config: config of a model of the same architecture
        source: name of the weights in errors

    Raises:
        ModelError: naming the weights that are missing, unexpected or of another shape
    """
    found: dict[str, Tensor] = {}
    for theirs, value in weights.items():
        if ours := transformers_names(theirs):
            found |= zip(ours, value.chunk(len(ours)) if len(ours) > 1 else [value], strict=False)
    with torch.device("meta"):
        expected: dict[str, Tensor] = ClapModel(config).state_dict()
    own = {name for name in expected if name.endswith(DERIVED_BUFFERS)}
    missing = sorted(set(expected) - own - set(found))
    unexpected = sorted(set(found) - set(expected))
    shaped = [
        f"{name} is {list(found[name].shape)}, not {list(value.shape)}"
        for name, value in expected.items()
        if name in found and name not in own and found[name].shape != value.shape
    ]
    if missing or unexpected or shaped:
        raise ModelError(
            f"{source}: does not fit the given CLAP: {len(missing)} weights missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(shaped)} of another shape {shaped[:3]}; is the "
            "audio tower another (tiny, base), or one of them with fusion?"
        )
    return {name: value for name, value in found.items() if name not in own}


def convert_laion_checkpoint(checkpoint: Path, folder: Path, *, like: str, revision: str | None = None) -> None:
    """Write a LAION checkpoint as a folder that ``Clap.load`` takes, in safetensors.

    Args:
        checkpoint: LAION's ``.pt``
        folder: where to write
        like: Hub id or folder of a CLAP of the same architecture, whose config and processor are copied, for example
            laion/clap-htsat-unfused for 630k-audioset-best.pt
        revision: revision of ``like``

    Raises:
        ModelError: naming weights that do not fit, or a model that cannot be found
    """
    weights = read_laion_checkpoint(checkpoint)
    try:
        config = from_pretrained(AutoConfig, like, revision)
        processor = from_pretrained(ClapProcessor, like, revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"{like!r}: no config and processor of a CLAP: {one_line(error)}") from error
    if not isinstance(config, ClapConfig):
        raise ModelError(f"{like!r}: a {config.model_type}, not a CLAP")
    if hasattr(config, "randomly_initialised"):
        del config.randomly_initialised  # true of ``like`` only
    config.text_config.layer_norm_eps = _ROBERTA_EPS
    model = ClapModel(config)
    state = transformers_weights(weights, config, str(checkpoint))
    model.load_state_dict(state, strict=False)  # checked above; missing buffers follow from the config
    with writing(folder):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def _numbers() -> list[Any]:
    """Numpy's numbers, which checkpoints contain besides weights, under their names in numpy 1 and numpy 2."""
    scalar = np.float64(0.0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8"))]
