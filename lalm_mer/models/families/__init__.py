"""The families: one file per architecture, and one line here; each is imported at first use."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from packaging.version import Version

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from lalm_mer.models.families.base import Family

__all__ = [
    "CLAP", "COMPOSED_CLAP", "DUAL_ENCODERS", "FAMILIES", "NEEDED_TRANSFORMERS", "OTHER_FAMILIES", "OTHER_MODEL_TYPES",
    "REMOTE", "family_class", "is_supported", "model_names",
]  # fmt: skip

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
    "composed": "Composed",
}
"""Name of a family and of its file -> class in this file"""
NEEDED_TRANSFORMERS = dict.fromkeys(("musicflamingo", "gemma4", "gemma3n", "qwen2_5_omni", "qwen3_omni_moe"), "5.21")
"""Family -> the first transformers in which it works, if that is newer than the oldest one supported"""
OTHER_MODEL_TYPES = {"qwen2_5_omni_thinker": "qwen2_5_omni", "qwen3_omni_moe_thinker": "qwen3_omni_moe"}
"""``model_type`` of a config -> name of the family, if they differ"""
OTHER_FAMILIES = {"generic": "Generic"}
"""The family of all models without a file of their own"""
CLAP = "clap"
COMPOSED_CLAP = "composed_clap"
DUAL_ENCODERS = (CLAP, COMPOSED_CLAP)
"""Names of ``lalm_mer.models.clap`` and ``lalm_mer.models.composed_clap``, which are no audio-language models"""
REMOTE = "remote"
"""Name of ``lalm_mer.models.remote``: any model behind a server, whose weights are not here"""


def model_names() -> tuple[str, ...]:
    """Names of all classes in ``lalm_mer.models.registry``."""
    return (*FAMILIES, *OTHER_FAMILIES, *DUAL_ENCODERS, REMOTE)


def is_supported(name: str) -> bool:
    """Whether a family works with the installed transformers."""
    return Version(version("transformers")) >= Version(NEEDED_TRANSFORMERS.get(name, "0"))


def family_class(name: str) -> type[Family]:
    """The family of that name.

    Raises:
        ConfigError: if there is none
        ModelError: if the installed transformers does not have it
    """
    known = FAMILIES | OTHER_FAMILIES
    if name not in known:
        raise ConfigError(f"family {name!r}: expected one of {', '.join(model_names())}{did_you_mean(name, known)}")
    if not is_supported(name):
        raise ModelError(
            f"family {name} needs transformers {NEEDED_TRANSFORMERS[name]} or newer, found {version('transformers')}; "
            "pip install --upgrade transformers"
        )
    try:
        module = import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise ModelError(
            f"family {name}: {error}; a newer transformers has it: pip install --upgrade transformers"
        ) from error
    return cast("type[Family]", getattr(module, known[name]))
