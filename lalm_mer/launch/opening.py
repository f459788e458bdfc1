"""Which builder a run needs: what ``model.family`` names is an audio-language model or a CLAP."""

from __future__ import annotations

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.clap import open_clap_run
from lalm_mer.launch.language import AdaptableRun, open_language_run
from lalm_mer.launch.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.clap import Clap

__all__ = ["open_model_run"]


def open_model_run(settings: ZeroShotSettings | FinetuneSettings) -> AdaptableRun:
    """Load data, prompt and model.

    Raises:
        ConfigError: if the settings do not fit the model or the corpus
    """
    if settings.model.dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"key 'model.dtype': {settings.model.dtype!r}; expected float32, bfloat16 or float16")
    if settings.model.family == Clap.name:
        return open_clap_run(settings)
    return open_language_run(settings)
