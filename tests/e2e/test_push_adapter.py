"""Adapters to the Hub and back, by the real client, against a server in this process that speaks the Hub's API."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import yaml

from lalm_mer.core.errors import AdapterError
from lalm_mer.core.provenance import hash_file
from lalm_mer.evaluation.runs import read_run
from lalm_mer.recognizers.hub import load_adapter_from, push

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_test"
SCORES = """
import sys
from pathlib import Path
import numpy, torch
from lalm_mer.core.config import load_config
from lalm_mer.launch.data import spread
from lalm_mer.launch.language import open_language_run
from lalm_mer.launch.settings import ZeroShotSettings
from lalm_mer.models.adapters import load_adapter
from lalm_mer.recognizers.hub import load_adapter_from

language = open_language_run(load_config(ZeroShotSettings, Path(sys.argv[1])))
folder = load_adapter_from("jane/adapter")
model = language.answer_model(load_adapter(language.family, folder)).eval()
examples = language.data.test.select(language.data.scored)
rows = []
with torch.no_grad():
    for start in range(0, len(examples), 4):
        some = [examples[index] for index in range(start, min(start + 4, len(examples)))]
        rows.append(model(**language.collators[1](some))["log_probs"].numpy())
numpy.save(sys.argv[2], spread(language.data, numpy.concatenate(rows)))
"""


class Hub:
    """What the server holds: repositories, each a list of commits, and large files by their SHA-256."""

    def __init__(self):
        self.repos = {}
        self.private = {}
        self.large = {}
        self.verified = set()
        self.asked = []

    def head(self, repo, revision="main"):
        """Commit and files of a revision; None where there is none."""
        commits = self.repos.get(repo, [])
        found = [item for item in commits if item[0] == revision] if revision != "main" else commits[-1:]
        return found[0] if found else None

    def commit(self, repo, files):
        sha = hashlib.sha1(f"{repo} {len(self.repos.get(repo, []))}".encode()).hexdigest()
        self.repos.setdefault(repo, []).append((sha, files))
        return sha


class Handler(BaseHTTPRequestHandler):
    """The part of the Hub's API that huggingface_hub 2.4 uses for models, without Xet."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments):
        pass

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        body = self.body()
        self.hub.asked.append((self.command, path))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for pattern, name in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                groups = found.groupdict()
                repo = groups.get("repo")
                writes = self.command in ("POST", "PUT") and name != "put"
                if (writes or self.hub.private.get(repo)) and not known:
                    return self.answer(401, {"error": "Invalid username or password."})
                if repo is not None and repo not in self.hub.repos:
                    return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return getattr(self, name)(body, **groups)
        return self.answer(404, {"error": "no such route"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, body):
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.hub.repos:
            return self.answer(409, {"error": "exists", "url": f"{self.server.endpoint}/{repo}"})
        self.hub.private[repo] = asked.get("visibility") == "private"
        self.hub.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.answer(200, {"url": f"{self.server.endpoint}/{repo}", "name": repo})

    def check_yaml(self, body):
        head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        errors = [] if isinstance(head.get("license"), str) else [{"message": "license"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, body, repo, revision="main"):
        found = self.hub.head(repo, revision)
        if found is None:
            return self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        siblings = [{"rfilename": name} for name in found[1]]
        private = self.hub.private.get(repo, False)
        return self.answer(200, {"id": repo, "sha": found[0], "private": private, "siblings": siblings})

    def tree(self, body, repo, revision):
        self.answer(200, [self.entry(path, content) for path, content in self.hub.head(repo, revision)[1].items()])

    @staticmethod
    def entry(path, content):
        row = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path.endswith(".safetensors"):
            sha = hashlib.sha256(content).hexdigest()
            row["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
        return row

    def preupload(self, body, repo, revision):
        files = self.hub.head(repo, revision)[1]
        rows = []
        for asked in json.loads(body)["files"]:
            large = asked["path"].endswith(".safetensors")
            row = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if asked["path"] in files:
                content = files[asked["path"]]
                row["oid"] = hashlib.sha256(content).hexdigest() if large else git_oid(content)
            rows.append(row)
        self.answer(200, {"files": rows})

    def batch(self, body, repo):
        objects = []
        for item in json.loads(body)["objects"]:
            if item["oid"] not in self.hub.large:
                links = {"upload": f"/lfs/{item['oid']}", "verify": "/lfs-verify"}
                item["actions"] = {kind: {"href": self.server.endpoint + link} for kind, link in links.items()}
            objects.append(item)
        self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self.answer(200)

    def verify(self, body):
        asked = json.loads(body)
        good = len(self.hub.large.get(asked["oid"], b"")) == asked["size"]
        self.hub.verified |= {asked["oid"]} if good else set()
        self.answer(200 if good else 422, {})

    def commit(self, body, repo, revision):
        files = dict(self.hub.head(repo, revision)[1])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.commit(repo, files)
        self.answer(200, {"commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}", "commitOid": sha})

    def resolve(self, body, repo, revision, path):
        found = self.hub.head(repo, revision)
        if found is None or path not in found[1]:
            return self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
        content = found[1][path]
        return self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=found[0])


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "check_yaml"),
    (rf"GET /api/models/{_REPO}", "info"),
    (rf"GET /api/models/{_REPO}/revision/{_REVISION}", "info"),
    (rf"GET /api/models/{_REPO}/tree/{_REVISION}", "tree"),
    (rf"POST /api/models/{_REPO}/preupload/{_REVISION}", "preupload"),
    (rf"POST /api/models/{_REPO}/commit/{_REVISION}", "commit"),
    (rf"POST /{_REPO[:-1]}?)\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", "put"),
    (r"POST /lfs-verify", "verify"),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<path>.+)", "resolve"),
]


def git_oid(content):
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture
def server():
    """A Hub of its own for a test."""
    handler = type("OneHub", (Handler,), {"hub": Hub()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.endpoint = f"http://127.0.0.1:{running.server_port}"
        running.hub = handler.hub
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def online(server, tmp_path):
    """What a user's environment says, with this Hub in place of the other."""
    return {
        "HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip


@pytest.fixture
def here(server, tmp_path, monkeypatch):
    """The same for calls in this process, whose client has read its environment already."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server.hub


@pytest.fixture
def assembled(tmp_path):
    """A small folder with the files of an adapter."""
    folder = tmp_path / "assembled"
    folder.mkdir()
    for name in ("adapter_config.json", "labels.json", "run.json"):
        (folder / name).write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n# Adapter\n")
    return folder


def push_by_recipe(workplace, run, environment, *arguments):
    command = [sys.executable, "recipes/push_adapter.py", str(run), "--repo", "jane/adapter", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=workplace.environment() | environment, capture_output=True, text=True, check=False
    )


def test_an_adapter_goes_to_the_hub_and_scores_the_same_when_it_comes_back(
    uninterrupted, workplace, server, online, tmp_path
):
    done = push_by_recipe(workplace, uninterrupted, online, "--licence", "cc-by-nc-4.0", "--private")
    assert done.returncode == 0, done.stderr
    assert f"pushed: {server.endpoint}/jane/adapter/commit/" in done.stdout
    commits = server.hub.repos["jane/adapter"]
    assert len(commits) == 2  # the one that made it, and ours
    assert server.hub.private["jane/adapter"]
    files = commits[-1][1]
    weights = (uninterrupted / "adapter" / "adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == weights
    assert server.hub.verified == {hashlib.sha256(weights).hexdigest()}  # as a large file
    assert not [name for name in files if "checkpoint" in name or "predictions" in name or name.endswith(".pt")]
    everything = b"\n".join(content for name, content in files.items() if name != "tokenizer.json")
    ids = set(pd.read_parquet(uninterrupted / "predictions.parquet")["utterance_id"])
    for secret in [str(workplace.folder), "The door is number", *ids]:
        assert secret.encode() not in everything
    assert b"license: cc-by-nc-4.0" in files["README.md"]

    again = push_by_recipe(workplace, uninterrupted, online, "--licence", "cc-by-nc-4.0", "--private")
    assert again.returncode == 0, again.stderr
    assert len(server.hub.repos["jane/adapter"]) == 2  # nothing has changed

    scores = tmp_path / "scores.npy"
    loaded = subprocess.run(
        [sys.executable, "-c", SCORES, str(workplace.config("zero_shot")), str(scores)],
        cwd=ROOT, env=workplace.environment() | online, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    before = pd.read_parquet(uninterrupted / "predictions.parquet").filter(like="log_prob_").to_numpy()
    assert np.isfinite(before).sum() == 80
    np.testing.assert_allclose(np.load(scores), before, atol=1e-6, equal_nan=True)
    assert ("HEAD", f"/jane/adapter/resolve/{commits[-1][0]}/adapter_model.safetensors") in server.hub.asked


def test_zero_shot_scores_with_an_adapter_by_its_id(uninterrupted, workplace, server, online, tmp_path):
    again = f"output.dir={uninterrupted}"
    done = workplace.start("finetune", again, "output.push_to=jane/adapter", **online).result()
    assert done.returncode == 0, done.stderr
    assert f"pushed: {server.endpoint}/jane/adapter/commit/" in done.stdout

    workplace.run("zero_shot", tmp_path / "adapted", "model.adapter=jane/adapter", **online)
    before, after = (pd.read_parquet(run / "predictions.parquet") for run in (uninterrupted, tmp_path / "adapted"))
    pd.testing.assert_frame_equal(after, before, atol=1e-6, rtol=0)
    run = read_run(tmp_path / "adapted")
    assert run.method == "lora"
    assert run.hashes["adapter"] == hash_file(uninterrupted / "adapter" / "adapter_model.safetensors")
    report = tmp_path / "report"
    assert workplace.script("eval/compare.py", str(tmp_path / "adapted"), "--out", str(report)) == 0

    offline = online | {"HF_HUB_OFFLINE": "1"}  # what was downloaded once is there
    workplace.run("zero_shot", tmp_path / "offline", "model.adapter=jane/adapter", **offline)


def test_an_adapter_is_not_scored_on_another_fold(uninterrupted, workplace, tmp_path, capsys):
    overrides = [f"model.adapter={uninterrupted}", "split.fold=2", f"output.dir={tmp_path / 'out'}"]
    assert workplace.again("zero_shot", *overrides) == 1
    assert "trained on fold 1 of the same folds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_finetune_takes_no_adapter(uninterrupted, workplace, capsys):
    assert workplace.again("finetune", f"model.adapter={uninterrupted}") == 1
    assert "zero_shot.py scores with one" in capsys.readouterr().err


def test_a_dry_run_writes_the_folder_and_asks_nobody(uninterrupted, workplace, server, online, tmp_path):
    done = push_by_recipe(workplace, uninterrupted, online, "--dry-run", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "nothing was pushed" in done.stdout
    assert server.hub.asked == []
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "README.md", "prompt.yaml", "labels.json", "tokenizer.json"} <= written
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "n = 21 utterances" in card
    assert "20 scored, 1 unscored" in card
    assert "model-index" not in card  # the base model's weights are random


def test_a_zero_shot_run_is_refused_in_one_line(prompted, workplace, capsys):
    assert workplace.script("recipes/push_adapter.py", str(prompted), "--repo", "jane/adapter") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {prompted}: method zero_shot; only a run that trained an adapter has one to push"


def test_a_wrong_token_is_one_line(here, assembled, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AdapterError, match="cannot be pushed to the Hub") as caught:
        push(assembled, "jane/adapter")
    assert "\n" not in str(caught.value)
    assert "hf_wrong" not in str(caught.value)
    assert here.repos == {}


def test_a_repository_of_something_else_is_left_alone(here, assembled):
    here.commit("jane/model", {"config.json": b"{}", "model.safetensors": b"years of work"})
    with pytest.raises(AdapterError, match=r"holds config\.json and no adapter_config\.json"):
        push(assembled, "jane/model")
    assert len(here.repos["jane/model"]) == 1


def test_what_an_earlier_push_left_is_removed_in_the_same_commit(here, assembled):
    earlier = {"adapter_config.json": b"{}", "vocab.json": b"{}", "notes/mine.json": b"{}", "plot.png": b"png"}
    here.commit("jane/adapter", earlier)
    push(assembled, "jane/adapter")
    assert len(here.repos["jane/adapter"]) == 2
    files = here.repos["jane/adapter"][-1][1]
    assert set(files) == {path.name for path in assembled.iterdir()} | {"notes/mine.json", "plot.png"}


def test_private_is_not_said_of_what_is_public(here, assembled):
    push(assembled, "jane/adapter")
    with pytest.raises(AdapterError, match="is public already"):
        push(assembled, "jane/adapter", private=True)


def test_only_harmless_files_are_downloaded(here, tiny_adapter):
    more = {"adapter_model.bin": b"pickle", "evil.py": b"x", "checkpoints/run.json": b"{}"}
    here.commit("jane/adapter", tiny_adapter | more)
    folder = load_adapter_from("jane/adapter")
    assert {path.name for path in folder.rglob("*")} == set(tiny_adapter)


def test_a_revision_is_loaded_as_it_was(here, tiny_adapter):
    first = here.commit("jane/adapter", tiny_adapter | {"labels.json": b'{"old": 1}'})
    here.commit("jane/adapter", tiny_adapter | {"labels.json": b'{"new": 1}'})
    assert json.loads((load_adapter_from("jane/adapter", first) / "labels.json").read_text()) == {"old": 1}
    assert json.loads((load_adapter_from("jane/adapter") / "labels.json").read_text()) == {"new": 1}


@pytest.mark.parametrize(("source", "revision"), [("jane/nothing", None), ("jane/adapter", "nowhere")])
def test_what_is_not_on_the_hub_is_said_in_one_line(here, tiny_adapter, source, revision):
    here.commit("jane/adapter", tiny_adapter)
    with pytest.raises(AdapterError, match=f"{source}: cannot be loaded from the Hub") as caught:
        load_adapter_from(source, revision)
    assert "\n" not in str(caught.value)


def test_a_pickled_adapter_is_refused(here):
    here.commit("jane/adapter", {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.bin": b"pickle"})
    with pytest.raises(AdapterError, match=r"jane/adapter: no adapter_model\.safetensors"):
        load_adapter_from("jane/adapter")


@pytest.fixture
def tiny_adapter(uninterrupted):
    """Files of an adapter, as a repository holds them."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    return {name: (uninterrupted / "adapter" / name).read_bytes() for name in names}
