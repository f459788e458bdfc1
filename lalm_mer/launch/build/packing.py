"""Refusal of rows of several utterances, and of batches by tokens, where there are none."""

from __future__ import annotations

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.alignment import AlignSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings

__all__ = ["refuse_packing"]


def refuse_packing(
    settings: ZeroShotSettings | FinetuneSettings | BaselineSettings | AlignSettings, reason: str
) -> None:
    """Refuse rows of several utterances, and batches of a number of tokens.

    Raises:
        ConfigError: with the reason, if they are set
    """
    section = "scoring" if isinstance(settings, ZeroShotSettings) else "train"
    sizes = getattr(settings, section)
    if sizes.packing:
        raise ConfigError(f"key '{section}.packing': true, but {reason}; set it to false")
    if sizes.tokens_per_batch is not None:
        raise ConfigError(
            f"key '{section}.tokens_per_batch': {sizes.tokens_per_batch}, but {reason}; remove it, and set a batch size"
        )
