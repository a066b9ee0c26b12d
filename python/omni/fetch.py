"""Bytes behind a path, a file:, data:, http: or https: address, within limits.

A program that takes addresses from strangers must not become their proxy into its own network, nor read its
files to them: such a program passes `Limits(files=False, private_addresses=False)`. The check is made on the
address that is connected to, after every redirect, so a name that changes its mind does not pass.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from omni.errors import FormatError, InvalidArgumentError, ModelFileError, UnsupportedError

__all__ = ["Kind", "Limits", "fetch", "is_address"]

Kind = Literal["image", "audio", "video"]

_SCHEMES = ("http", "https", "data", "file")
# Types with which servers send files that they know nothing about.
_UNTYPED = ("application/octet-stream", "binary/octet-stream", "application/binary")
# Containers hold sound or pictures, whatever their type says.
_ALSO = {"image": (), "audio": ("video/", "application/ogg"), "video": ("application/ogg", "audio/")}
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What may be fetched."""

    max_bytes: int = 256 << 20
    timeout: float = 30.0  # seconds without a byte, and to connect
    total_timeout: float = 300.0  # seconds in all
    max_redirects: int = 5
    files: bool = True  # paths and file: addresses
    private_addresses: bool = True  # loopback, link-local and private networks


def is_address(text: str) -> bool:
    """Whether `text` is an address of a scheme that `fetch` knows, not a path."""
    return text.split(":", 1)[0].lower() in _SCHEMES and ":" in text


def fetch(address: str, kind: Kind, limits: Limits | None = None) -> bytes:
    """Bytes of a file that holds an image, sound or video.

    Args:
        address: a path, or a file:, data:, http: or https: address.
        kind: what it must be; a server that says otherwise is believed.
        limits: sizes, times and places.

    Raises:
        ModelFileError: missing, unreadable, or the server refused or didn't answer in time.
        InvalidArgumentError: an address that is malformed or not allowed, or too many bytes.
        FormatError: the content is of another type.
    """
    limits = limits or Limits()
    if not is_address(address):
        if "://" in address:
            scheme = address.split("://", 1)[0]
            raise UnsupportedError(f"{kind} {_short(address)}: {scheme} addresses are not supported")
        return _read_file(Path(address), kind, limits)
    scheme = address.split(":", 1)[0].lower()
    if scheme == "data":
        return _decode_data(address, kind, limits)
    if scheme == "file":
        path = urllib.parse.urlsplit(address).path
        return _read_file(Path(urllib.request.url2pathname(path)), kind, limits)
    return _download(address, kind, limits)


def _short(address: str) -> str:
    return address if len(address) <= 200 else f"{address[:200]}..."


def _too_large(name: str, limits: Limits) -> NoReturn:
    raise InvalidArgumentError(f"{name}: more than {limits.max_bytes:,} bytes, the limit")


def _read_file(path: Path, kind: Kind, limits: Limits) -> bytes:
    name = f"{kind} {path}"
    if not limits.files:
        raise InvalidArgumentError(f"{name}: files can't be read here, only http(s) and data addresses")
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"{name} can't be read: {reason}") from error
    if len(data) > limits.max_bytes:
        _too_large(name, limits)
    return data


def _decode_data(address: str, kind: Kind, limits: Limits) -> bytes:
    header, comma, text = address[len("data:") :].partition(",")
    name = f"{kind} in a data: address"
    if not comma:
        raise InvalidArgumentError(f"{name}: no comma between type and content")
    media_type, _, encoding = header.rpartition(";") if header.endswith(";base64") else (header, "", "")
    _check_type(media_type or "text/plain", kind, name)
    if len(text) > 4 * limits.max_bytes:
        _too_large(name, limits)
    try:
        data = (
            base64.b64decode(urllib.parse.unquote_to_bytes(text), validate=True)
            if encoding
            else urllib.parse.unquote_to_bytes(text)
        )
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{name}: not valid base64: {error}") from error
    if len(data) > limits.max_bytes:
        _too_large(name, limits)
    return data


def _check_type(content_type: str, kind: Kind, name: str) -> None:
    media_type = content_type.split(";", 1)[0].strip().lower()
    if media_type and media_type not in _UNTYPED and not media_type.startswith((f"{kind}/", *_ALSO[kind])):
        raise FormatError(f"{name}: its type is {media_type}, not {kind}")


def _download(address: str, kind: Kind, limits: Limits) -> bytes:
    name = f"{kind} {_short(address)}"
    deadline = time.monotonic() + limits.total_timeout
    try:
        request = urllib.request.Request(
            address, headers={"User-Agent": "omni", "Accept": f"{kind}/*, */*;q=0.5"}
        )
        with _opener(limits).open(request, timeout=limits.timeout) as response:
            _check_type(response.headers.get("Content-Type", ""), kind, name)
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > limits.max_bytes:
                _too_large(name, limits)
            data = bytearray()
            while block := response.read1(_BLOCK):
                data += block
                if len(data) > limits.max_bytes:
                    _too_large(name, limits)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {limits.total_timeout:g} s")
            if length.isdecimal() and len(data) < int(length):
                raise ModelFileError(f"{name}: the connection ended after {len(data)} of {length} bytes")
            return bytes(data)
    except urllib.error.HTTPError as error:
        with error:
            raise ModelFileError(f"{name}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, (ModelFileError, InvalidArgumentError)):
            raise
        reason = getattr(error, "reason", None) or error
        raise ModelFileError(f"{name}: {reason or type(error).__name__}") from error
    except ValueError as error:  # urllib's word for an address that it can't take apart
        if isinstance(error, (InvalidArgumentError, FormatError)):
            raise
        raise InvalidArgumentError(f"{name}: {error}") from error


def _opener(limits: Limits) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_Redirects(limits)]
    if not limits.private_addresses:
        # A proxy would connect in our place, unchecked.
        handlers += [urllib.request.ProxyHandler({}), _PublicHttp(), _PublicHttps()]
    opener = urllib.request.OpenerDirector()
    defaults: list[type[urllib.request.BaseHandler]] = [
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ]
    # Nothing else: no ftp:, no file:, no data: after a redirect.
    for default in defaults:
        if not any(isinstance(handler, default) for handler in handlers):
            opener.add_handler(default())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, limits: Limits) -> None:
        self._left = limits.max_redirects

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise InvalidArgumentError(f"{_short(req.full_url)}: redirects to {_short(newurl)}")
        self._left -= 1
        if self._left < 0:
            raise InvalidArgumentError(f"{_short(req.full_url)}: too many redirects")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _connect_public(
    address: tuple[str, int], timeout: Any = None, source_address: Any = None
) -> socket.socket:
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, target in found:
        number = ipaddress.ip_address(str(target[0]).split("%", 1)[0])
        number = getattr(number, "ipv4_mapped", None) or number
        if not number.is_global or number.is_multicast:
            raise InvalidArgumentError(f"{host}: its address {target[0]} is not public")
    # Connecting to the number that was checked, not to the name again.
    return socket.create_connection((str(found[0][4][0]), port), timeout, source_address)


class _PublicHttpConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self._create_connection = _connect_public
        super().connect()


class _PublicHttpsConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        self._create_connection = _connect_public
        super().connect()


class _PublicHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicHttpConnection, req)


class _PublicHttps(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicHttpsConnection, req)
