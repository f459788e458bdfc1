"""The model card of a composed model: where its parts are from, with the licences that their own cards state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

__all__ = ["composed_card"]

_PARTS = {"audio_tower": "audio tower", "language_model": "language model", "text_encoder": "text encoder"}
_CHAT = {
    "title": "A composed audio-language model",
    "class": "The class is that of Qwen2-Audio, without its weights.",
    "library": "transformers",
    "task": "audio-text-to-text",
}
_COMPARES = {
    "title": "A composed dual encoder of audio and text",
    "class": "The class is the family composed_clap of lalm-mer.",
    "library": "lalm-mer",
    "task": "audio-classification",
}


def composed_card(origin: Mapping[str, Any], text: str) -> str:
    """The content of README.md.

    Args:
        origin: ``composed_of`` of the model's config: for each part its name, layers and licence
        text: what was trained, in Markdown
    """
    kind = _COMPARES if "text_encoder" in origin else _CHAT
    names = ("audio_tower", "text_encoder" if kind is _COMPARES else "language_model")
    parts = {_PARTS[name]: origin[name] if isinstance(origin.get(name), Mapping) else {} for name in names}
    data: Any = ModelCardData(
        base_model=[part["model"] for part in parts.values() if part.get("local") is False] or None,
        library_name=kind["library"],
        pipeline_tag=kind["task"],
        license="other",
        license_name="those-of-its-parts",
        tags=["lalm-mer"],
    )
    rows = []
    for title, part in parts.items():
        layers = "all" if part.get("layers") is None else f"the first {part['layers']}"
        licence = part.get("licence") or "not stated in its card"
        rows.append(f"| {title} | {part.get('model', 'not stated')} | {layers} | {licence} |")
    table = "\n".join(["| part | from | layers | licence |", "|---|---|---|---|", *rows])
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {kind['title']}\n\n{table}\n\n{kind['class']} Both licences apply. Made with "
        f"lalm-mer.\n\n{text}\n"
    )
