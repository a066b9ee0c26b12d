"""What the hubs have: lists of files with sizes and checksums, and their addresses."""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omni.errors import FormatError
from omni.hub.http import Client
from omni.hub.names import is_plain_path

_TRUE = {"1", "ON", "YES", "TRUE"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file that a hub lists."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Listing:
    """The large files of a repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


class Repository(ABC):
    """One repository of one hub."""

    def __init__(self, name: str, revision: str, endpoint: str, token: str | None) -> None:
        self.name = name
        self.revision = revision
        self._endpoint = endpoint.rstrip("/")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    @property
    def address(self) -> str:
        """For people."""
        return f"{self._endpoint}/{self.name}"

    @property
    def offline(self) -> bool:
        """Whether the hub's own setting forbids to connect."""
        return False

    @property
    @abstractmethod
    def cache_folder(self) -> Path:
        """Where its files are kept unless the caller says otherwise."""

    @abstractmethod
    def list(self, client: Client) -> Listing:
        """Which files there are. Raises as `Client.get`, and FormatError for an answer of another form."""

    @abstractmethod
    def url(self, listing: Listing, file: RemoteFile) -> str:
        """Where a file is."""

    def _json(self, client: Client, url: str) -> Any:
        text = client.get(url, self.headers, f"{self.address} (revision {self.revision})")
        try:
            return json.loads(text)
        except ValueError as error:
            raise FormatError(f"{self.address}: the answer is no list of files; is it a hub?") from error


def repository(source: str, name: str, revision: str | None, token: str | None) -> Repository:
    """A repository of a hub by the hub's name."""
    return (ModelScope if source == "modelscope" else HuggingFace)(name, revision, token)


class HuggingFace(Repository):
    """huggingface.co and its mirrors."""

    def __init__(self, name: str, revision: str | None, token: str | None) -> None:
        super().__init__(
            name,
            revision or "main",
            os.environ.get("HF_ENDPOINT") or "https://huggingface.co",
            token or os.environ.get("HF_TOKEN") or _token_file(),
        )

    @property
    def offline(self) -> bool:
        """What HF_HUB_OFFLINE says."""
        return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE

    @property
    def cache_folder(self) -> Path:
        """What HF_HUB_CACHE or HF_HOME says, or the usual place."""
        return Path(os.environ.get("HF_HUB_CACHE") or _hf_home() / "hub").expanduser()

    def list(self, client: Client) -> Listing:
        """By the call that lists a model's files with their metadata."""
        revision = quote(self.revision, safe="")
        answer = self._json(client, f"{self._endpoint}/api/models/{self.name}/revision/{revision}?blobs=true")
        try:
            entries = [(e["rfilename"], e["lfs"]["size"], e["lfs"]["sha256"]) for e in _large(answer)]
            commit = answer["sha"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"{self.address}: the answer is no list of files; is it a hub?") from error
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise FormatError(f"{self.address}: the hub names no commit")
        return Listing(commit, tuple(_file(self, *entry) for entry in entries))

    def url(self, listing: Listing, file: RemoteFile) -> str:
        """The address that leads to a file's content."""
        return f"{self._endpoint}/{self.name}/resolve/{listing.commit}/{quote(file.path)}"


class ModelScope(Repository):
    """modelscope.cn, which has the same repositories in China. Its files have no common commit."""

    def __init__(self, name: str, revision: str | None, token: str | None) -> None:
        owner, _, model = name.partition("/")
        owner = "OpenBMB" if owner == "openbmb" else owner  # its owners' names have capitals
        super().__init__(
            f"{owner}/{model}",
            revision or "master",
            os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn",
            token or os.environ.get("MODELSCOPE_API_TOKEN"),
        )

    @property
    def cache_folder(self) -> Path:
        """A folder beside those of ModelScope's own program, whose layout is another."""
        base = os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope"
        return Path(base).expanduser() / "omni"

    def list(self, client: Client) -> Listing:
        """By the call that lists a repository's tree."""
        revision = quote(self.revision, safe="")
        answer = self._json(
            client,
            f"{self._endpoint}/api/v1/models/{self.name}/repo/files?Revision={revision}&Recursive=True",
        )
        try:
            entries = [e for e in answer["Data"]["Files"] if e.get("Type") != "tree"]
            files = tuple(
                _file(self, e["Path"], e["Size"], e["Sha256"]) for e in entries if e["Path"].endswith(".gguf")
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{self.address}: the answer is no list of files; is it a hub?") from error
        contents = "".join(f"{file.path} {file.sha256}\n" for file in files)
        return Listing(hashlib.sha256(contents.encode()).hexdigest()[:40], files)

    def url(self, listing: Listing, file: RemoteFile) -> str:
        """The address that leads to a file's content."""
        revision, path = quote(self.revision, safe=""), quote(file.path, safe="")
        return f"{self._endpoint}/api/v1/models/{self.name}/repo?Revision={revision}&FilePath={path}"


def _hf_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()


def _token_file() -> str | None:
    path = Path(os.environ.get("HF_TOKEN_PATH") or _hf_home() / "token")
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _large(answer: Any) -> list[Mapping[str, Any]]:
    """Entries of GGUF files; a hub stores them outside of git, with a checksum."""
    return [entry for entry in answer["siblings"] if str(entry["rfilename"]).endswith(".gguf")]


def _file(repository: Repository, path: Any, size: Any, sha256: Any) -> RemoteFile:
    usable = (
        isinstance(path, str)
        and is_plain_path(path)
        and isinstance(size, int)
        and size >= 0
        and isinstance(sha256, str)
        and _DIGEST.fullmatch(sha256)
    )
    if not usable:
        raise FormatError(f"{repository.address}: lists {path!r} without a usable path, size or checksum")
    return RemoteFile(path, size, sha256)
