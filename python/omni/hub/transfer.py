"""One file from a hub into the cache: in pieces if need be, checked when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from omni.errors import FormatError, ModelFileError
from omni.hub.cache import Cache
from omni.hub.http import Client
from omni.hub.remote import Listing, RemoteFile, Repository

_BLOCK = 1 << 20
_SPARE = 64 << 20  # bytes that a disk keeps free beside the files

Advance = Callable[[int], object]


def require_space(cache: Cache, files: Sequence[RemoteFile]) -> None:
    """Raises ModelFileError if the files don't fit on the disk."""
    needed = sum(file.size - min(file.size, _size(cache.partial(file))) for file in files)
    if not needed:
        return
    folder = next(path for path in (cache.folder, *cache.folder.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ModelFileError(
            f"{cache.folder}: the download needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB "
            "left; make room, or set HF_HOME to a directory on another disk"
        )


def transfer(
    client: Client, remote: Repository, listing: Listing, file: RemoteFile, cache: Cache, quiet: bool
) -> None:
    """Downloads a file, or what is missing of it. Raises as `download_model()`."""
    what = f"{remote.address}: {file.path}"
    try:
        with cache.lock(file):
            if cache.has(listing, file):  # another process was faster
                return
            partial = cache.partial(file)
            if _size(partial) > file.size:
                partial.unlink()
            url = remote.url(listing, file)
            with _progress(file, _size(partial), quiet) as advance:
                client.keep_trying(
                    lambda: _fetch(client, url, remote.headers, file, partial, what, advance),
                    what,
                    progress=lambda: _size(partial),
                )
            _check(file, partial, what)
            cache.finish(listing, file)
    except OSError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{cache.folder}: can't be written: {error.strerror or error}") from error


def _fetch(
    client: Client,
    url: str,
    headers: dict[str, str],
    file: RemoteFile,
    partial: Path,
    what: str,
    advance: Advance,
) -> None:
    """One attempt: from where the partial file ends to the end of the file."""
    start = _size(partial)
    if start == file.size and start > 0:
        return
    ranged = {**headers, "Range": f"bytes={start}-"} if start else headers
    with client.open(url, ranged, what) as response:
        if start and response.status != 206:  # the server can't go on: from the beginning
            advance(-start)
            start = 0
        total = _announced(response, start)
        if total is not None and total != file.size:
            raise FormatError(f"{what}: the hub lists {file.size:,} bytes, the server has {total:,}")
        with partial.open("ab" if start else "wb") as out:
            while block := response.read(_BLOCK):
                start += len(block)
                if start > file.size:
                    raise FormatError(f"{what}: the server sends more than the {file.size:,} bytes listed")
                _append(out, block)
                advance(len(block))
    if _size(partial) < file.size:
        raise ConnectionError(f"the connection ended after {_size(partial):,} of {file.size:,} bytes")


def _append(out: IO[bytes], block: bytes) -> None:
    """Writes; a failure is one of the disk, which another try does not help."""
    try:
        out.write(block)
        out.flush()
    except OSError as error:
        raise ModelFileError(f"{out.name}: can't be written: {error.strerror or error}") from error


def _announced(response: http.client.HTTPResponse, start: int) -> int | None:
    """Size of the whole file as the server says."""
    if start:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _check(file: RemoteFile, partial: Path, what: str) -> None:
    digest = hashlib.sha256()
    with partial.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != file.sha256:
        partial.unlink()
        raise FormatError(
            f"{what}: what arrived has the SHA-256 {digest.hexdigest()}, the hub lists {file.sha256}; "
            "it was removed: try again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _progress(file: RemoteFile, start: int, quiet: bool) -> Iterator[Advance]:
    if quiet:
        yield lambda count: None
    elif find_spec("tqdm") is None:
        print(f"downloading {file.path}, {file.size:,} bytes", file=sys.stderr)
        yield lambda count: None
    else:
        from tqdm import tqdm

        with tqdm(
            total=file.size, initial=start, desc=file.path, unit="B", unit_scale=True, file=sys.stderr
        ) as bar:
            yield bar.update
