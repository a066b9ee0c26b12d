"""A stand-in for the hubs on the loopback device: their lists, addresses, redirects, and their faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny-gguf"


@dataclass
class Hub:
    """What the server has and does. Faults are used up one a request, in order."""

    files: dict[str, bytes]
    address: str = ""
    token: str | None = None  # if set, nothing is shown without it
    gated: bool = False
    statuses: list[int] = field(default_factory=list)  # answers to the next calls of the list
    cuts: list[int] = field(default_factory=list)  # the next contents end after so many bytes
    contents: list[int] = field(default_factory=list)  # status codes instead of the next contents
    retry_after: str | None = None
    no_ranges: bool = False
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)  # changes to what is listed of a file
    extra: bytes = b""  # behind every content
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def sent(self, kind: str) -> list[tuple[str, str, dict[str, str]]]:
        """Requests whose path holds `kind`."""
        return [request for request in self.requests if kind in request[1]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub = self.server.hub
        hub.requests.append((self.command, unquote(self.path), dict(self.headers)))
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path.startswith("/cdn/"):
            self.send_content(path[5:], body)
            return
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.refuse(403 if hub.gated else 401, "GatedRepo" if hub.gated else "RepoNotFound")
        elif path.startswith("/api/models/"):
            if hub.statuses:
                self.refuse(hub.statuses.pop(0))
            elif not path.startswith(f"/api/models/{REPOSITORY}"):
                self.refuse(404, "RepoNotFound")
            elif path.endswith(("/revision/main", f"/revision/{COMMIT}")):
                self.send_json({"id": REPOSITORY, "sha": COMMIT, "siblings": self.siblings()})
            else:
                self.refuse(404, "RevisionNotFound")
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            name = path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")[2]
            # On another host, as the hub's large files are.
            elsewhere = hub.address.replace("127.0.0.1", "localhost")
            digest = hashlib.sha256(hub.files[name]).hexdigest()
            self.send_response(302)
            self.send_header("Location", f"{elsewhere}/cdn/{name}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(hub.files[name])))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == f"/api/v1/models/{REPOSITORY}/repo/files":
            self.send_json({"Code": 200, "Data": {"Files": [*self.tree(), {"Path": "tts", "Type": "tree"}]}})
        elif path == f"/api/v1/models/{REPOSITORY}/repo":
            self.send_content(query["FilePath"][0], body)
        else:
            self.refuse(404)

    def siblings(self) -> list[dict[str, Any]]:
        entries = []
        for name, data in self.server.hub.files.items():
            lfs = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
            lfs |= self.server.hub.listed.get(name, {})
            entries.append({"rfilename": name, "size": lfs["size"], "blobId": "0" * 40, "lfs": lfs})
        return [{"rfilename": "README.md", "size": 3, "blobId": "1" * 40}, *entries]

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
            for name, data in self.server.hub.files.items()
        ]

    def send_json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_content(self, name: str, body: bool) -> None:
        hub = self.server.hub
        if body and hub.contents:
            self.refuse(hub.contents.pop(0))
            return
        data = hub.files[name] + hub.extra
        ranged = None if hub.no_ranges else self.headers.get("Range")
        start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not body:
            return
        if hub.cuts:
            self.wfile.write(data[start : start + hub.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if code:
            self.send_header("X-Error-Code", code)
        if self.server.hub.retry_after:
            self.send_header("Retry-After", self.server.hub.retry_after)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub with one repository."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub(files, f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.hub
        server.shutdown()
