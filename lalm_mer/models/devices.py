"""What a GPU cannot compute itself."""

from __future__ import annotations

import torch

__all__ = ["gpu_before_ampere"]

_AMPERE = (8, 0)


def gpu_before_ampere(device: torch.device) -> str | None:
    """Name and compute capability of an NVIDIA GPU below 8.0, such as a T4; None for every other device.

    Such a GPU has no bfloat16: torch emulates it, slowly, and ``torch.cuda.is_bf16_supported()`` is true all the same.
    It has no FlashAttention 2 either.
    """
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} ({major}.{minor})" if (major, minor) < _AMPERE else None
