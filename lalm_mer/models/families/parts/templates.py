"""Chat templates: the files in ``families/templates``, and published ones that take messages of strings."""

from __future__ import annotations

from pathlib import Path

__all__ = ["join_parts_before", "load_template"]

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
