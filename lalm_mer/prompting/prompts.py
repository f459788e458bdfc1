"""Prompt files: YAML with a system message, a user template and, optionally, surface forms of the answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import modalities_of
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.prompting.conversation import Conversation, Message, Part

__all__ = ["Prompt", "load_prompt", "read_prompt_file", "with_answers"]

FileT = TypeVar("FileT")

_SLOTS = ("audio", "transcript", "labels", "context", "speaker", "descriptors", "target", "low", "high")
_SLOT = re.compile(r"\s*(\w+)\s*\}\}")  # after its opening braces
_LARGEST = 65_536  # bytes of a prompt file
_MOST_SLOTS = 16
_UNPRINTABLE = ("Cc", "Co")  # control characters, private use
_UNKNOWN = "somebody"  # for an unknown speaker
_NO_CONTEXT = "(none)"  # for the turns before the first one of a dialogue


@dataclass(frozen=True)
class _PromptFile:
    name: str
    user: str
    system: str | None = None
    answers: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A prompt with slots for audio, transcript, list of labels, earlier turns, speaker, and description of the voice.

    A prompt about a single target of a task of several labels or of numbers also has a slot for it, and may have slots
    for the ends of its scale; ``about`` fills them.

    Args:
        name: name of the prompt
        system: system message; None for that of the model
        parts: the user message, split at its slots: ("words", text) or (name of a slot, "")
        answers: label -> surface forms, which replace those of the label set
        digest: SHA-256 of ``content`` without the name
        content: values of the file, without its comments; empty for a prompt that is not from a file
    """

    name: str
    system: str | None
    parts: tuple[tuple[str, str], ...]
    answers: Mapping[str, tuple[str, ...]]
    digest: str
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def uses_audio(self) -> bool:
        """Whether it has an audio slot."""
        return self.has_slot("audio")

    @property
    def uses_transcript(self) -> bool:
        """Whether it has a transcript slot."""
        return self.has_slot("transcript")

    @property
    def modalities(self) -> str:
        """One of ``MODALITIES``; descriptions of the voice count as audio, earlier turns as transcript."""
        return modalities_of(
            audio=self.uses_audio or self.has_slot("descriptors"),
            transcript=self.uses_transcript or self.has_slot("context"),
        )

    def label_set(self, label_set: LabelSet) -> LabelSet:
        """The label set with the surface forms of this prompt, as ``with_answers`` returns it."""
        return with_answers(label_set, self.answers, f"prompt {self.name}")

    def has_slot(self, slot: str) -> bool:
        """Whether it has the slot of that name."""
        return any(name == slot for name, _ in self.parts)

    def about(self, target: str, scale: tuple[str, str] | None = None) -> Prompt:
        """The prompt about one target, such as a label or a dimension, with the ends of its scale.

        Raises:
            ConfigError: if it has no slot for a target, or slots for a scale and there is none
        """
        values = {"target": target} | ({} if scale is None else {"low": scale[0], "high": scale[1]})
        if not self.has_slot("target"):
            raise ConfigError(
                f"prompt {self.name} has no slot {{{{ target }}}}, which a task of several labels or of numbers needs; "
                "choose one of prompts/labels or prompts/dimensions"
            )
        missing = [slot for slot, _ in self.parts if slot in ("low", "high") and slot not in values]
        if missing:
            raise ConfigError(f"prompt {self.name} has a slot {{{{ {missing[0]} }}}}, but {target} has no scale")
        parts = tuple(("words", values[slot]) if slot in values else (slot, words) for slot, words in self.parts)
        return replace(self, parts=parts, digest=hash_json([self.digest, values]))

    def conversation(
        self, given: Input, label_set: LabelSet, *, shots: Sequence[Example] = (), order: Sequence[str] | None = None
    ) -> Conversation:
        """The conversation for one input; labels are listed by their first surface form.

        Args:
            given: transcript, audio and the rest of one utterance
            label_set: the K labels
            shots: examples that precede the input as turns of user and assistant, with their answers
            order: all labels, in the order in which they are listed; None for that of the label set

        Raises:
            ConfigError: naming the utterance, if the prompt has a slot that it cannot fill
        """
        listed = ", ".join(label_set.forms_of(label)[0] for label in (label_set.labels if order is None else order))
        messages = [] if self.system is None else [Message("system", (Part("words", self.system),))]
        for shot in shots:
            answer = Part("words", label_set.forms_of(shot.label)[0])
            messages += [Message("user", self._filled(shot.input, listed)), Message("assistant", (answer,))]
        return Conversation((*messages, Message("user", self._filled(given, listed))))

    def _filled(self, given: Input, listed: str) -> tuple[Part, ...]:
        """Fill the slots of the user message; the audio slot is left out if the utterance has no audio."""
        for slot, value in (("transcript", given.transcript), ("descriptors", given.descriptors)):
            if value is None and self.has_slot(slot):
                raise ConfigError(
                    f"utterance {given.utterance_id} has no {slot}, which prompt {self.name} needs; choose a prompt "
                    "without it, or make it first (transcripts by recipes/transcribe.py)"
                )
        turns = (f"{turn.speaker or _UNKNOWN}: {turn.transcript}" for turn in given.context)
        values = {
            "transcript": given.transcript or "",
            "labels": listed,
            "context": "\n".join(turns) or _NO_CONTEXT,
            "speaker": given.speaker or _UNKNOWN,
            "descriptors": given.descriptors or "",
        }
        parts = []
        for slot, words in self.parts:
            if slot != "audio":
                parts.append(Part("words", values.get(slot, words)))
            elif not given.without_audio:
                parts.append(Part("audio", audio=given.audio))
        return tuple(parts)


def with_answers(label_set: LabelSet, answers: Mapping[str, tuple[str, ...]], where: str) -> LabelSet:
    """Replace the surface forms of a label set by those of the file ``where``, if it has any.

    Labels of other tasks are ignored.

    Raises:
        ConfigError: if there are forms for some labels of the task but not for all
    """
    relevant = {label: forms for label, forms in answers.items() if label in label_set.labels}
    missing = [label for label in label_set.labels if label not in relevant]
    if relevant and missing:
        raise ConfigError(f"{where}: answers are given for {sorted(relevant)} but not for {missing}")
    return replace(label_set, forms=relevant) if relevant else label_set


def read_prompt_file(schema: type[FileT], path: Path) -> FileT:
    """Read a small YAML file: a prompt, an ensemble, or synonyms.

    Raises:
        ConfigError: naming the file, if it is no file, larger than 64 KiB, or not as ``schema`` declares
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is no file; expected a YAML file such as those in prompts/")
    if path.exists() and (size := path.stat().st_size) > _LARGEST:
        raise ConfigError(f"{path}: {size:,} bytes; expected a prompt, of {_LARGEST:,} bytes at most")
    return load_config(schema, path)


def load_prompt(path: Path) -> Prompt:
    """Read a prompt file. Its template is text with slots; it is never run as a program.

    Raises:
        ConfigError: naming the file, if it has an unknown key, anything in double braces but the name of a slot, or
            neither an audio nor a transcript slot
    """
    file = read_prompt_file(_PromptFile, path)
    if any(opening in (file.system or "") for opening in ("{{", "{%", "{#")):
        raise ConfigError(f"{path}: key 'system': has {{{{, {{% or {{#, but only key 'user' has slots; move them there")
    for key, text in (("user", file.user), ("system", file.system or "")):
        if unprintable := next(
            (c for c in text if unicodedata.category(c) in _UNPRINTABLE and c not in "\n\r\t"), None
        ):
            raise ConfigError(f"{path}: key {key!r}: contains the character {unprintable!a}; remove it")
    try:
        parts = _parse(file.user)
    except ConfigError as error:
        raise ConfigError(f"{path}: key 'user': {error}") from None
    answers = {label: tuple(forms) for label, forms in file.answers.items()}
    digest = hash_json({"system": file.system, "user": file.user, "answers": file.answers})
    prompt = Prompt(file.name, file.system, parts, answers, digest, asdict(file))
    if not prompt.modalities:
        raise ConfigError(
            f"{path}: key 'user' has no slot of an utterance; expected {{{{ audio }}}}, {{{{ transcript }}}}, "
            "{{ descriptors }} or {{ context }}"
        )
    return prompt


def _parse(template: str) -> tuple[tuple[str, str], ...]:
    """Split a template at its slots: ("words", text) or (name of a slot, "")."""
    lines = re.split(r"\r\n|\r|\n", template)
    text = "\n".join(lines if lines[-1] else lines[:-1])  # a last line break is that of the file
    first, *others = text.split("{{")
    if len(others) > _MOST_SLOTS:
        raise ConfigError(f"has {len(others)} slots; expected {_MOST_SLOTS} at most")
    parts = [("words", first)]
    for other in others:
        slot = _SLOT.match(other)
        if slot is None or slot[1] not in _SLOTS:
            raise ConfigError(
                f"{one_line(repr('{{' + other[:40]))} is no slot; expected one of {', '.join(_SLOTS)}, each written as "
                "{{ transcript }}, without filters, expressions or functions"
            )
        parts += [(slot[1], ""), ("words", other[slot.end() :])]
    if any("{#" in words or "{%" in words for _, words in parts):
        raise ConfigError(
            "contains {# or {%, but a template may only have text and slots; write comments in YAML, after #"
        )
    return tuple((kind, words) for kind, words in parts if kind != "words" or words)
