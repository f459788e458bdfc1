"""A model behind a server that speaks OpenAI's chat API (vLLM, SGLang, hosted models); its weights are not here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from lalm_mer.core.errors import ConfigError
from lalm_mer.models.chat_client import ChatClient
from lalm_mer.models.families import REMOTE
from lalm_mer.models.families.base import SPEECH_CORPORA, Family
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.prompting.prompts import Prompt, load_prompt

__all__ = ["Remote"]

_UNKNOWN = "It is not known what the server's model was trained on, so that no corpus can be ruled out; see its card."


class Remote(PretrainedModel):
    """A served model: the declarations of a pretrained one, and a client in place of weights and processor.

    Args:
        client: of its server
        sampling_rate: rate of the audio that is sent, in Hz
        longest_audio_s: longest audio that is sent, in seconds
    """

    name = REMOTE
    published: ClassVar[Sequence[str]] = ()
    licence = "the served model's own"
    contamination: ClassVar[Mapping[str, str]] = dict.fromkeys(SPEECH_CORPORA, _UNKNOWN)
    towers: ClassVar[Mapping[str, str]] = {}
    quantised_tower = None
    adapter_targets: ClassVar[Mapping[str, Sequence[str]]] = {}
    fsdp_layers: ClassVar[Sequence[str]] = ()
    single_turn_reason: ClassVar[str | None] = None
    sampling_rate: int = 0
    randomly_initialised: bool = False

    def __init__(self, client: ChatClient, *, sampling_rate: int, longest_audio_s: float) -> None:
        self.client = client
        self.sampling_rate = sampling_rate
        self.longest_audio_s = longest_audio_s

    @classmethod
    def default_prompt(cls, modalities: str) -> str:
        """The prompt for these modalities, the same as for a family."""
        return Family.default_prompt(modalities)

    @classmethod
    def load_prompt(cls, path: Path) -> Prompt:
        """Read a prompt."""
        return load_prompt(path)

    @classmethod
    def require_installed(cls) -> NoReturn:
        """Refuse to build a tiny model.

        Raises:
            ConfigError: always
        """
        raise ConfigError(f"family {cls.name} is a model behind a server and has no architecture; name another family")

    def refuses(self, duration_s: float) -> str | None:
        """Why no audio of this duration, in seconds, is sent; None if it is."""
        if duration_s > self.longest_audio_s:
            return f"{duration_s:.2f} s long; remote.longest_audio_s is {self.longest_audio_s:g}"
        return None
