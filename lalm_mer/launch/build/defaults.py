"""Defaults of settings that depend on the model's family or on other facts of the run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from string import Formatter
from typing import Any, TypeVar, cast

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import FULL
from lalm_mer.core.paths import absolute, as_recorded
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.config.late_fusion import LateFusionSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.sections import LORA_KEYS, AdapterSettings, ModelSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings
from lalm_mer.models.chat_client import ServerAddress
from lalm_mer.models.families import REMOTE
from lalm_mer.models.registry import model_class
from lalm_mer.recognizers.base import Setup

__all__ = ["AUDIO_TOWERS", "with_folder", "with_model", "with_model_id", "with_targets", "with_towers"]

SettingsT = TypeVar("SettingsT", bound=ZeroShotSettings | FinetuneSettings)
RunSettingsT = TypeVar(
    "RunSettingsT",
    bound=ZeroShotSettings | FinetuneSettings | BaselineSettings | LinearSettings | LateFusionSettings,
)

AUDIO_TOWERS = ("audio_tower", "projector")
"""Towers of a language family that a prompt without audio does not use"""
_UNFIT_FOR_NAMES = re.compile(r"[^\w+.-]+")


def with_model(settings: SettingsT) -> SettingsT:
    """Settings with the default model and prompt of the family, if they name none.

    Raises:
        ConfigError: if the family has no default, or no full window
    """
    model, prompt = with_model_id(settings.model), settings.prompt
    if not prompt.file:
        prompt = replace(prompt, file=model_class(model.family).default_prompt(prompt.modalities))
    changed: SettingsT = replace(settings, model=model, prompt=prompt)
    return changed


def with_model_id(model: ModelSettings) -> ModelSettings:
    """Section ``model`` with the default model of the family, if it names none.

    Raises:
        ConfigError: if the family has no default, or no full window
    """
    family = model_class(model.family)
    if model.full_window and not family.takes_full_window:
        raise ConfigError(f"key 'model.full_window': true, but {model.family} has no such choice; set it to false")
    if (model.family == REMOTE) != (model.url is not None):
        found = "is missing" if model.url is None else "is set"
        raise ConfigError(
            f"key 'model.url' {found}, and the family is {model.family}; family remote, and no other, has it"
        )
    if model.url is not None:
        with naming_keys("model"):
            model = replace(model, url=ServerAddress.parse(model.url).url)
    if not model.id:
        if not family.published:
            raise ConfigError(f"key 'model.id' is missing; family {model.family} has no published model of its own")
        model = replace(model, id=family.published[0], revision=model.revision or family.published_revision)
    return model


def with_targets(settings: SettingsT, setup: Setup) -> SettingsT:
    """Settings with the default adapter targets of the family, if they name none, or with the towers of kind full.

    Towers that are trained in full, or that a prompt without audio does not use, have no targets.

    Raises:
        ConfigError: if a setting does not fit kind full
    """
    if not isinstance(settings, FinetuneSettings):
        return settings
    if settings.adapter.kind == FULL and settings.output.push_to is not None:
        raise ConfigError(
            f"key 'output.push_to': {settings.output.push_to}; only adapters are pushed, and adapter.kind=full has "
            "none; set it to null, and upload the folder model/ of the finished run with `hf upload`"
        )
    unused = () if setup.uses("audio") else AUDIO_TOWERS
    return replace(settings, adapter=with_towers(settings.adapter, settings.model, unused))


def with_towers(adapter: AdapterSettings, model: ModelSettings, unused: Sequence[str] = ()) -> AdapterSettings:
    """Section ``adapter`` with the default targets of the family, if it names none, or with the towers of kind full.

    Towers that are trained in full, or that are unused, have no targets.

    Args:
        adapter: the section
        model: section ``model``
        unused: towers that the prompt does not use

    Raises:
        ConfigError: if a setting does not fit kind full
    """
    family = model_class(model.family)
    if adapter.kind == FULL:
        _check_full(adapter, model)
        in_full = adapter.full or [tower for tower in family.towers if tower not in unused]
        return replace(adapter, towers={}, full=in_full)
    if adapter.towers is not None:
        return adapter
    left_out = (*adapter.full, *unused)
    towers = {tower: list(names) for tower, names in family.adapter_targets.items() if tower not in left_out}
    return replace(adapter, towers=towers)


def _check_full(adapter: AdapterSettings, model: ModelSettings) -> None:
    """Refuse what has no effect on, or cannot be trained by, kind full."""
    for tower, targets in (adapter.towers or {}).items():
        if targets:
            raise ConfigError(
                f"key 'adapter.towers.{tower}': {', '.join(targets)}; adapter.kind=full has no adapter; set "
                "adapter.towers=null, and choose towers in adapter.full"
            )
    for name in (*LORA_KEYS, "options"):
        value, default = getattr(adapter, name), getattr(AdapterSettings(), name)
        if value != default:
            raise ConfigError(
                f"key 'adapter.{name}': {value}; adapter.kind=full has no adapter; leave it out, or set it to {default}"
            )
    if model.quantization is not None:
        raise ConfigError(
            f"key 'model.quantization': {model.quantization}; adapter.kind=full trains the weights themselves; set it "
            "to null"
        )
    if model.dtype != "float32":
        raise ConfigError(
            f"key 'model.dtype': {model.dtype}; adapter.kind=full trains the weights themselves, and {model.dtype} "
            "loses small steps; set model.dtype=float32, and train.bf16=true for speed"
        )


def with_folder(
    settings: RunSettingsT, *, corpus: str, recognizer: str, method: str, modalities: str, fold: int | None = None
) -> RunSettingsT:
    """Settings with the placeholders in ``output.dir`` replaced by these facts, and by fold and seed.

    The fold is that of section ``split``, if none is given. Characters that do not belong in the name of a folder
    become a hyphen.

    Raises:
        ConfigError: if ``output.dir`` has another placeholder
    """
    facts: dict[str, str | int] = {
        "corpus": corpus,
        "recognizer": recognizer,
        "method": method,
        "modalities": modalities,
        "fold": fold or cast(Any, settings).split.fold,
        "seed": settings.seed,
    }
    names = {name: _UNFIT_FOR_NAMES.sub("-", str(value)).strip("-.") or "_" for name, value in facts.items()}
    pattern = settings.output.dir
    inside = as_recorded(pattern)  # the working directory may have braces in its name
    try:
        pieces = list(Formatter().parse(inside))
        folder = "".join(text + ("" if name is None else names[name]) for text, name, _, _ in pieces)
        plain = all(not form and conversion is None for _, _, form, conversion in pieces)
    except (KeyError, ValueError):
        plain, folder = False, ""
    if not plain:
        expected = ", ".join(f"{{{name}}}" for name in facts)
        raise ConfigError(f"key 'output.dir': {inside!r}; the placeholders are {expected}")
    output: Any = replace(settings.output, dir=folder if inside == pattern else absolute(folder))
    changed: RunSettingsT = replace(settings, output=output)
    return changed
