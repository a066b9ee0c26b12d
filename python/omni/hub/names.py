"""Names of repositories and of the files in them: which ones a model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from omni.errors import InvalidArgumentError, ModelFileError
from omni.model_files import PARTS, TOKEN2WAV_FOLDERS

_FOLDERS = {"vision": ("vision",), "audio": ("audio",), "speech": ("tts", *TOKEN2WAV_FOLDERS)}
_PREFERRED = "Q4_K_M"
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}")
# Paths come from a server: none that leaves the directory, none that another system reads differently.
_PATH = re.compile(r"[^/\\:\0]+(/[^/\\:\0]+)*")


def is_repository(text: str) -> bool:
    """Whether `text` has the form "owner/name" or "owner/name:QUANT"."""
    name, _, quant = text.partition(":")
    return bool(_REPOSITORY.fullmatch(name)) and (quant != "" or ":" not in text)


def split_reference(reference: str) -> tuple[str, str | None]:
    """Repository and quantisation of a reference. Raises InvalidArgumentError."""
    if not is_repository(reference):
        raise InvalidArgumentError(
            f"{reference!r} names no repository: it must be owner/name or owner/name:QUANT, "
            "as in openbmb/MiniCPM-o-4_5-gguf:Q4_K_M"
        )
    name, _, quant = reference.partition(":")
    return name, quant or None


def is_plain_path(path: str) -> bool:
    """Whether a path of a repository stays below the directory that it is put into."""
    return bool(_PATH.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def choose_llm(paths: Iterable[str], where: str, quant: str | None, file: str | None) -> str:
    """The language model's file among the files of a repository.

    `where` names it in errors. Raises InvalidArgumentError with what there is, ModelFileError if that is
    nothing.
    """
    found = sorted(path for path in paths if "/" not in path and path.lower().endswith(".gguf"))
    if not found:
        raise ModelFileError(f"{where}: holds no language model (*.gguf); is it one of GGUF files?")
    if file is not None:
        if file in found:
            return file
        raise InvalidArgumentError(f"{where}: has no file {file}; there are {', '.join(found)}")
    quants = {path[: -len(".gguf")].rpartition("-")[2]: path for path in found}
    wanted = quant or (_PREFERRED if len(found) > 1 else next(iter(quants)))
    matching = [path for name, path in quants.items() if name.upper() == wanted.upper()]
    if not matching:
        raise InvalidArgumentError(f"{where}: has no quantisation {wanted}; there are {', '.join(quants)}")
    return matching[0]


def part_files(paths: Iterable[str], parts: frozenset[str]) -> list[str]:
    """The files of these parts. Raises InvalidArgumentError for unknown parts."""
    if unknown := parts - set(PARTS):
        raise InvalidArgumentError(f"there is no part '{min(unknown)}'; choose from {', '.join(PARTS)}")
    folders = {folder for part in parts for folder in _FOLDERS[part]}
    return sorted(
        path for path in paths if path.split("/")[0] in folders and "/" in path and path.endswith(".gguf")
    )
