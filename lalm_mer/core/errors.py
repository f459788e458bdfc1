"""Errors of this library: one line that states what was found, what was expected and how to mend it."""

__all__ = [
    "AdapterError", "AudioError", "BusyError", "ConfigError", "CorpusError", "LalmMerError", "ModelError",
    "OutputError", "PredictionError", "SplitLeakError", "message_of", "one_line", "shown",
]  # fmt: skip


class LalmMerError(Exception):
    """Base class of errors that a user can mend; commands print them without a traceback."""


class ConfigError(LalmMerError, ValueError):
    """A config file, one of its keys, or an override is wrong."""


class CorpusError(LalmMerError, OSError):
    """A corpus on disk is missing or empty, or its layout is not that of its release."""


class SplitLeakError(LalmMerError, ValueError):
    """Two splits of a fold share a value that the protocol keeps disjoint."""


class AudioError(LalmMerError, OSError):
    """An audio file cannot be used, or a waveform does not have the required sampling rate.

    Attributes:
        reason: short code for ``rejected.jsonl``, for example ``empty`` or ``truncated``
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(LalmMerError, OSError):
    """A model or processor cannot be loaded, or lacks a part that its family expects."""


class AdapterError(LalmMerError, ValueError):
    """An adapter does not fit its base model, or a target matches no module."""


class PredictionError(LalmMerError, ValueError):
    """A run folder or a table of predictions is malformed, or does not fit its label set."""


class OutputError(LalmMerError, OSError):
    """A file or folder cannot be written."""


class BusyError(OutputError):
    """Another process is writing a file or folder."""


def message_of(error: LalmMerError) -> str:
    """The message of an error; if a worker of a DataLoader raised it, without the traceback that torch puts around it.

    Example:
        >>> text = "Caught CorpusError in worker 0. Traceback:\\n lalm_mer.core.errors.CorpusError: x.wav: empty\\n"
        >>> message_of(CorpusError(text)), message_of(CorpusError("x.wav: empty"))
        ('x.wav: empty', 'x.wav: empty')
    """
    text = str(error)
    if text.startswith("Caught "):
        return text.rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2].strip()
    return text


def shown(value: object, limit: int = 60) -> str:
    """A value in a message, cut to a number of characters.

    Example:
        >>> shown("x" * 99, limit=9)
        "'xxxxx..."
    """
    text = one_line(repr(value))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def one_line(error: BaseException | str) -> str:
    """The message of another library's error on one line of at most 300 characters; its class name if it is empty.

    Example:
        >>> one_line(ValueError("no\\n  file")), one_line(KeyError())
        ('no file', 'KeyError')
    """
    return " ".join(str(error).split())[:300] or type(error).__name__
