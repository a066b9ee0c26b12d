"""Presets: what the model is to be, in small YAML files; some come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.errors import FormatError, InvalidArgumentError, ModelFileError
from omni.optional import import_optional

_FOLDER = Path(__file__).parent / "presets"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Preset:
    """A preset: the system prompt, and what differs from the defaults (None: it says nothing)."""

    name: str
    language: str  # "en" or "zh"
    title: str
    prompt: str
    force_listen: int | None = None
    max_speak: int | None = None
    ref_audio: str | None = None  # relative to the file


_KINDS: dict[str, type] = {
    "language": str,
    "title": str,
    "prompt": str,
    "force_listen": int,
    "max_speak": int,
    "ref_audio": str,
}
_REQUIRED = ("language", "title", "prompt")


def list_presets() -> list[Preset]:
    """Those of the package, by name."""
    return [read_preset(path) for path in sorted(_FOLDER.glob("*.yaml"))]


def find_preset(name: str) -> Preset:
    """A preset of the package by name, or a file.

    Raises:
        InvalidArgumentError: there is none of this name.
        ModelFileError, FormatError: the file can't be read, or is no preset.
    """
    if Path(name).suffix.lower() in _SUFFIXES:
        return read_preset(Path(name))
    path = _FOLDER / f"{name}.yaml"
    if Path(name).name != name or not path.is_file():
        names = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.yaml")))
        raise InvalidArgumentError(f"there is no preset {name!r}; there are {names}, or give a YAML file")
    return read_preset(path)


def read_preset(path: Path) -> Preset:
    """Reads a file. Raises ModelFileError or FormatError."""
    yaml = import_optional("yaml", "cli")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: a preset is text in UTF-8") from error
    except OSError as error:
        raise ModelFileError(f"can't read {str(path)!r}: {error.strerror or error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FormatError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise FormatError(f"{path}: a preset is a list of 'name: value' lines")
    return _checked(path, values)


def _checked(path: Path, values: dict[Any, Any]) -> Preset:
    for name, value in values.items():
        if name not in _KINDS:
            raise FormatError(f"{path}: unknown field {name!r}; there are {', '.join(_KINDS)}")
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise FormatError(f"{path}: {name} must be {_KINDS[name].__name__}, not {value!r}")
    for name in _REQUIRED:
        if not str(values.get(name, "")).strip():
            raise FormatError(f"{path}: lacks {name!r}")
    for name, low in (("force_listen", 0), ("max_speak", 1)):
        if values.get(name, low) < low:
            raise FormatError(f"{path}: {name} must be at least {low}, not {values[name]}")
    if "ref_audio" in values:
        values["ref_audio"] = str(path.parent / values["ref_audio"])
    values["prompt"] = values["prompt"].strip()
    return Preset(name=path.stem, **values)
