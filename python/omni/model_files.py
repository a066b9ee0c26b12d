"""Where the files of a model directory are: the layout in which the official GGUF set is published."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omni.errors import ModelFileError

if TYPE_CHECKING:
    from omni.hub import HubOptions

BASE_NAME = "MiniCPM-o-4_5"
_SIDE_NETWORKS = ("vision", "audio", "tts")
# token2wav/ is what some distributions call the last folder.
TOKEN2WAV_FOLDERS = ("token2wav-gguf", "token2wav")
# What a model has beside the language model; speech is its model, the projector, and token2wav.
PARTS = ("vision", "audio", "speech")


def llm_path(quant: str) -> str:
    """Relative path of the language model with this quantisation."""
    return f"{BASE_NAME}-{quant}.gguf"


def side_path(part: str, type_name: str) -> str:
    """Relative path of a side network ("vision", "audio", "tts") stored with this weight type."""
    return f"{part}/{BASE_NAME}-{part}-{type_name}.gguf"


# Always this name, whatever it holds: engines look for it by name.
PROJECTOR_PATH = f"tts/{BASE_NAME}-projector-F16.gguf"
TOKEN2WAV_FOLDER = TOKEN2WAV_FOLDERS[0]


@dataclass(frozen=True)
class ModelFiles:
    """Paths of a model's files; None for parts that the directory does not have."""

    directory: Path
    llm: Path
    vision: Path | None
    audio: Path | None
    tts: Path | None
    projector: Path | None
    token2wav: Path | None  # a directory


def resolve_model(
    model: str | os.PathLike[str],
    quant: str | None = None,
    parts: Iterable[str] = PARTS,
    hub: HubOptions | None = None,
) -> ModelFiles:
    """Files of a model that is here, or of a hub's repository, downloaded if need be.

    `model`: as for `find_model_files()`, or "owner/name" or "owner/name:QUANT" if there is no such path.
    `parts`: what is needed beside the language model, of `PARTS`; only a download heeds it. Raises as
    `find_model_files()` and `omni.hub.download_model()`.
    """
    from omni.hub import download_model, is_repository

    name = os.fspath(model)
    if Path(name).exists() or not is_repository(name):
        return find_model_files(name, quant)
    try:
        return find_model_files(download_model(name, quant, parts, hub))
    except ModelFileError as error:
        raise ModelFileError(f"there is no {name} here, and {error}") from error


def find_model_files(model: str | Path, quant: str | None = None) -> ModelFiles:
    """Finds the files of a model.

    `model`: the directory, or the language model file in it. `quant` chooses among several language models
    ("Q4_K_M"). Raises ModelFileError if there is none, or several and no choice.
    """
    path = Path(model)
    if path.is_dir():
        directory, llm = path, _choose_llm(path, quant)
    elif path.is_file():
        directory, llm = path.parent, path
    else:
        raise ModelFileError(f"{path}: no such file or directory")
    sides = {part: _side_file(directory, part) for part in _SIDE_NETWORKS}
    folders = [directory / name for name in TOKEN2WAV_FOLDERS]
    projector = directory / PROJECTOR_PATH
    return ModelFiles(
        directory=directory,
        llm=llm,
        vision=sides["vision"],
        audio=sides["audio"],
        tts=sides["tts"],
        projector=projector if projector.is_file() else None,
        token2wav=next((folder for folder in folders if folder.is_dir()), None),
    )


def _choose_llm(directory: Path, quant: str | None) -> Path:
    found = sorted(directory.glob("*.gguf"))
    if quant is not None:
        found = [path for path in found if path.stem.upper().endswith("-" + quant.upper())]
    if not found:
        wanted = f"*-{quant}.gguf" if quant else "*.gguf"
        raise ModelFileError(f"{directory}: holds no language model ({wanted})")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelFileError(f"{directory}: holds several language models; name one of {names}")
    return found[0]


def _side_file(directory: Path, part: str) -> Path | None:
    official = directory / side_path(part, "F16")
    if official.is_file():
        return official
    found = sorted((directory / part).glob(f"*-{part}-*.gguf"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelFileError(f"{directory / part}: holds several {part} files; keep one of {names}")
    return found[0] if found else None


def quantisation(gguf: Path) -> str:
    """Name of the mix of types in a language model file, as its general.file_type says."""
    from omni import _ext
    from omni.convert.weight_types import MIXES

    file = _ext.GgufFile(str(gguf))
    keys = file.keys()
    if "general.file_type" not in keys:
        return "unknown quantisation"
    value = file.describe("general.file_type")
    return next((name for name, mix in MIXES.items() if str(mix.file_type) == value), f"file type {value}")
