"""Messages of OpenAI's chat API: the only place that turns inputs into what is sent.

A message has the text of the prompt, with transcript, preceding turns and descriptors where the prompt has their slots,
and the samples of the audio as 16-bit PCM in a WAV file without any other field. Ids, paths and names of speakers are
not in it: ``without_names`` replaces those of preceding turns.
"""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import replace
from typing import Any

import numpy as np

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Input
from lalm_mer.prompting.conversation import Conversation, Message, Part

__all__ = ["joined", "messages_of", "wav_bytes", "without_names"]


def without_names(given: Input) -> Input:
    """The input without its speaker, and with the speakers of preceding turns numbered.

    Example:
        >>> from lalm_mer.core.schema import Turn
        >>> turns = (Turn("Ross", "Hi."), Turn(None, "Hm."), Turn("Rachel", "Hey."), Turn("Ross", "So?"))
        >>> [turn.speaker for turn in without_names(Input("u1", "Yes.", None, "Rachel", context=turns)).context]
        ['Speaker 1', None, 'Speaker 2', 'Speaker 1']
    """
    number: dict[str, str] = {}
    for turn in given.context:
        if turn.speaker is not None:
            number.setdefault(turn.speaker, f"Speaker {len(number) + 1}")
    context = tuple(
        replace(turn, speaker=None if turn.speaker is None else number[turn.speaker]) for turn in given.context
    )
    return replace(given, speaker=None, context=context)


def joined(conversation: Conversation) -> Conversation:
    """The conversation with neighbouring texts joined, as it is sent: a server puts line breaks between several.

    A server tokenises what is joined as one text, and tokens in it that are special to it as such; a model on this
    machine tokenises the slots of a prompt separately.
    """
    messages = []
    for message in conversation.messages:
        parts: list[Part] = []
        for part in message.parts:
            if part.kind == "words" and parts and parts[-1].kind == "words":
                part = Part("words", parts.pop().words + part.words)
            parts.append(part)
        messages.append(Message(message.role, tuple(parts)))
    return Conversation(tuple(messages))


def messages_of(conversation: Conversation, audio_part: str) -> list[dict[str, Any]]:
    """Messages of a conversation.

    Args:
        conversation: the prompt of one input
        audio_part: ``input_audio`` (OpenAI, vLLM) or ``audio_url`` (SGLang, vLLM)

    Raises:
        ConfigError: if an audio slot has no waveform
    """
    messages: list[dict[str, Any]] = []
    for message in joined(conversation).messages:
        content = [
            _audio(part, audio_part) if part.kind == "audio" else {"type": "text", "text": part.words}
            for part in message.parts
        ]
        plain = message.role != "user" and [part["type"] for part in content] == ["text"]
        messages.append({"role": message.role, "content": content[0]["text"] if plain else content})
    return messages


def wav_bytes(waveform: Waveform) -> bytes:
    """The waveform as a WAV file: 16-bit PCM, one channel, no metadata; samples beyond full scale are clipped."""
    samples = np.clip(np.rint(waveform.samples.astype(np.float64) * 2**15), -(2**15), 2**15 - 1).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(waveform.sampling_rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def _audio(part: Part, kind: str) -> dict[str, Any]:
    if not isinstance(part.audio, Waveform):
        raise ConfigError("the prompt uses audio, but no waveform was loaded")
    data = base64.b64encode(wav_bytes(part.audio)).decode()
    if kind == "audio_url":
        return {"type": kind, kind: {"url": f"data:audio/wav;base64,{data}"}}
    return {"type": kind, kind: {"data": data, "format": "wav"}}
