"""Conversations with audio slots, in which the words of people and of the prompt's author stay apart from structure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError

__all__ = ["Conversation", "Message", "Part", "mark_parts", "split_marked"]

_MARK = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class Part:
    """A piece of a message: an audio slot, or words.

    Args:
        kind: ``audio`` for a slot that a waveform fills, ``words`` for anything tokenised as plain characters
        words: the words; empty for a slot
        waveform: what fills the slot; None for words, and where no audio was loaded
    """

    kind: Literal["audio", "words"]
    words: str = ""
    waveform: Waveform | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: ``system``, ``user`` or ``assistant``
        parts: in the order in which the model reads them
    """

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    """What a model is asked; the answer is not part of it."""

    messages: tuple[Message, ...]

    @property
    def audio_slots(self) -> int:
        """How many waveforms it needs."""
        return len(self.waveforms)

    @property
    def waveforms(self) -> tuple[Waveform | None, ...]:
        """What fills its slots, in order."""
        return tuple(part.waveform for message in self.messages for part in message.parts if part.kind == "audio")


def mark_parts(conversation: Conversation) -> tuple[list[dict[str, object]], list[str]]:
    """Replace all words by numbered marks, so that a chat template never sees them.

    Returns:
        messages as ``apply_chat_template`` takes them, and the words that each mark stands for
    """
    words: list[str] = []
    messages: list[dict[str, object]] = []
    for message in conversation.messages:
        content: list[dict[str, str]] = []
        for part in message.parts:
            if part.kind == "audio":
                content.append({"type": "audio", "audio_url": ""})  # templates look for key or type
            else:
                content.append({"type": "text", "text": f"\ue000{len(words)}\ue001"})
                words.append(part.words)
        messages.append({"role": message.role, "content": content})
    return messages, words


def split_marked(rendered: str, words: Iterable[str]) -> list[tuple[Literal["structure", "words"], str]]:
    """Cut a rendered template at its marks.

    Args:
        rendered: the output of the chat template
        words: what each mark stands for, as ``mark_parts`` gave them

    Returns:
        pieces in order: ``structure`` written by the template, ``words`` to be tokenised as plain characters

    Raises:
        ModelError: if the template dropped, doubled or reordered a part
    """
    known = list(words)
    pieces = _MARK.split(rendered)  # structure, number, structure, number, ... structure
    if [int(number) for number in pieces[1::2]] != list(range(len(known))):
        raise ModelError(
            f"the chat template kept parts {pieces[1::2]} of {len(known)}: it drops or reorders what it is given"
        )
    result: list[tuple[Literal["structure", "words"], str]] = []
    for position, piece in enumerate(pieces):
        if position % 2:
            result.append(("words", known[int(piece)]))
        elif piece:
            result.append(("structure", piece))
    return result
