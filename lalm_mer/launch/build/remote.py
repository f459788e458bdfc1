"""Builder of recognizers whose model is on a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

from peft import PeftModel

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import FIRST_TOKEN, GENERATION
from lalm_mer.core.schema import Example
from lalm_mer.core.settings import naming_keys, settings_of
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.packing import refuse_packing
from lalm_mer.launch.build.prompts import open_prompts, take_shots
from lalm_mer.launch.config.sections import ModelSettings
from lalm_mer.launch.config.server import ParitySettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.chat_client import ChatClient, ServerAddress, read_key
from lalm_mer.models.families import DUAL_ENCODERS, REMOTE
from lalm_mer.models.remote import Remote
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.remote.messages import without_names
from lalm_mer.recognizers.remote.recognizer import RemoteRecognizer

__all__ = ["SERVED_ADAPTERS", "RemoteBuilder"]

SERVED_ADAPTERS = "lora"
"""The method of every adapter that vLLM and SGLang serve by name"""


class RemoteBuilder:
    """Makes the parts of a run of a served model, with the methods of ``LanguageBuilder``; none contacts the server."""

    def prompts(self, settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> PromptSetup:
        """The prompts, without answered examples.

        Raises:
            ConfigError: if settings and prompts do not fit, or a prompt would send the name of a speaker
        """
        if isinstance(settings, FinetuneSettings):
            raise ConfigError(
                "key 'model.family': remote; a model on a server is not trained; choose the family itself"
            )
        setup = open_prompts(settings, label_set)
        refuse_packing(settings, "a server makes the batches")
        _check_model(settings.model)
        _check_parity(settings)
        if setup.uses("speaker"):
            raise ConfigError(
                f"key 'prompt.file': {settings.prompt.file} has the slot {{{{ speaker }}}}, but names of speakers are "
                "not sent to a server; choose a prompt without it"
            )
        if settings.remote.label_scores == FIRST_TOKEN and setup.label_score == "mean":
            raise ConfigError("key 'prompt.label_score': mean, but remote.label_scores=first_token scores one token")
        return setup

    def load(self, settings: ModelSettings) -> NoReturn:
        """Refuse what needs the weights.

        Raises:
            ConfigError: always
        """
        raise ConfigError("family remote: a model on a server is only used by recipes/zero_shot.py")

    def load_remote(self, settings: ZeroShotSettings | FinetuneSettings) -> Remote:
        """The client of the server; nothing is sent.

        Raises:
            ConfigError: if openai is not installed, or there is no key
        """
        if isinstance(settings, FinetuneSettings):
            self.load(settings.model)
        model, remote = settings.model, settings.remote
        with naming_keys("model"):
            address = ServerAddress.parse(model.url or "")
        with naming_keys("remote"):
            key = read_key(remote.api_key_env)
        client = ChatClient(
            address,
            model=model.adapter or model.id,
            api_key=key,
            timeout_s=remote.timeout_s,
            max_retries=remote.max_retries,
        )
        return Remote(client, sampling_rate=remote.sampling_rate, longest_audio_s=remote.longest_audio_s)

    def check(self, remote: Remote, settings: ZeroShotSettings | FinetuneSettings) -> None:
        """Nothing depends on the model."""

    def with_shots(
        self, setup: PromptSetup, data: RunData, remote: Remote, settings: ZeroShotSettings | FinetuneSettings
    ) -> tuple[PromptSetup, RunData]:
        """The prompts with their answered examples, without names of speakers; the examples are removed from train.

        Raises:
            ConfigError: if train has too few
        """
        setup, data = take_shots(setup, data, settings.prompt, cast(Any, remote), settings.seed)
        shots = tuple(Example(without_names(shot.input), shot.label) for shot in setup.shots)
        return replace(setup, shots=shots), data

    def recognizer(
        self,
        remote: Remote,
        setup: PromptSetup,
        settings: ZeroShotSettings | FinetuneSettings,
        adapted: PeftModel | None = None,
    ) -> RemoteRecognizer:
        """The recognizer of the served model.

        Raises:
            ConfigError: if labels cannot be scored by their first token
        """
        if isinstance(settings, FinetuneSettings):
            self.load(settings.model)
        return RemoteRecognizer(
            remote,
            setup,
            label_scores=settings.remote.label_scores,
            audio_part=settings.remote.audio_part,
            max_new_tokens=settings.answering.max_new_tokens if settings.answering.mode == GENERATION else None,
        )


def _check_model(model: ModelSettings) -> None:
    for key, declared in settings_of(ModelSettings).items():
        value = getattr(model, key)
        without_effect = declared.may_change and value != "require"
        if key not in ("family", "id", "url", "adapter") and value != declared.default and not without_effect:
            raise ConfigError(
                f"key 'model.{key}': {value!r}, but family remote only uses url, id and adapter; the rest is that of "
                "the server; leave it out"
            )
    for key, name in (("id", model.id), ("adapter", model.adapter)):
        if name is not None and Path(name).is_absolute():
            raise ConfigError(
                f"key 'model.{key}': is a path on this machine; give the model a name on the server (vLLM: "
                "--served-model-name, --lora-modules NAME=PATH), and that name here"
            )


def _check_parity(settings: ZeroShotSettings) -> None:
    parity, default = settings.parity, ParitySettings()
    if parity.family is None:
        if parity != default:
            raise ConfigError("section 'parity': has keys, but no family; name that of the model in parity.id")
        return
    if parity.family in (*DUAL_ENCODERS, REMOTE) or not parity.id:
        raise ConfigError(
            f"section 'parity': family {parity.family}, id {parity.id!r}; expected a family of audio-language models, "
            "and the same model as a Hub id or local folder"
        )
    if settings.answering.mode == GENERATION:
        raise ConfigError(
            "key 'parity.family': answers are generated, so there are no scores to compare; set it to null"
        )
    if (parity.adapter is None) != (settings.model.adapter is None):
        raise ConfigError("key 'parity.adapter': compare an adapter with the one that model.adapter serves, or neither")
