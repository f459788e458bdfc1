"""The Hub, if it cannot be reached."""

import socket
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from lalm_mer.core.errors import ModelError
from lalm_mer.models import hub_connection
from lalm_mer.models.digest import read_model_config


@pytest.fixture(autouse=True)
def _online(monkeypatch, tmp_path):
    """No offline mode, an empty cache, and a client that reads the environment again."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in (
        "ALL_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "https_proxy",
        "http_proxy",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    hub_connection._failure.cache_clear()
    huggingface_hub.close_session()
    yield
    hub_connection._failure.cache_clear()
    huggingface_hub.close_session()


@pytest.fixture
def closed_port():
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_an_unreachable_hub_is_one_line_without_retries(monkeypatch, closed_port):
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(ModelError) as refused:
            read_model_config("jane/model")
    assert time.monotonic() - started < 5
    assert str(refused.value) == (
        f"'jane/model' is neither a folder here nor in the cache, and {closed_port} cannot be reached ([Errno 111] "
        "Connection refused); check the network, or name a local folder"
    )
    assert not constants.HF_HUB_OFFLINE


def test_a_malformed_endpoint_is_not_taken_for_a_wrong_proxy(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "htp:/hub")
    with pytest.raises(ModelError, match="and 'htp:/hub', the address in HF_ENDPOINT, is malformed; correct or remove"):
        read_model_config("jane/model")


def test_a_model_in_the_cache_is_used_without_the_hub(monkeypatch, closed_port, tmp_path, caplog):
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    monkeypatch.setattr(hub_connection, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "config.json"))
    hub_connection.require_hub("jane/model", "config.json")
    assert constants.HF_HUB_OFFLINE
    assert "the copy of jane/model in the cache is used" in caplog.text


@pytest.mark.parametrize(
    ("variable", "proxy", "says"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "SOCKS proxy, but"),
        ("HTTPS_PROXY", "127.0.0.1:9x", "Invalid port"),
        ("HTTPS_PROXY", "htp://127.0.0.1:9", "Unknown scheme"),
        ("HTTPS_PROXY", "http://[::1", "Invalid port"),
    ],
)
def test_a_wrong_proxy_is_one_line(variable, proxy, says, monkeypatch):
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(
        ModelError, match=rf"by the proxy of HTTPS_PROXY or ALL_PROXY \(.*{says}.*\); correct it"
    ) as refused:
        read_model_config("jane/model")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", [".", "no/such/model", "a b"])
def test_what_is_no_hub_id_needs_no_hub(source):
    hub_connection.require_hub(source, "config.json")
    assert hub_connection._failure.cache_info().misses == 0  # no request
