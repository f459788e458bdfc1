"""The families: a file an architecture, and one line here; and ``generic``, for what has no file yet."""

from lalm_mer.core.errors import ConfigError
from lalm_mer.models.families.audioflamingo3 import AudioFlamingo3
from lalm_mer.models.families.base import Family
from lalm_mer.models.families.gemma3n import Gemma3n
from lalm_mer.models.families.gemma4 import Gemma4
from lalm_mer.models.families.generic import Generic
from lalm_mer.models.families.glmasr import GlmAsr
from lalm_mer.models.families.granite_speech import GraniteSpeech
from lalm_mer.models.families.musicflamingo import MusicFlamingo
from lalm_mer.models.families.phi4_multimodal import Phi4Multimodal
from lalm_mer.models.families.qwen2_5_omni import Qwen25Omni
from lalm_mer.models.families.qwen2_audio import Qwen2Audio
from lalm_mer.models.families.qwen3_asr import Qwen3Asr
from lalm_mer.models.families.qwen3_omni_moe import Qwen3OmniMoe
from lalm_mer.models.families.voxtral import Voxtral

__all__ = ["FAMILIES", "Generic", "family_class"]

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        Qwen2Audio,
        AudioFlamingo3,
        MusicFlamingo,
        GlmAsr,
        Qwen3Asr,
        GraniteSpeech,
        Phi4Multimodal,
        Gemma4,
        Gemma3n,
        Qwen25Omni,
        Qwen3OmniMoe,
        Voxtral,
    )
}


def family_class(name: str) -> type[Family]:
    """The family of that name.

    Raises:
        ConfigError: if there is none
    """
    known: dict[str, type[Family]] = {**FAMILIES, Generic.name: Generic}
    if name not in known:
        raise ConfigError(f"key 'model.family': unknown family {name!r}; expected one of {', '.join(known)}")
    return known[name]
