"""Addresses and keys of servers: what is refused, and that errors repeat neither."""

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.models.chat_client import ServerAddress, read_key


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/v1", ("http://localhost:8000/v1", "localhost:8000", False)),
        ("https://API.example.com/v1//", ("https://api.example.com/v1", "api.example.com", True)),
        ("http://[::1]:80/", ("http://[::1]:80", "[::1]:80", False)),
    ],
)
def test_an_address_has_host_and_path(url, expected):
    address = ServerAddress.parse(url)
    assert (address.url, address.host, address.encrypted) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "secret", "secret.example.com/v1", "ftp://secret/v1", "file:///secret", "javascript:secret", "http://",
        "http:///secret", "http://secret@host/v1", "http://user:secret@host/v1", "http://host/v1?key=secret",
        "http://host/v1#secret", "http://host/secret\n", "http://host:secret/v1", "http://host:99999/secret",
        "http://hóst/secret", "http://ho st/secret", "http://host\\@secret/v1", "http://[::1/secret", "HTTP+x://secret/",
    ],
)  # fmt: skip
def test_another_address_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="argument 'url': ") as caught:
        ServerAddress.parse(url)
    assert "secret" not in str(caught.value)


def test_a_key_is_read_from_the_environment_alone(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1\n")
    assert read_key("MY_KEY") == "sk-1"
    assert read_key(None) is None


@pytest.mark.parametrize("content", ["", " ", "secret key", "secret\r\nX-Other: 1", "sécret", "secret\x7f"])
def test_a_key_that_no_header_can_have_is_refused_and_not_repeated(content, monkeypatch):
    monkeypatch.setenv("MY_KEY", content)
    for variable in ("MY_KEY", "NOT_SET_secret", "sk-secret-1", "secret key"):
        with pytest.raises(ConfigError, match="argument 'api_key_env': ") as caught:
            read_key(variable)
        assert "secret" not in str(caught.value)
