"""Chat templates that were published for messages of plain strings."""

from __future__ import annotations

__all__ = ["for_parts"]

_JOIN = (
    "{% set joined = namespace(messages=[]) %}"
    "{% for message in messages %}"
    "{% set words = namespace(all='') %}"
    "{% if message['content'] is string %}{% set words.all = message['content'] %}{% else %}"
    "{% for part in message['content'] %}"
    "{% set words.all = words.all + (AUDIO if part['type'] == 'audio' else part['text']) %}"
    "{% endfor %}{% endif %}"
    "{% set joined.messages = joined.messages + [{'role': message['role'], 'content': words.all}] %}"
    "{% endfor %}"
    "SYSTEM"
    "{% set messages = joined.messages %}"
)
_DEFAULT_SYSTEM = (
    "{% if not joined.messages or joined.messages[0]['role'] != 'system' %}"
    "{% set joined.messages = [{'role': 'system', 'content': WORDS}] + joined.messages %}"
    "{% endif %}"
)


def for_parts(template: str, audio: str, system: str | None = None) -> str:
    """A published template that takes strings, with its messages' parts joined to strings before it begins.

    Args:
        template: as published
        audio: what an audio slot is written as
        system: what the system says where a conversation does not tell; None leaves it to the template

    Example:
        >>> from jinja2 import Template
        >>> template = for_parts("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}", "<a>")
        >>> parts = [{"type": "audio"}, {"type": "text", "text": "How?"}]
        >>> Template(template).render(messages=[{"role": "user", "content": parts}])
        'user: <a>How?'
    """
    default = "" if system is None else _DEFAULT_SYSTEM.replace("WORDS", repr(system))
    return _JOIN.replace("AUDIO", repr(audio)).replace("SYSTEM", default) + template
