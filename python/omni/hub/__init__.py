"""Model files from a hub: Hugging Face or ModelScope, only those that are needed, kept in a cache.

`download_model()` gives the path of a language model file, with the wanted parts beside it in the published
layout. Transfers that were interrupted go on where they stopped, in another process, too; a finished file
has the size and the checksum that the hub lists. Files of Hugging Face lie in its own cache, where its other
programs find them and leave theirs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omni.errors import InvalidArgumentError, ModelFileError
from omni.hub.cache import Cache
from omni.hub.http import Client, HubAnswerError
from omni.hub.names import choose_llm, is_repository, part_files, split_reference
from omni.hub.remote import Listing, RemoteFile, repository
from omni.hub.transfer import require_space, transfer
from omni.model_files import PARTS

__all__ = ["PARTS", "HubOptions", "download_model", "is_repository"]

Source = Literal["huggingface", "modelscope"]


@dataclass(frozen=True)
class HubOptions:
    """How to reach a hub. What is unset comes from the environment that the hubs' own programs read.

    `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`; `MODELSCOPE_API_TOKEN`,
    `MODELSCOPE_CACHE`, `MODELSCOPE_ENDPOINT`.
    """

    source: Source | None = None  # None: what OMNI_MODEL_SOURCE says, or huggingface
    token: str | None = None
    offline: bool = False  # take what the cache has, connect to nothing
    revision: str | None = None  # branch, tag or commit; None: the hub's main branch
    cache_dir: str | Path | None = None
    file: str | None = None  # the language model's file, where the quantisation does not name it
    quiet: bool = False  # no progress on stderr
    timeout: float = 30.0  # seconds without a byte
    retries: int = 5  # after a failure that may pass, each without progress
    retry_seconds: float = 1.0  # before the first of them; doubled each time

    @classmethod
    def taken_from(cls, kwargs: dict[str, Any]) -> HubOptions:
        """From arguments with the names that programs for Transformers use; they are removed."""
        names = {
            "token": "token",
            "revision": "revision",
            "cache_dir": "cache_dir",
            "local_files_only": "offline",
        }
        given = {field: kwargs.pop(name) for name, field in names.items() if name in kwargs}
        return cls(**{field: value for field, value in given.items() if value is not None})


def download_model(
    reference: str,
    quant: str | None = None,
    parts: Iterable[str] = PARTS,
    options: HubOptions | None = None,
) -> Path:
    """Path of the language model file of a repository, with the files of `parts` beside it.

    Args:
        reference: "owner/name", or "owner/name:Q4_K_M".
        quant: the quantisation, if the reference does not name it. None: Q4_K_M, or the only one.
        parts: of `PARTS`; what the repository lacks is left out.
        options: how to reach it.

    Raises:
        InvalidArgumentError: the reference is malformed, or there is no such quantisation or file.
        ModelFileError: not there, not allowed, not reachable, too many requests, or no room on the disk.
        FormatError: what arrived has another size or checksum than the hub lists.
    """
    options = options or HubOptions()
    name, named = split_reference(reference)
    quant = named or quant
    remote = repository(_source(options), name, options.revision, options.token)
    cache = Cache.of(remote, options.cache_dir)
    client = Client(options.timeout, options.retries, options.retry_seconds)
    wanted = frozenset(parts)
    if options.offline or remote.offline:
        return _cached(cache, name, quant, wanted, options.file, "offline")
    try:
        listing = remote.list(client)
    except HubAnswerError:
        raise
    except ModelFileError as error:  # nobody there: what was downloaded before will do
        if cache.snapshot() is None:
            raise
        warnings.warn(f"{error}; using what was downloaded before", stacklevel=2)
        return _cached(cache, name, quant, wanted, options.file, "not reachable")
    llm, files = _select(listing, f"{remote.address}", quant, wanted, options.file)
    missing = [file for file in files if not cache.has(listing, file)]
    require_space(cache, missing)
    for file in missing:
        transfer(client, remote, listing, file, cache, options.quiet)
    cache.remember(listing)
    return cache.path(listing, llm.path)


def _source(options: HubOptions) -> Source:
    source = options.source or os.environ.get("OMNI_MODEL_SOURCE") or "huggingface"
    if source not in ("huggingface", "modelscope"):
        raise InvalidArgumentError(f"the model source must be huggingface or modelscope, not {source!r}")
    return cast(Source, source)


def _select(
    listing: Listing, where: str, quant: str | None, parts: frozenset[str], file: str | None
) -> tuple[RemoteFile, list[RemoteFile]]:
    by_path = {entry.path: entry for entry in listing.files}
    llm = choose_llm(by_path, where, quant, file)
    return by_path[llm], [by_path[llm], *(by_path[path] for path in part_files(by_path, parts))]


def _cached(
    cache: Cache, name: str, quant: str | None, parts: frozenset[str], file: str | None, why: str
) -> Path:
    snapshot = cache.snapshot()
    if snapshot is None:
        raise ModelFileError(f"{name} ({why}): {cache.folder} holds nothing of it; it was never downloaded")
    paths: Sequence[str] = [p.relative_to(snapshot).as_posix() for p in sorted(snapshot.rglob("*.gguf"))]
    llm = choose_llm(paths, f"{name} ({why}), in {snapshot}", quant, file)
    for part in sorted(parts):
        if not part_files(paths, frozenset({part})):
            warnings.warn(f"{name} ({why}): the cache has no {part} files", stacklevel=3)
    return snapshot / llm
