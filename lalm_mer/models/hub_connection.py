"""Whether the Hugging Face Hub can be reached, so that a run does not retry each file for minutes."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 from huggingface_hub 2 on, httpx before

from lalm_mer.core.errors import ModelError, one_line

__all__ = ["require_hub"]

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TIMEOUT_S = 10.0  # as huggingface_hub for one file
_OF_PROXY = (httpx.ProxyError, httpx.InvalidURL, ValueError, ImportError)  # malformed, or SOCKS without its package
_ADDRESS = re.compile(r"https?://[\w.-]+(:\d+)?(/.*)?")


def require_hub(source: str, file: str, revision: str | None = None) -> None:
    """Check that the Hub can be reached, with one request for each process and address.

    If it cannot, but ``file`` is in the cache, this process uses only the cache, as with HF_HUB_OFFLINE=1, with a
    warning.

    Args:
        source: Hub id; a path needs no Hub
        file: a file that every such repository has
        revision: branch, tag or commit

    Raises:
        ModelError: if the Hub cannot be reached, and the file is not in the cache
    """
    if constants.HF_HUB_OFFLINE or Path(source).exists() or not _REPOSITORY.fullmatch(source):
        return
    failure = _failure(constants.ENDPOINT)
    if failure is None:
        return
    if not isinstance(try_to_load_from_cache(source, file, revision=revision), str):
        raise ModelError(f"{source!r} is neither a folder here nor in the cache, and {failure}")
    logging.getLogger(__name__).warning("%s; the copy of %s in the cache is used", failure, source)
    constants.HF_HUB_OFFLINE = True


@cache
def _failure(address: str) -> str | None:
    """Why an address cannot be reached; None if it can."""
    advice = "check the network, or name a local folder"
    if not _ADDRESS.fullmatch(address):
        return f"{address!r}, the address in HF_ENDPOINT, is malformed; correct or remove it"
    try:
        get_session().head(address, timeout=_TIMEOUT_S)
    except _OF_PROXY as error:
        return f"{address} cannot be reached by the proxy of HTTPS_PROXY or ALL_PROXY ({one_line(error)}); correct it"
    except (httpx.HTTPError, OSError) as error:
        return f"{address} cannot be reached ({one_line(error)}); {advice}"
    return None
