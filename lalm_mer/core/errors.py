"""The errors this library raises: one line that says what was found, what was expected, how to mend it."""

__all__ = [
    "AdapterError",
    "AudioError",
    "ConfigError",
    "CorpusError",
    "LalmMerError",
    "ModelError",
    "PredictionError",
    "SplitLeakError",
    "one_line",
]


class LalmMerError(Exception):
    """Base of every error that a user can mend; recipes print it without a traceback."""


class ConfigError(LalmMerError, ValueError):
    """A config file, a key of it, or an override is wrong."""


class CorpusError(LalmMerError, OSError):
    """A corpus on disk is missing, empty or not laid out as its release is."""


class SplitLeakError(LalmMerError, ValueError):
    """Two sides of a split share what the protocol says they do not."""


class AudioError(LalmMerError, OSError):
    """An audio file cannot be used, or a waveform has another rate than its reader needs.

    Attributes:
        reason: short code for ``rejected.jsonl``, for example ``empty`` or ``truncated``
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(LalmMerError, OSError):
    """A model or processor cannot be loaded, or does not have the parts its family names."""


class AdapterError(LalmMerError, ValueError):
    """An adapter does not fit its base model, or a target matches no module."""


class PredictionError(LalmMerError, ValueError):
    """A run folder or a table of predictions is malformed, or does not fit its label set."""


def one_line(error: BaseException | str) -> str:
    """What another library's error says, in one line of 300 characters at most; its name where it says nothing.

    Example:
        >>> one_line(ValueError("no\\n  file")), one_line(KeyError())
        ('no file', 'KeyError')
    """
    return " ".join(str(error).split())[:300] or type(error).__name__
