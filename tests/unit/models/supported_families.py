"""Which families the installed transformers has."""

from importlib.metadata import version

from packaging.version import Version

SINCE = {"gemma4": "5.21"}  # before, its processor needs torchvision
"""Family -> the first transformers that has it, if it is newer than the oldest supported one"""


def is_supported(family: str) -> bool:
    """Whether the installed transformers has the family."""
    return Version(version("transformers")) >= Version(SINCE.get(family, "0"))
