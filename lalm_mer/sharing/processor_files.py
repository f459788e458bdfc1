"""The files of a model's processor that may be shared."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.output import write_json
from lalm_mer.models.pretrained import PretrainedModel

__all__ = ["PROCESSOR_KINDS", "public_settings", "write_processor"]

PROCESSOR_KINDS = (".json", ".jinja", ".txt", ".model")
"""Suffixes of the files of a processor."""
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "tekken.json")
_WORDS = {
    "tokenizer_class", "processor_class", "feature_extractor_type", "image_processor_type", "video_processor_type",
    "backend", "padding", "padding_side", "truncation", "truncation_side", "data_format", "errors", "chat_template",
    "default_transcription_prompt", "model_input_names", "extra_special_tokens", "additional_special_tokens",
    "added_tokens_decoder",
}  # fmt: skip
"""Keys whose values may contain text, besides ``..._token``."""


def write_processor(family: type[PretrainedModel], source: str, revision: str | None, out: Path) -> None:
    """Write the processor of a model into an existing folder; of its settings, only ``public_settings``.

    Args:
        family: family of the model
        source: Hub id or folder of the model
        revision: branch, tag or commit on the Hub
        out: the folder

    Raises:
        ModelError: if the processor cannot be loaded
    """
    try:
        processor = family.load_processor(source, revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {source!r}: its processor cannot be loaded: {one_line(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            if path.suffix == ".json" and path.name not in _VOCABULARIES:
                write_json(out / path.name, public_settings(json.loads(path.read_text(encoding="utf-8"))))
            elif path.is_file() and path.suffix in PROCESSOR_KINDS:
                shutil.copyfile(path, out / path.name)


def public_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Settings without text, except for that of known keys: any other text could be a path.

    Example:
        >>> public_settings({"pad_token": "<pad>", "name_or_path": "/home/jane", "sizes": {"n_mels": 80, "file": "x"}})
        {'pad_token': '<pad>', 'sizes': {'n_mels': 80}}
    """
    public = {}
    for key, value in content.items():
        if key in _WORDS or (key.endswith("_token") and isinstance(value, str)):
            public[key] = value
        elif isinstance(value, dict):
            public[key] = public_settings(value)
        elif not _has_text(value):
            public[key] = value
    return public


def _has_text(value: object) -> bool:
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str | dict)
