"""Addresses: what is read, what is refused. Servers run on the loopback device."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import omni
from omni.fetch import Limits, fetch, is_address

CONTENT = b"\x89PNG\r\n" + bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/hops":
            hops = int(query)
            self.send_response(302)
            self.send_header("Location", f"/hops?{hops - 1}" if hops > 1 else "/picture")
            self.end_headers()
        elif path == "/away":
            self.send_response(302)
            self.send_header("Location", query)
            self.end_headers()
        elif path == "/missing":
            self.send_error(404)
        elif path == "/slow":
            self.answer("image/png", None)
            for _ in range(50):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/silent":
            time.sleep(2)
        elif path == "/cut":
            self.answer("image/png", 2 * len(CONTENT))
            self.wfile.write(CONTENT)
        elif path == "/unknown-length":
            self.answer("image/png", None)
            self.wfile.write(CONTENT)
        else:
            self.answer(query or "image/png", len(CONTENT))
            self.wfile.write(CONTENT)

    def answer(self, content_type: str, length: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize(
    "path", ["/picture", "/unknown-length", "/hops?5", "/picture?application/octet-stream"]
)
def test_download(server: str, path: str) -> None:
    assert fetch(server + path, "image") == CONTENT


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "画 1.png"
    path.write_bytes(CONTENT)
    assert fetch(str(path), "image") == CONTENT
    assert fetch(path.as_uri(), "image") == CONTENT
    with pytest.raises(omni.ModelFileError, match=r"nothing\.png"):
        fetch(str(tmp_path / "nothing.png"), "image")
    with pytest.raises(omni.InvalidArgumentError, match="limit"):
        fetch(str(path), "image", Limits(max_bytes=100))
    for address in (str(path), path.as_uri()):
        with pytest.raises(omni.InvalidArgumentError, match="files can't be read"):
            fetch(address, "image", Limits(files=False))
    assert not is_address("C:\\picture.png")


def test_data_addresses() -> None:
    text = base64.b64encode(CONTENT).decode()
    assert fetch(f"data:image/png;base64,{text}", "image") == CONTENT
    assert fetch("data:image/svg+xml,%3Csvg", "image") == b"<svg"
    with pytest.raises(omni.FormatError, match="base64"):
        fetch("data:image/png;base64,?", "image")
    with pytest.raises(omni.FormatError, match="text/html"):
        fetch("data:text/html,hello", "image")
    with pytest.raises(omni.InvalidArgumentError, match="comma"):
        fetch("data:image/png", "image")
    with pytest.raises(omni.InvalidArgumentError, match="limit"):
        fetch(f"data:image/png;base64,{text}", "image", Limits(max_bytes=1000))


@pytest.mark.parametrize("path", ["/picture", "/unknown-length"])
def test_size_limit(server: str, path: str) -> None:
    with pytest.raises(omni.InvalidArgumentError, match="limit"):
        fetch(server + path, "image", Limits(max_bytes=1000))


def test_redirects_are_limited(server: str) -> None:
    with pytest.raises(omni.InvalidArgumentError, match="too many redirects"):
        fetch(server + "/hops?6", "image")
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png,x"):
        with pytest.raises(omni.OmniError, match=r"redirects to|Redirection to"):
            fetch(f"{server}/away?{target}", "image")


def test_content_type_is_checked(server: str) -> None:
    with pytest.raises(omni.FormatError, match="text/html, not image"):
        fetch(server + "/picture?text/html", "image")
    with pytest.raises(omni.FormatError, match="image/png, not audio"):
        fetch(server + "/picture", "audio")
    assert fetch(server + "/picture?video/mp4", "audio") == CONTENT


def test_timeouts(server: str) -> None:
    start = time.monotonic()
    with pytest.raises(omni.ModelFileError, match="timed out"):
        fetch(server + "/silent", "image", Limits(timeout=0.2))
    with pytest.raises(omni.ModelFileError, match="not complete after"):
        fetch(server + "/slow", "image", Limits(total_timeout=0.3))
    assert time.monotonic() - start < 1.9


def test_failing_servers(server: str) -> None:
    with pytest.raises(omni.ModelFileError, match="404"):
        fetch(server + "/missing", "image")
    with pytest.raises(omni.ModelFileError, match="ended after"):
        fetch(server + "/cut", "image")
    with pytest.raises(omni.ModelFileError, match="refused"):
        fetch("http://127.0.0.1:1/x", "image")
    with pytest.raises(omni.InvalidArgumentError):
        fetch("http://[broken/x", "image")
    with pytest.raises(omni.UnsupportedError, match="ftp"):
        fetch("ftp://127.0.0.1/x", "image")


def test_private_addresses_can_be_closed_off(server: str) -> None:
    closed = Limits(private_addresses=False)
    port = server.rsplit(":", 1)[1]
    for host in (
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "224.0.0.1",
    ):
        with pytest.raises(omni.InvalidArgumentError, match="not public"):
            fetch(f"http://{host}:{port}/picture", "image", closed)
    with pytest.raises(omni.InvalidArgumentError, match="not public"):
        fetch(f"https://127.0.0.1:{port}/picture", "image", closed)
