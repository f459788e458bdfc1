"""The families: a file an architecture, and one line here; none is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models.families.base import Family

__all__ = ["FAMILIES", "OTHER_FAMILIES", "family_class"]

FAMILIES = {
    "qwen2_audio": "Qwen2Audio",
    "audioflamingo3": "AudioFlamingo3",
    "musicflamingo": "MusicFlamingo",
    "glmasr": "GlmAsr",
    "qwen3_asr": "Qwen3Asr",
    "granite_speech": "GraniteSpeech",
    "phi4_multimodal": "Phi4Multimodal",
    "gemma4": "Gemma4",
    "gemma3n": "Gemma3n",
    "qwen2_5_omni": "Qwen25Omni",
    "qwen3_omni_moe": "Qwen3OmniMoe",
    "voxtral": "Voxtral",
}
"""Name of a family, which is that of its file here -> the class in it"""
OTHER_FAMILIES = {"generic": "Generic"}
"""The family of all models that have none of their own."""


def family_class(name: str) -> type[Family]:
    """The family of that name.

    Raises:
        ConfigError: if there is none
        ModelError: if the transformers that is installed does not have it
    """
    known = {**FAMILIES, **OTHER_FAMILIES}
    if name not in known:
        every = ", ".join((*known, "clap"))  # which is a recognizer beside the families
        raise ConfigError(f"key 'model.family': unknown family {name!r}; expected one of {every}")
    try:
        module = import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise ModelError(
            f"family {name}: {error}; a newer transformers has it: pip install --upgrade transformers"
        ) from error
    return cast("type[Family]", getattr(module, known[name]))
