"""Ids of repositories on the Hugging Face Hub."""

from __future__ import annotations

import re

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import is_path

__all__ = ["check_repo_id", "has_id_form", "published_id"]

_NAME = r"[a-zA-Z0-9_][\w.-]{0,95}(?<![.-])"
_REPO_ID = re.compile(rf"(?!.*(?:--|\.\.)){_NAME}/{_NAME}(?<!\.git)", re.ASCII)


def check_repo_id(repo_id: str, key: str) -> None:
    """Check that an id has the form ``user/name``.

    Raises:
        ConfigError: naming the key
    """
    if not has_id_form(repo_id):
        raise ConfigError(f"{key} {repo_id!r}: expected user/name or organisation/name, of letters, digits, - _ and .")


def has_id_form(text: str) -> bool:
    """Whether a text has the form ``user/name``, as also some paths have.

    Example:
        >>> has_id_form("user/name"), has_id_form("/home/user/name")
        (True, False)
    """
    return _REPO_ID.fullmatch(text) is not None


def published_id(model_id: str) -> str | None:
    """The id, if it has the form of a Hub id and is no path here; else None."""
    return model_id if has_id_form(model_id) and not is_path(model_id) else None
