"""Adapt large audio-language models to recognise emotion from speech and its transcript."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # here, for huggingface_hub reads it when it is imported

__version__ = "0.1.0"
