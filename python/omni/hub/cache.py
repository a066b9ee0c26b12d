"""Where downloaded files lie: the layout of Hugging Face's cache, which its other programs share.

`blobs/` holds contents under their checksum, `snapshots/COMMIT/` the repository's tree as links to them,
`refs/` the commit of each branch that was asked for. What stands in a snapshot is complete.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from omni.hub.remote import Listing, RemoteFile, Repository


class Cache:
    """The files of one repository at one revision."""

    def __init__(self, root: Path, name: str, revision: str) -> None:
        self.folder = root / f"models--{name.replace('/', '--')}"
        self._locks = root / ".locks" / self.folder.name
        self._revision = revision

    @classmethod
    def of(cls, repository: Repository, cache_dir: str | Path | None) -> Cache:
        """The cache of a repository, where its hub's programs keep theirs or in another place."""
        root = repository.cache_folder if cache_dir is None else Path(cache_dir).expanduser()
        return cls(root, repository.name, repository.revision)

    def path(self, listing: Listing, path: str) -> Path:
        """Where a file of a commit is once it is complete."""
        return self.folder / "snapshots" / listing.commit / path

    def has(self, listing: Listing, file: RemoteFile) -> bool:
        """Whether a file is complete. Links it if another commit has the same content."""
        path = self.path(listing, file.path)
        if path.is_file() and path.stat().st_size == file.size:
            return True
        blob = self._blob(file)
        if not blob.is_file() or blob.stat().st_size != file.size:
            return False
        self._link(blob, path)
        return True

    def partial(self, file: RemoteFile) -> Path:
        """Where a file grows."""
        return self.folder / "blobs" / f"{file.sha256}.incomplete"

    def finish(self, listing: Listing, file: RemoteFile) -> None:
        """Takes the grown file over."""
        blob = self._blob(file)
        self.partial(file).replace(blob)
        self._link(blob, self.path(listing, file.path))

    def remember(self, listing: Listing) -> None:
        """Notes which commit the revision is, for later without a network."""
        if self._revision != listing.commit:
            ref = self.folder / "refs" / self._revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(listing.commit, encoding="utf-8")

    def snapshot(self) -> Path | None:
        """The directory of the revision as far as it is here."""
        ref = self.folder / "refs" / self._revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else self._revision
        path = self.folder / "snapshots" / commit
        return path if path.is_dir() else None

    @contextlib.contextmanager
    def lock(self, file: RemoteFile) -> Iterator[None]:
        """Keeps other processes from the same file; waits for them."""
        self._locks.mkdir(parents=True, exist_ok=True)
        self.partial(file).parent.mkdir(parents=True, exist_ok=True)
        with (self._locks / f"{file.sha256}.lock").open("a+b") as handle:
            _lock(handle)
            yield  # closing unlocks

    def _blob(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / file.sha256

    def _link(self, blob: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # Windows without the right to: the content itself
            blob.replace(path)


def _lock(handle: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
