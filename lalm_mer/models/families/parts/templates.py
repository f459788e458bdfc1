"""Chat templates: the files in ``families/templates``, and published ones that take messages of strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lalm_mer.core.errors import ModelError
from lalm_mer.prompting.conversation import Conversation, Message, Part, mark_parts

__all__ = ["PROBE", "join_parts_before", "load_template", "rendered_probe", "stop_token_of"]

PROBE = Conversation(
    (
        Message("user", (Part("audio"), Part("words", "What?"))),
        Message("assistant", (Part("words", "That."),)),
        Message("user", (Part("words", "And?"),)),
    )
)
"""A conversation with an audio slot, an answer and a second question"""
_FOLDER = Path(__file__).parents[1] / "templates"


def load_template(name: str) -> str:
    """Text of ``families/templates/<name>.jinja``; line breaks and indentation there are for readers only."""
    return "".join(line.strip() for line in (_FOLDER / f"{name}.jinja").read_text("utf-8").splitlines())


def join_parts_before(template: str, audio: str, system: str | None = None) -> str:
    """A published template that takes strings, after a loop that joins the parts of each message to a string.

    Args:
        template: the published template
        audio: text of an audio slot
        system: words of the system turn if a conversation has none; None leaves that to the template

    Example:
        >>> from jinja2 import Template
        >>> published = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
        >>> parts = [{"type": "audio"}, {"type": "text", "text": "How?"}]
        >>> Template(join_parts_before(published, "<a>")).render(messages=[{"role": "user", "content": parts}])
        'user: <a>How?'
    """
    default = "" if system is None else load_template("default_system").replace("SYSTEM", repr(system))
    joined = load_template("joined_parts").replace("AUDIO", repr(audio))
    return joined + default + "{% set messages = joined.messages %}" + template


def rendered_probe(processor: Any) -> str:  # noqa: ANN401 any processor
    """``PROBE``, rendered with marks in place of its words by a processor's chat template."""
    marked = mark_parts(PROBE)[0]
    rendered: str = processor.apply_chat_template(marked, add_generation_prompt=True, tokenize=False)
    return rendered


def stop_token_of(tokenizer: Any, rendered: str, name: str) -> str:  # noqa: ANN401 any tokenizer
    """The special token that a chat template writes directly after the answer of a ``rendered_probe``.

    Raises:
        ModelError: if it writes another token, with the name of the family
    """
    after = rendered.partition("\ue0001\ue001")[2]
    first = tokenizer(after, add_special_tokens=False)["input_ids"][0]
    if first not in tokenizer.added_tokens_decoder:
        raise ModelError(f"{name}: its chat template ends the assistant's turn with {after[:30]!r}, no special token")
    token: str = tokenizer.convert_ids_to_tokens(first)
    return token
