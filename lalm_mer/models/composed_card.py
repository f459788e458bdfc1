"""The model card of a composed model: where its parts are from, with the licences that their own cards state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

__all__ = ["composed_card"]

_PARTS = {"audio_tower": "audio tower", "language_model": "language model"}


def composed_card(origin: Mapping[str, Any], text: str) -> str:
    """The content of README.md.

    Args:
        origin: ``composed_of`` of the model's config: for each part its name, layers and licence
        text: what was trained, in Markdown
    """
    parts = {title: origin[name] if isinstance(origin.get(name), Mapping) else {} for name, title in _PARTS.items()}
    data: Any = ModelCardData(
        base_model=[part["model"] for part in parts.values() if part.get("local") is False] or None,
        library_name="transformers",
        pipeline_tag="audio-text-to-text",
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
        f"---\n{data.to_yaml()}\n---\n\n# A composed audio-language model\n\n{table}\n\nThe class is that of "
        f"Qwen2-Audio, without its weights. Both licences apply. Made with lalm-mer.\n\n{text}\n"
    )
