"""A server with the part of the Hugging Face hub's HTTP interface that pushing and loading a pipeline need.

It holds repositories in memory, each a list of commits, and answers as the hub does: a repository starts with a
.gitattributes, is hidden from those who may not read it, and takes a whole commit in one request. Only the storage of
large files is left out: the server asks for all of them within the commit, which the hub does for small ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml

TOKEN, READER = "hf_of_anna", "hf_of_bob"  # one that may write, and one that sees what is public


@dataclass
class Repository:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.bin filter=lfs\n"}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def sha(self) -> str:
        return sha_of(len(self.commits) - 1)


def sha_of(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """A running hub that huggingface_hub uses in this process, with a cache of its own, as a user who may write."""
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, huggingface_hub.file_download):  # the second one before version 1
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forget_connections()
    try:
        yield server
    finally:
        forget_connections()
        server.shutdown()
        server.server_close()
        thread.join()


def forget_connections() -> None:
    """Make huggingface_hub notice that it is offline, or no longer; before version 1 it asks once for a session."""
    http = huggingface_hub.utils._http
    getattr(http, "reset_sessions", getattr(http, "close_session", None))()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def _answer(self, act: Any) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        act(path)

    def _user(self) -> str | None:
        return {f"Bearer {TOKEN}": "anna", f"Bearer {READER}": "bob"}.get(self.headers.get("Authorization", ""))

    def _find(self, name: str) -> Repository | None:
        """A repository that the user may read; otherwise the answer is that there is none."""
        repo = self.server.repos.get(name)
        if repo is not None and (not repo.private or self._user() == "anna"):
            return repo
        self._refuse(404 if self._user() else 401, "RepoNotFound")
        return None

    # --- reading

    def _read(self, path: str) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            self._tree(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3])
        else:
            self._refuse(404, "EntryNotFound")

    def _commit(self, repo: Repository, revision: str) -> tuple[str, dict[str, bytes]] | None:
        by_name = {sha_of(number): files for number, files in enumerate(repo.commits)} | {"main": repo.files}
        if revision not in by_name:
            self._refuse(404, "RevisionNotFound")
            return None
        return (repo.sha if revision == "main" else revision), by_name[revision]

    def _info(self, name: str, revision: str) -> None:
        if (repo := self._find(name)) and (commit := self._commit(repo, revision)):
            siblings = [{"rfilename": path} for path in sorted(commit[1])]
            info = {"_id": "1", "id": name, "modelId": name, "sha": commit[0], "private": repo.private}
            self._send(info | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, name: str, revision: str) -> None:
        if (repo := self._find(name)) and (commit := self._commit(repo, revision)):
            files = sorted(commit[1].items())
            self._send([{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files])

    def _file(self, name: str, revision: str, path: str) -> None:
        if (repo := self._find(name)) and (commit := self._commit(repo, revision)):
            if path not in commit[1]:
                self._refuse(404, "EntryNotFound")
            else:
                headers = {"ETag": f'"{_oid(commit[1][path])}"', "X-Repo-Commit": commit[0]}
                self._send(commit[1][path], headers=headers)

    # --- writing

    def _write(self, path: str) -> None:
        if path == "/api/validate-yaml":
            self._validate(json.loads(self.body)["content"])
        elif self._user() != "anna":
            self._refuse(403 if self._user() else 401, "Unauthorized")
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            if repo := self._find(found[1]):
                self._preupload(repo) if found[2] == "preupload" else self._add_commit(repo, found[1])
        else:
            self._refuse(404, "EntryNotFound")

    def _validate(self, content: str) -> None:
        metadata = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
        if metadata.get("license") in (None, "mit", "apache-2.0", "cc-by-sa-4.0", "other"):
            self._send({"errors": [], "warnings": []})
        else:
            self._send({"errors": [{"message": '"license" must be one of mit, …'}], "warnings": []}, status=400)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'anna'}/{wanted['name']}"
        # Since version 2, huggingface_hub sends the visibility as a word.
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server.repos[name] = Repository(private)
        self._send({"url": f"{self.server.url}/{name}", "name": name})

    def _preupload(self, repo: Repository) -> None:
        def answer(path: str) -> dict[str, Any]:
            there = repo.files.get(path)
            oid = {} if there is None else {"oid": _oid(there)}
            return {"path": path, "uploadMode": "regular", "shouldIgnore": False, **oid}

        self._send({"files": [answer(one["path"]) for one in json.loads(self.body)["files"]]})

    def _add_commit(self, repo: Repository, name: str) -> None:
        files, lines = dict(repo.files), [json.loads(line) for line in self.body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        repo.commits.append(files)
        self._send({"success": True, "commitOid": repo.sha, "commitUrl": f"{self.server.url}/{name}/commit/{repo.sha}"})

    # --- answers

    def _send(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._send({"error": code}, status=status, headers={"X-Error-Code": code, "X-Error-Message": code})


def _oid(data: bytes) -> str:
    """Git's own hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
