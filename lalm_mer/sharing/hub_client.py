"""huggingface_hub's client with time-outs, checks of what the server sends, and errors on one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, RevisionResolutionError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the HTTP client of its version: httpx or httpx2

from lalm_mer.core.errors import AdapterError, ConfigError, one_line

__all__ = ["TIMEOUT_S", "calling_hub", "check_commit"]

TIMEOUT_S = 60.0
"""Longest wait for an answer, in seconds; huggingface_hub itself has no limit at most steps."""
_TRIES = 30  # of one URL: huggingface_hub restarts an interrupted download without limit
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
# errors of the connection, of the server, and of the client's parsing of malformed answers
_FAILURES = (
    httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, RevisionResolutionError, OSError, ValueError, RuntimeError,
    KeyError, TypeError, AttributeError, AssertionError,
)  # fmt: skip


@contextmanager
def calling_hub(what: str, timeout_s: float) -> Iterator[None]:
    """Limit the waits of huggingface_hub in the block, and raise its errors as one line.

    Each wait within a try is limited; its retries, five with up to 8 s between them, are not, nor are transfers of
    hf_xet.

    Args:
        what: start of the error: the repository and the step
        timeout_s: longest wait for an answer, or for a part of one, in seconds; a shorter one of huggingface_hub stays

    Raises:
        AdapterError: with the step, the cause, and what to do
        ConfigError: if the time is not above 0
    """
    if not timeout_s > 0:
        raise ConfigError(f"{timeout_s:g} s to wait for the Hub: expected more than 0")
    requests: Counter[str] = Counter()

    def limit(request: httpx.Request) -> None:
        requests[f"{request.method} {request.url}"] += 1
        if requests[f"{request.method} {request.url}"] > _TRIES:
            raise ValueError(f"{request.url} was interrupted {_TRIES} times")
        waits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: timeout_s if waits.get(kind) is None else min(timeout_s, waits[kind])
            for kind in ("connect", "read", "write", "pool")
        }

    try:
        session = get_session()  # fails for a malformed proxy, or a SOCKS proxy without its package
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise AdapterError(f"{what}: the proxy of HTTPS_PROXY or ALL_PROXY: {one_line(error)}; correct it") from error
    hooks = session.event_hooks
    session.event_hooks = {
        "request": [*hooks.get("request", []), limit],
        "response": [*hooks.get("response", []), _check_headers],
    }
    try:
        yield
    except _FAILURES as error:
        raise AdapterError(f"{what}: {_describe(error)}; {_advice(error, timeout_s)}") from error
    finally:
        session.event_hooks = hooks


def check_commit(commit: str) -> str:
    """Check that a commit, which becomes the name of a folder, is a hash.

    Raises:
        ValueError: if it is not
    """
    if not _HASH.fullmatch(commit):
        raise ValueError(f"the server names the commit {commit[:80]!r}, which is no hash")
    return commit


def _check_headers(response: httpx.Response) -> None:
    """Check the headers that become names of files and folders in the cache."""
    if "/resolve" not in response.request.url.path:
        return
    for name in ("ETag", "X-Linked-Etag"):
        value = response.headers.get(name, "").removeprefix("W/")
        if "/" in value or "\\" in value or ".." in value:
            raise ValueError(f"the server sends {name} {value[:80]!r}, which is no hash")
    if (commit := response.headers.get("X-Repo-Commit")) is not None:
        check_commit(commit)


def _describe(error: BaseException) -> str:
    """The error and its cause, without signed URLs."""
    cause = f" ({one_line(error.__cause__)})" if error.__cause__ is not None else ""
    return one_line(_SIGNED.sub(r"\1", f"{type(error).__name__}: {error}{cause}"))


def _advice(error: BaseException, timeout_s: float) -> str:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, HfHubHTTPError) and link.response.status_code < 500:
            return "check the id, and that HF_TOKEN allows it"
        if isinstance(link, httpx.TimeoutException):
            return f"no answer within {timeout_s:g} s; repeat it later, or with a longer time-out"
    return "repeat it later, or check the id and HF_TOKEN"
