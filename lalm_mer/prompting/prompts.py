"""Prompt files: YAML with a system message, a user template and, optionally, surface forms of the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import modalities_of
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.prompting.conversation import Conversation, Message, Part

__all__ = ["Prompt", "load_prompt", "with_answers"]

_SLOTS = ("audio", "transcript", "labels", "context", "speaker", "descriptors")
_MARK = re.compile("\ue000(\\w+)\ue001")
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

    The template is rendered once, with marks in its slots, so that Jinja never processes the content of an utterance.

    Args:
        name: name of the prompt
        system: system message; None for that of the model
        parts: the user message, split at its slots: ("words", text) or (name of a slot, "")
        answers: label -> surface forms, which replace those of the label set
        digest: SHA-256 of the content of the file
    """

    name: str
    system: str | None
    parts: tuple[tuple[str, str], ...]
    answers: Mapping[str, tuple[str, ...]]
    digest: str

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
                parts.append(Part("audio", waveform=given.waveform))
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


def load_prompt(path: Path) -> Prompt:
    """Read a prompt file.

    Raises:
        ConfigError: naming the file, if it has an unknown key or slot, a slot with a filter, or neither an audio nor a
            transcript slot
    """
    file = load_config(_PromptFile, path)
    if "{#" in file.user or "{%" in file.user:
        raise ConfigError(
            f"{path}: key 'user': contains {{# or {{%, but a template may only have text and slots; write comments in "
            "YAML, after #"
        )
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    try:
        rendered = environment.from_string(file.user).render({slot: f"\ue000{slot}\ue001" for slot in _SLOTS})
    except jinja2.TemplateError as error:
        raise ConfigError(f"{path}: key 'user': {error}; the slots are {', '.join(_SLOTS)}") from error
    pieces = _MARK.split(rendered)
    if not set(pieces[1::2]) <= set(_SLOTS) or any(set("\ue000\ue001") & set(words) for words in pieces[::2]):
        raise ConfigError(f"{path}: key 'user': a slot has a filter or is cut; write it as {{{{ transcript }}}}")
    parts = tuple((piece, "") if position % 2 else ("words", piece) for position, piece in enumerate(pieces) if piece)
    answers = {label: tuple(forms) for label, forms in file.answers.items()}
    digest = hash_json({"system": file.system, "user": file.user, "answers": file.answers})
    prompt = Prompt(file.name, file.system, parts, answers, digest)
    if not prompt.modalities:
        raise ConfigError(
            f"{path}: key 'user' has no slot of an utterance; expected {{{{ audio }}}}, {{{{ transcript }}}}, "
            "{{ descriptors }} or {{ context }}"
        )
    return prompt
