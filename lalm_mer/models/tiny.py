"""Tiny models of the real architectures with random weights and processors, without a download, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.output import writing
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.models.registry import model_class

__all__ = ["build_tiny"]


def build_tiny(
    family: str,
    folder: Path,
    *,
    words: Iterable[str],
    window_s: int,
    hidden_size: int = 128,
    layers: int = 2,
    vocabulary: int = 600,
    initializer_range: float = 0.02,
    seed: int = 0,
) -> None:
    """Build a randomly initialised model of a family and save it with its processor, as ``from_pretrained`` expects.

    Args:
        family: name of the family, or of a dual encoder
        folder: where to write
        words, window_s, hidden_size, layers, vocabulary, initializer_range: see ``TinyShape``
        seed: seed of the weights

    Raises:
        ConfigError: if there is no such family, or no tiny model of it can be built, with the reason
    """
    shape = TinyShape(tuple(words), window_s, hidden_size, layers, vocabulary, initializer_range)
    built = model_class(family)
    built.require_installed()
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        with writing(folder):
            built.build_tiny(folder, shape)
    except ValueError as error:  # of transformers, about sizes that do not fit
        raise ConfigError(
            f"a tiny {family} of hidden_size={hidden_size}, layers={layers} cannot be built: {error}; see a YAML of "
            "recipes/demo for sizes that fit"
        ) from error
    finally:
        torch.set_rng_state(state)
