"""huggingface_hub's client on a leash: it waits so long and no longer, writes nowhere else, and fails in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, RevisionResolutionError

from lalm_mer.core.errors import AdapterError, ConfigError, one_line

__all__ = ["TIMEOUT_S", "check_commit", "reaching"]

TIMEOUT_S = 60.0
"""How long to wait for a sign of life, in seconds: huggingface_hub itself waits for ever at most steps."""
_TRIES = 30  # of one address: huggingface_hub begins anew without end where a download breaks off each time
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
# what the client lets through of the way there, of the server's refusals, and of answers that make no sense
_FAILURES = (
    httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, RevisionResolutionError, OSError, ValueError, RuntimeError,
    KeyError, TypeError, AttributeError, AssertionError,
)  # fmt: skip


@contextmanager
def reaching(what: str, timeout_s: float) -> Iterator[None]:
    """Let huggingface_hub work within; what goes wrong there is one line.

    Its retries, five with up to 8 s between them, stay as they are: what is bounded is each wait within a try. What
    hf_xet transfers has the time-outs of hf_xet.

    Args:
        what: begins the error: the repository, and what was to be done with it
        timeout_s: longest wait for an answer, or for a part of one, in seconds; a shorter one of huggingface_hub stays

    Raises:
        AdapterError: with the step, what was found, and what may mend it
        ConfigError: if the time is not above 0
    """
    if not timeout_s > 0:
        raise ConfigError(f"{timeout_s:g} s to wait for the Hub: expected more than 0")
    asked: Counter[str] = Counter()

    def bound(request: httpx2.Request) -> None:
        asked[f"{request.method} {request.url}"] += 1
        if asked[f"{request.method} {request.url}"] > _TRIES:
            raise ValueError(f"{request.url} broke off {_TRIES} times")
        waits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: timeout_s if waits.get(kind) is None else min(timeout_s, waits[kind])
            for kind in ("connect", "read", "write", "pool")
        }

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {
        "request": [*hooks.get("request", []), bound],
        "response": [*hooks.get("response", []), _check_headers],
    }
    try:
        yield
    except _FAILURES as error:
        raise AdapterError(f"{what}: {_told(error)}; {_mend(error, timeout_s)}") from error
    finally:
        session.event_hooks = hooks


def check_commit(commit: str) -> str:
    """Refuse what is no commit's hash: it becomes the name of a folder.

    Raises:
        ValueError: if it has another form
    """
    if not _HASH.fullmatch(commit):
        raise ValueError(f"the server names the commit {commit[:80]!r}, which is no hash")
    return commit


def _check_headers(response: httpx2.Response) -> None:
    """What the server calls a file becomes the name of one in the cache, and its commit that of a folder."""
    if "/resolve" not in response.request.url.path:
        return
    for name in ("ETag", "X-Linked-Etag"):
        value = response.headers.get(name, "").removeprefix("W/")
        if "/" in value or "\\" in value or ".." in value:
            raise ValueError(f"the server sends {name} {value[:80]!r}, which is no hash")
    if (commit := response.headers.get("X-Repo-Commit")) is not None:
        check_commit(commit)


def _told(error: BaseException) -> str:
    """The error and its cause, without signed addresses."""
    cause = f" ({one_line(error.__cause__)})" if error.__cause__ is not None else ""
    return one_line(_SIGNED.sub(r"\1", f"{type(error).__name__}: {error}{cause}"))


def _mend(error: BaseException, timeout_s: float) -> str:
    """What may help, by what the server or the line did."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, HfHubHTTPError) and link.response.status_code < 500:
            return "is the id right, and does HF_TOKEN allow it?"
        if isinstance(link, httpx2.TimeoutException):
            return f"no sign of life for {timeout_s:g} s at most; do it again later, or wait longer"
    return "do it again later; if it stays so, are the id and HF_TOKEN right?"
