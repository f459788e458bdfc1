"""Refusal of rows of several utterances where there are none."""

from __future__ import annotations

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings

__all__ = ["refuse_packing"]


def refuse_packing(settings: ZeroShotSettings | FinetuneSettings | BaselineSettings, reason: str) -> None:
    """Refuse rows of several utterances.

    Raises:
        ConfigError: with the reason, if they are set
    """
    section = "scoring" if isinstance(settings, ZeroShotSettings) else "train"
    if getattr(settings, section).packing:
        raise ConfigError(f"key '{section}.packing': true, but {reason}; set it to false")
