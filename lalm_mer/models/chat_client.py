"""A client of a server with OpenAI's chat API: what it sends is listed here, and what it receives is limited.

A request has the headers of ``_HEADERS`` and nothing else that openai's client would add (its version, that of Python,
the operating system, an organisation or a project of the environment). Redirects are refused, so that nothing reaches
another host than the one that was named.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from lalm_mer.core.errors import ConfigError, ModelError, one_line, shown
from lalm_mer.core.extras import install_extra
from lalm_mer.core.strict_json import parse_object

__all__ = ["ChatClient", "ServerAddress", "read_key"]

_LARGEST = 32 * 2**20  # bytes of an answer; one with the log-probabilities of 30 s of audio has 0.2 MiB
_HEADERS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[!-~]+")  # visible ASCII, which a header can have
_NO_KEY = "none"
_RESUME = "rerun the same command to resume"


@dataclass(frozen=True)
class ServerAddress:
    """Address of a server.

    Args:
        url: scheme, host and path, without a slash at the end
        host: host, with its port if there is one
        encrypted: whether the scheme is https
    """

    url: str
    host: str
    encrypted: bool

    @classmethod
    def parse(cls, url: str) -> Self:
        """Check a URL; errors do not repeat it, because it may contain a password.

        Raises:
            ConfigError: if the scheme is not http or https, there is no host, or there is more than host and path

        Example:
            >>> ServerAddress.parse("http://localhost:8000/v1/")
            ServerAddress(url='http://localhost:8000/v1', host='localhost:8000', encrypted=False)
        """
        expected = "expected a URL such as http://localhost:8000/v1"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"argument 'url': is no URL; {expected}") from None
        if parts.scheme not in ("http", "https"):
            raise ConfigError(f"argument 'url': its scheme is neither http nor https; {expected}")
        if "@" in parts.netloc:
            raise ConfigError(
                "argument 'url': has a user name or password; remove it, and name the environment variable of the key "
                "by remote.api_key_env"
            )
        if not host or not url.isascii() or not url.isprintable() or re.search(r"[\s\\]", url):
            raise ConfigError(f"argument 'url': has no host, or a character that a URL cannot have; {expected}")
        if "?" in url or "#" in url:
            raise ConfigError(f"argument 'url': has a query or fragment (after ? or #); {expected}")
        named = f"[{host}]" if ":" in host else host
        place = named if port is None else f"{named}:{port}"
        return cls(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", place, parts.scheme == "https")


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None if no variable is named. Errors never repeat name or content.

    Raises:
        ConfigError: if it is no name of a variable, is not set, or its content cannot be sent
    """
    if variable is None:
        return None
    if not _VARIABLE.fullmatch(variable):
        raise ConfigError(
            "argument 'api_key_env': expected the name of an environment variable, such as OPENAI_API_KEY, never the "
            "key itself"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError("argument 'api_key_env': there is no such environment variable, or it is empty; export it")
    if not _KEY.fullmatch(key):
        raise ConfigError("argument 'api_key_env': the variable has a space or a character that a key cannot have")
    return key


class ChatClient:
    """openai's client for one model on one server; several threads may use it.

    openai's client repeats a request after a broken connection, a time-out and the statuses 408, 409, 429 and 5xx, with
    waits that double from 0.5 to 8 s, or as long as the server says by ``Retry-After`` (2 minutes at most).

    Args:
        address: the server
        model: name of the model there
        api_key: sent as a bearer token; None for servers without one
        timeout_s: longest time of one try, in seconds, from sending to the last byte
        max_retries: further tries of a request

    Raises:
        ConfigError: if the package is not installed, or a proxy of the environment is malformed
    """

    def __init__(
        self, address: ServerAddress, *, model: str, api_key: str | None, timeout_s: float, max_retries: int
    ) -> None:
        try:
            import httpx2  # here, since they are an extra and take a second
            import openai
        except ImportError as error:
            raise ConfigError(f"family remote needs openai; {install_extra('remote')}") from error
        self.address, self.model = address, model
        self.reported: str | None = None  # the server's own name of the model, which its first answer has
        self._openai, self._key, self._timeout_s = openai, api_key, timeout_s
        self._response = httpx2.Response
        limited = type("_Limited", (_LimitedStream, httpx2.SyncByteStream), {})

        def limit(response: httpx2.Response) -> None:
            response.stream = limited(response, timeout_s, httpx2.ReadTimeout)

        try:
            http = openai.DefaultHttpxClient(
                follow_redirects=False, event_hooks={"request": [_strip_headers], "response": [limit]}
            )
        except (ImportError, ValueError) as error:
            raise ConfigError(f"the proxy of HTTPS_PROXY or ALL_PROXY: {one_line(error)}; correct it") from error
        self._client = openai.OpenAI(
            api_key=api_key or _NO_KEY,
            base_url=address.url,
            timeout=timeout_s,
            max_retries=max_retries,
            http_client=http,
        )

    def served_models(self) -> dict[str, str | None] | None:
        """Name of each model that the server lists -> the model that it is an adapter of, where it says so.

        None if the server has no list.

        Raises:
            ModelError: if the server cannot be reached, refuses the key, or sends something else
        """
        try:
            with self._calling():
                content = self._client.get("/models", cast_to=self._response).content
        except _NoSuchPathError:
            return None
        listed = parse_object(content, f"{self.address.url}/models").get("data")
        rows = listed if isinstance(listed, list) else []
        named = {
            row["id"]: row.get("parent") for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)
        }
        if not named:
            raise ModelError(f"{self.address.url}/models: lists no model; is it the address of a chat API?")
        return named

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:  # noqa: ANN401 JSON
        """Send a conversation; the JSON object that the server answers with.

        Args:
            messages: in the format of OpenAI's chat API
            options: other keys of the request

        Raises:
            ModelError: if the server cannot be reached, refuses, or sends too much
            PredictionError: if the answer is no JSON object
        """
        request = {"model": self.model, "messages": list(messages), "temperature": 0, **options}
        with self._calling():
            # not chat.completions.create, whose parser takes any shape, and drops the keys that it does not know
            content = self._client.post("/chat/completions", cast_to=self._response, body=request).content
        return parse_object(content, f"answer of {self.address.host}")

    def close(self) -> None:
        """End all connections, also those of requests under way."""
        self._client.close()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Raise errors of openai's client as one line, without the key."""
        openai, url = self._openai, self.address.url
        try:
            yield
        except openai.APITimeoutError as error:
            raise ModelError(
                f"{url}: no complete answer within {self._timeout_s:g} s (remote.timeout_s) in any try; {_RESUME}"
            ) from error
        except openai.APIConnectionError as error:
            cause = one_line(error.__cause__ or error)
            raise ModelError(
                f"{url}: cannot be reached ({self._hidden(cause)}); start the server, and {_RESUME}"
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ModelError(
                f"{url}: refuses the key (status {error.status_code}); remote.api_key_env names the environment "
                "variable that has it"
            ) from None
        except openai.APIStatusError as error:
            said = self._hidden(one_line(_message(error)))
            text = f"{url}: status {error.status_code}: {shown(said, 200)}"
            if error.status_code in (404, 405):
                raise _NoSuchPathError(f"{text}; check model.url and model.id") from None
            raise ModelError(f"{text}; {_RESUME}" if error.status_code >= 429 else text) from None
        except openai.OpenAIError as error:
            raise ModelError(f"{url}: {self._hidden(one_line(error))}") from None

    def _hidden(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "***")


class _NoSuchPathError(ModelError):
    """The server has no such address, or no such model."""


class _LimitedStream:
    """The body of an answer, limited in size and time.

    Args:
        response: of httpx2
        timeout_s: longest time, in seconds; httpx2 itself only limits the wait for each part
        too_slow: the error after that time, which openai's client takes for a time-out
    """

    def __init__(self, response: Any, timeout_s: float, too_slow: type[Exception]) -> None:  # noqa: ANN401
        self._stream, self._url = response.stream, response.request.url
        self._coding = response.headers.get("content-encoding", "identity")
        self._end, self._too_slow = time.monotonic() + timeout_s, too_slow

    def __iter__(self) -> Iterator[bytes]:
        if self._coding != "identity":  # a few bytes of a compressed answer can stand for gigabytes
            raise ModelError(
                f"{self._url}: answers with content-encoding {shown(self._coding)}, which was not requested"
            )
        size = 0
        for part in self._stream:
            size += len(part)
            if size > _LARGEST:
                raise ModelError(f"{self._url}: answers with more than {_LARGEST:,} bytes; is it a chat API?")
            if time.monotonic() > self._end:
                raise self._too_slow("the answer was not complete in time")
            yield part

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


def _strip_headers(request: Any) -> None:  # noqa: ANN401 of httpx2
    request.headers["accept-encoding"] = "identity"
    for name in set(request.headers) - _HEADERS:
        del request.headers[name]


def _message(error: Any) -> str:  # noqa: ANN401 an APIStatusError
    """What the server says of an error."""
    body = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error.response.text or error.response.reason_phrase)
