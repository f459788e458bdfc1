"""Adapt large audio-language models to recognise emotion from speech and its transcript."""

__version__ = "0.1.0"
