"""Adapt large audio-language models to recognise emotion from speech and its transcript."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm_mer.launch.build.open_recognizer import open_recognizer

__all__ = ["__version__", "open_recognizer"]

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # here, because huggingface_hub reads it when it is imported

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 what is offered
    if name == "open_recognizer":  # imported when it is used: torch takes seconds
        from lalm_mer.launch.build.open_recognizer import open_recognizer

        return open_recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
