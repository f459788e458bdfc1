"""Ensemble files: YAML with sentences that describe a voice, for models that compare audio with text.

A file has ``templates``, sentences with one slot ``{{ label }}``, and optionally ``answers``, the surface forms for the
slot. The audio is compared with all sentences of each label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import AUDIO
from lalm_mer.core.provenance import hash_json
from lalm_mer.prompting.prompts import read_prompt_file, with_answers

__all__ = ["Ensemble", "load_ensemble"]

_SLOT = re.compile(r"\{\{ *label *\}\}")


@dataclass(frozen=True)
class _EnsembleFile:
    name: str
    templates: list[str]
    answers: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble:
    """Sentences that describe each label.

    Args:
        name: name of the ensemble
        templates: sentences with one slot ``{{ label }}``
        answers: label -> surface forms, which replace those of the label set
        digest: SHA-256 of ``content`` without the name
        content: values of the file, without its comments; empty for an ensemble that is not from a file
    """

    name: str
    templates: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    digest: str
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    modalities: ClassVar[str] = AUDIO
    uses_audio: ClassVar[bool] = True
    uses_transcript: ClassVar[bool] = False

    def label_set(self, label_set: LabelSet) -> LabelSet:
        """The label set with the surface forms of this ensemble, as ``with_answers`` returns it."""
        return with_answers(label_set, self.answers, f"ensemble {self.name}")

    def descriptions(self, label_set: LabelSet) -> list[tuple[int, str]]:
        """All templates with all surface forms in their slot, each with the index of its label."""
        return [
            (index, form.join(_SLOT.split(template)))
            for index, label in enumerate(label_set.labels)
            for form in label_set.forms_of(label)
            for template in self.templates
        ]


def load_ensemble(path: Path) -> Ensemble:
    """Read an ensemble file.

    Raises:
        ConfigError: naming the file, if it has an unknown key, no template or a duplicate, or not exactly one slot each
    """
    file = read_prompt_file(_EnsembleFile, path)
    if not file.templates or len(set(file.templates)) < len(file.templates):
        n = len(file.templates)
        raise ConfigError(f"{path}: key 'templates': {n} sentences; expected one or more, all different")
    for template in file.templates:
        if len(_SLOT.findall(template)) != 1 or "{" in _SLOT.sub("", template):
            found = one_line(repr(template))
            raise ConfigError(f"{path}: key 'templates': {found} needs exactly one slot, {{{{ label }}}}")
    answers = {label: tuple(forms) for label, forms in file.answers.items()}
    digest = hash_json({"templates": file.templates, "answers": file.answers})
    return Ensemble(file.name, tuple(file.templates), answers, digest, asdict(file))
