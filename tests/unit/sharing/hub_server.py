"""A server in this process with the Hub's API, which may refuse, stall, disconnect or send malformed data."""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub
import yaml

TOKEN = "hf_test"


class Hub:
    """The content of the server: repositories, each a list of commits, and large files by their SHA-256."""

    def __init__(self):
        self.repos = {}
        self.private = {}
        self.large = {}
        self.verified = set()
        self.requests = []
        self.faults = []  # (pattern of "METHOD path", what a handler does instead)
        self.signature = ""  # of addresses to upload to
        self.released = threading.Event()  # ends every stall

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
    wbufsize = -1  # head and body in one packet, or each answer waits for an acknowledgement
    hub: Hub
    cut = False

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
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
        if self.cut:
            self.hang_up()

    def hang_up(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        for pattern, fault in self.hub.faults:
            if re.match(pattern, f"{self.command} {path}"):
                return fault(self)
        return self.handle_well(path)

    def handle_well(self, path):
        body = self.body()
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
        payload = json.loads(body)
        repo = f"{payload['organization']}/{payload['name']}"
        if repo in self.hub.repos:
            return self.answer(409, {"error": "exists", "url": f"{self.server.endpoint}/{repo}"})
        self.hub.private[repo] = payload.get("visibility") == "private"
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
        for payload in json.loads(body)["files"]:
            large = payload["path"].endswith(".safetensors")
            row = {"path": payload["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if payload["path"] in files:
                content = files[payload["path"]]
                row["oid"] = hashlib.sha256(content).hexdigest() if large else git_oid(content)
            rows.append(row)
        self.answer(200, {"files": rows})

    def batch(self, body, repo):
        objects = []
        for item in json.loads(body)["objects"]:
            if item["oid"] not in self.hub.large:
                links = {"upload": f"/lfs/{item['oid']}{self.hub.signature}", "verify": "/lfs-verify"}
                item["actions"] = {kind: {"href": self.server.endpoint + link} for kind, link in links.items()}
            objects.append(item)
        self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self.answer(200)

    def verify(self, body):
        payload = json.loads(body)
        good = len(self.hub.large.get(payload["oid"], b"")) == payload["size"]
        self.hub.verified |= {payload["oid"]} if good else set()
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


def refuses(status):
    """A fault: an error in place of an answer."""

    def fault(handler):
        handler.body()
        handler.answer(status, {"error": "no"})

    return fault


def stalls(handler):
    """A fault: accepted, never answered."""
    handler.body()
    handler.hub.released.wait(30)
    handler.close_connection = True


def drops(handler):
    """A fault: the line breaks off while the client sends."""
    handler.rfile.read(1)
    handler.hang_up()


def cuts(handler):
    """A fault: the line breaks off in the middle of the answer."""
    handler.cut = True
    handler.handle_well(unquote(urlsplit(handler.path).path))


def once(fault):
    """The fault, the first time alone."""
    left = [fault]
    return lambda handler: left.pop()(handler) if left else handler.handle_well(unquote(urlsplit(handler.path).path))


@contextmanager
def serve():
    """A new Hub: ``endpoint`` and ``hub``."""
    handler = type("OneHub", (Handler,), {"hub": Hub()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.endpoint = f"http://127.0.0.1:{running.server_port}"
        running.hub = handler.hub
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.hub.released.set()
            running.shutdown()


def speak_to(server, cache, monkeypatch):
    """Make the client in this process, which has read its environment, use this Hub and retry without delay."""
    constants = huggingface_hub.constants
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hasty = SimpleNamespace(**(vars(time) | {"sleep": lambda seconds: None}))
    monkeypatch.setattr("huggingface_hub.utils._http.time", hasty)
    monkeypatch.setattr("huggingface_hub.file_download.time", hasty)
