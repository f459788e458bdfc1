"""Conversations with audio slots, in which text is kept separate from the structure of the chat template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from lalm_mer.core.errors import ModelError
from lalm_mer.core.schema import Audio

__all__ = ["Conversation", "Message", "Part", "mark_parts", "split_marked"]

_MARK = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class Part:
    """A part of a message: an audio slot, or text.

    Args:
        kind: ``audio`` for a slot that audio fills, ``words`` for text, which is tokenised as plain characters
        words: the text; empty for a slot
        audio: waveform of the slot, or its tower output; None for text, and if no audio was loaded
    """

    kind: Literal["audio", "words"]
    words: str = ""
    audio: Audio | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, by ``system``, ``user`` or ``assistant``."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    """The prompt of one input as messages, without the answer."""

    messages: tuple[Message, ...]

    @property
    def audio_slots(self) -> int:
        """Number of audio slots."""
        return len(self.audio)

    @property
    def audio(self) -> tuple[Audio | None, ...]:
        """Audio of the slots, in order."""
        return tuple(part.audio for message in self.messages for part in message.parts if part.kind == "audio")


def mark_parts(conversation: Conversation) -> tuple[list[dict[str, object]], list[str]]:
    """Replace all text by numbered marks, so that a chat template cannot interpret it.

    Returns:
        Messages for ``apply_chat_template``, and the text of each mark
    """
    words: list[str] = []
    messages: list[dict[str, object]] = []
    for message in conversation.messages:
        content: list[dict[str, str]] = []
        for part in message.parts:
            if part.kind == "audio":
                content.append({"type": "audio", "audio_url": ""})  # templates check the key or the type
            else:
                content.append({"type": "text", "text": f"\ue000{len(words)}\ue001"})
                words.append(part.words)
        messages.append({"role": message.role, "content": content})
    return messages, words


def split_marked(rendered: str, words: Iterable[str]) -> list[tuple[Literal["structure", "words"], str]]:
    """Split a rendered template at its marks, whose texts are ``words``.

    Returns:
        Pieces in order: ``structure`` from the template, ``words`` to be tokenised as plain characters

    Raises:
        ModelError: if the template dropped, repeated or reordered a part
    """
    known = list(words)
    pieces = _MARK.split(rendered)  # structure, number, structure, number, ... structure
    if [int(number) for number in pieces[1::2]] != list(range(len(known))):
        raise ModelError(
            f"the chat template rendered parts {pieces[1::2]}; expected all {len(known)} parts once and in order"
        )
    result: list[tuple[Literal["structure", "words"], str]] = []
    for position, piece in enumerate(pieces):
        if position % 2:
            result.append(("words", known[int(piece)]))
        elif piece:
            result.append(("structure", piece))
    return result
