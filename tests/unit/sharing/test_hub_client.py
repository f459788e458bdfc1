"""A Hub that refuses, stalls, disconnects or sends malformed data: one line, no local change; a later call works."""

import json
import time

import huggingface_hub
import pytest
import torch
from hub_server import cuts, drops, once, refuses, serve, speak_to, stalls
from safetensors.torch import save

from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.sharing.hub import load_adapter_from, push

STEPS = {
    "POST /api/repos/create": "creating the repository failed",
    "GET /api/models/jane/adapter$": "reading the repository failed",
    "POST /api/models/jane/adapter/preupload": "sending the files failed",
    "POST /jane/adapter.git/info/lfs": "sending the files failed",
    "PUT /lfs/": "sending the files failed",
    "POST /lfs-verify": "sending the files failed",
    "POST /api/models/jane/adapter/commit": "the commit failed",
}
DOWNLOAD = [
    "GET /api/models/jane/adapter$",
    "GET /api/models/jane/adapter/tree",
    "HEAD /jane/adapter/resolve",
    "GET /jane/adapter/resolve",
]
WEIGHTS = save({"base_model.model.x.lora_A.weight": torch.zeros(300_000)})
FILES = {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": WEIGHTS, "run.json": b"{}"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The content of the server."""
    with serve() as server:
        speak_to(server, tmp_path / "cache", monkeypatch)
        yield server.hub


@pytest.fixture
def folder(tmp_path):
    """What is pushed."""
    folder = tmp_path / "assembled"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n# Adapter\n")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails_and_is_repeated(hub, folder, message_part, timeout_s=5.0):
    before = contents(folder)
    with pytest.raises(AdapterError) as caught:
        push(folder, "jane/adapter", timeout_s=timeout_s)
    message = str(caught.value)
    assert message.startswith(f"jane/adapter: cannot be pushed to the Hub, {message_part}: ")
    assert "\n" not in message
    assert contents(folder) == before
    assert "adapter_model.safetensors" not in (hub.head("jane/adapter") or ("", {}))[1]

    hub.faults = []
    push(folder, "jane/adapter")
    assert hub.head("jane/adapter")[1] == before | {".gitattributes": hub.repos["jane/adapter"][0][1][".gitattributes"]}
    return message


@pytest.mark.parametrize("status", [401, 403, 500])
@pytest.mark.parametrize(("request_line", "message_part"), STEPS.items())
def test_a_refusal_at_any_step_is_reported_and_the_push_can_be_repeated(
    hub, folder, request_line, message_part, status
):
    hub.faults = [(request_line, refuses(status))]
    message = fails_and_is_repeated(hub, folder, message_part)
    assert str(status) in message
    assert ("that HF_TOKEN allows it" in message) == (status < 500)


@pytest.mark.parametrize(("request_line", "message_part"), STEPS.items())
def test_the_wait_for_a_server_is_limited(hub, folder, request_line, message_part):
    hub.faults = [(request_line, stalls)]
    started = time.monotonic()
    assert "no answer within 0.1 s" in fails_and_is_repeated(hub, folder, message_part, timeout_s=0.1)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("fault", [drops, cuts])
def test_an_interrupted_upload_is_reported(hub, folder, fault):
    hub.faults = [("PUT /lfs/" if fault is drops else "POST /api/models/jane/adapter/commit", fault)]
    before = contents(folder)
    with pytest.raises(AdapterError, match="failed") as caught:
        push(folder, "jane/adapter")
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    hub.faults = []
    push(folder, "jane/adapter")
    assert {name: hub.head("jane/adapter")[1][name] for name in before} == before


@pytest.mark.parametrize("fault", [refuses(503), drops])
def test_a_single_failure_is_retried(hub, folder, fault):
    hub.faults = [("PUT /lfs/", once(fault))]
    push(folder, "jane/adapter")
    assert hub.head("jane/adapter")[1]["adapter_model.safetensors"] == WEIGHTS


def test_signed_urls_are_not_shown(hub, folder, monkeypatch):
    hub.faults = [("PUT /lfs/", refuses(403))]
    hub.signature = "?X-Signature=secret"
    with pytest.raises(AdapterError, match=r"/lfs/[0-9a-f]{64}") as caught:
        push(folder, "jane/adapter")
    assert any("PUT" in method for method, _ in hub.requests)
    assert "secret" not in str(caught.value)


def test_a_time_out_of_zero_is_refused(folder):
    with pytest.raises(ConfigError, match="expected more than 0"):
        push(folder, "jane/adapter", timeout_s=0)


def load(hub, message_part):
    with pytest.raises(AdapterError, match="jane/adapter: cannot be loaded from the Hub") as caught:
        load_adapter_from("jane/adapter", timeout_s=0.2)
    assert "\n" not in str(caught.value)
    assert message_part in str(caught.value)
    hub.faults = []
    assert contents(load_adapter_from("jane/adapter")) == FILES


@pytest.mark.parametrize("request_line", DOWNLOAD)
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refused_download_is_reported_and_can_be_repeated(hub, request_line, status):
    hub.commit("jane/adapter", FILES)
    hub.faults = [(request_line, refuses(status))]
    load(hub, str(status))


@pytest.mark.parametrize("request_line", DOWNLOAD)
def test_the_wait_for_a_download_is_limited(hub, request_line):
    hub.commit("jane/adapter", FILES)
    hub.faults = [(request_line, stalls)]
    started = time.monotonic()
    load(hub, "no answer within")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("chunk", [1000, 10_000_000])
def test_a_partial_file_is_never_used(hub, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)  # what has arrived resets its retries
    hub.commit("jane/adapter", FILES)
    hub.faults = [("GET /jane/adapter/resolve/.*safetensors", cuts)]
    for _ in range(2):
        with pytest.raises(AdapterError, match="cannot be loaded from the Hub") as caught:
            load_adapter_from("jane/adapter")
        assert "\n" not in str(caught.value)
    assert len([path for method, path in hub.requests if method == "GET" and path.endswith("safetensors")]) <= 60
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AdapterError, match="cannot be loaded from the Hub"):
        load_adapter_from("jane/adapter")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.faults = []
    assert contents(load_adapter_from("jane/adapter")) == FILES
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".incomplete")]


def test_names_outside_of_the_cache_are_refused(hub, tmp_path):
    hub.commit("jane/adapter", FILES | {"../../../../evil.json": b"{}", "/evil.yaml": b"a: b"})
    load_adapter_from("jane/adapter")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    "header", [{"ETag": '"../../../../evil"'}, {"X-Linked-Etag": "..\\evil"}, {"X-Repo-Commit": ".."}]
)
def test_hashes_outside_of_the_cache_are_refused(hub, tmp_path, header):
    hub.commit("jane/adapter", FILES)

    def malformed(handler):
        handler.body()
        headers = {"ETag": '"abc"', "X-Repo-Commit": "a" * 40} | header
        handler.answer(200, b"{}", **{name.replace("-", "_"): value for name, value in headers.items()})

    hub.faults = [("HEAD /jane/adapter/resolve", malformed)]
    load(hub, next(iter(header)) if "Etag" in str(header).title() else "commit")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("sha", "message_part"),
    [("../../../../evil", "is no hash"), ("..", "is no hash"), (7, "Error"), (None, "revision sha")],
)
def test_a_commit_that_is_no_hash_is_refused(hub, tmp_path, sha, message_part):
    hub.commit("jane/adapter", FILES)
    hub.faults = [("GET /api/models/jane/adapter$", lambda handler: handler.answer(200, {"id": "x", "sha": sha}))]
    with pytest.raises(AdapterError, match=f"cannot be loaded from the Hub.*{message_part}") as caught:
        load_adapter_from("jane/adapter")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", json.dumps({"files": 1}).encode()])
@pytest.mark.parametrize("request_line", [next(iter(STEPS)), "POST /api/models/jane/adapter/preupload", "POST /jane/"])
def test_a_malformed_answer_is_reported(hub, folder, request_line, answer):
    def mumbles(handler):
        handler.body()
        handler.answer(200, answer)

    hub.faults = [(request_line, mumbles)]
    with pytest.raises(AdapterError, match="cannot be pushed to the Hub") as caught:
        push(folder, "jane/adapter")
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_reported(tmp_path, monkeypatch, folder):
    with serve() as server:
        speak_to(server, tmp_path / "cache", monkeypatch)
    for call in (lambda: push(folder, "jane/adapter"), lambda: load_adapter_from("jane/adapter")):
        with pytest.raises(AdapterError, match=r"jane/adapter\b.*cannot be .*Connection refused") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_client_is_restored(hub, folder):
    before = huggingface_hub.get_session().event_hooks
    push(folder, "jane/adapter")
    hub.faults = [("GET /api", refuses(403))]
    with pytest.raises(AdapterError):
        load_adapter_from("jane/adapter")
    assert huggingface_hub.get_session().event_hooks == before
