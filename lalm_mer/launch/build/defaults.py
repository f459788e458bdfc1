"""Settings that may be left out, because the model's family or the run's own facts give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from string import Formatter
from typing import Any, TypeVar

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.settings import (
    BaselineSettings,
    FinetuneSettings,
    ModelSettings,
    ZeroShotSettings,
)
from lalm_mer.models.registry import model_class
from lalm_mer.recognizers.base import Setup

__all__ = ["FOLDER_FACTS", "with_folder", "with_model", "with_targets"]

SettingsT = TypeVar("SettingsT", bound=ZeroShotSettings | FinetuneSettings)
RunSettingsT = TypeVar("RunSettingsT", bound=ZeroShotSettings | FinetuneSettings | BaselineSettings)

FOLDER_FACTS = ("corpus", "recognizer", "method", "modalities", "fold", "seed")
"""What may stand in braces in ``output.dir``."""
_UNFIT_FOR_NAMES = re.compile(r"[^\w+.-]+")


def with_model(settings: SettingsT) -> SettingsT:
    """Settings with the model and the prompt that the family names, where they are left out.

    Raises:
        ConfigError: if the family names none
    """
    family = model_class(settings.model.family)
    model, prompt = settings.model, settings.prompt
    if not model.id:
        model = _published(model)
    if not prompt.file:
        prompt = replace(prompt, file=family.default_prompt(prompt.modalities))
    changed: SettingsT = replace(settings, model=model, prompt=prompt)
    return changed


def _published(model: ModelSettings) -> ModelSettings:
    family = model_class(model.family)
    if not family.published:
        raise ConfigError(f"key 'model.id' is missing; family {model.family} has no published model of its own")
    return replace(model, id=family.published[0], revision=model.revision or family.published_revision)


def with_targets(settings: SettingsT, setup: Setup) -> SettingsT:
    """Settings with the adapter targets that the family names, where they are left out.

    Towers that are trained in full, or that a prompt without audio never reaches, have none.
    """
    if not isinstance(settings, FinetuneSettings) or settings.adapter.towers is not None:
        return settings
    left_out = (*settings.adapter.full, *(() if setup.uses("audio") else ("audio_tower", "projector")))
    targets = model_class(settings.model.family).adapter_targets
    towers = {tower: list(names) for tower, names in targets.items() if tower not in left_out}
    return replace(settings, adapter=replace(settings.adapter, towers=towers))


def with_folder(settings: RunSettingsT, facts: Mapping[str, str | int]) -> RunSettingsT:
    """Settings whose ``output.dir`` has the facts of the run in place of ``{corpus}`` and the others.

    Args:
        settings: of the run
        facts: name -> value, of ``FOLDER_FACTS``; what cannot stand in the name of a folder becomes a hyphen

    Raises:
        ConfigError: if something else stands in braces
    """
    names = {name: _UNFIT_FOR_NAMES.sub("-", str(value)).strip("-.") or "_" for name, value in facts.items()}
    written = settings.output.dir
    try:
        pieces = list(Formatter().parse(written))
        folder = "".join(text + ("" if name is None else names[name]) for text, name, _, _ in pieces)
        plain = all(not form and conversion is None for _, _, form, conversion in pieces)
    except (KeyError, ValueError):
        plain, folder = False, ""
    if not plain:
        expected = ", ".join(f"{{{name}}}" for name in FOLDER_FACTS)
        raise ConfigError(f"key 'output.dir': {written!r}; in braces may stand {expected}")
    output: Any = replace(settings.output, dir=folder)
    changed: RunSettingsT = replace(settings, output=output)
    return changed
