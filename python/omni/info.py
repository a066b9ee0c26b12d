"""`python -m omni.info MODEL`: what a GGUF file or a model directory holds."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from omni import _ext
from omni.command import run_command
from omni.convert.report import print_table, shape_text
from omni.errors import ModelFileError
from omni.options import MODEL_OPTIONS, add_options, model_of


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. `shape`: fastest dimension first, as in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class FileInfo:
    """One file. `metadata` values are text for people, long lists shortened."""

    path: str
    bytes: int
    parameters: int
    bytes_by_type: dict[str, int]
    metadata: dict[str, str]
    tensors: list[TensorInfo]


def inspect_file(path: Path) -> FileInfo:
    """Reads and checks a GGUF file. Raises ModelFileError or FormatError with the place of the damage."""
    file = _ext.GgufFile(str(path))
    tensors = [TensorInfo(*record) for record in file.tensors()]
    by_type: dict[str, int] = {}
    for tensor in tensors:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.bytes
    return FileInfo(
        path=str(path),
        bytes=file.file_size,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        bytes_by_type=dict(sorted(by_type.items(), key=lambda item: -item[1])),
        metadata={key: file.describe(key) for key in file.keys()},  # noqa: SIM118 (not a dict)
        tensors=tensors,
    )


def model_paths(model: Path) -> list[Path]:
    """The file itself, or all GGUF files of a model directory."""
    if not model.is_dir():
        return [model]
    found = sorted(model.rglob("*.gguf"), key=lambda path: (len(path.parts), path))
    if not found:
        raise ModelFileError(f"{model}: holds no .gguf files")
    return found


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m omni.info", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, metavar="MODEL", help="GGUF file or model directory")
    parser.add_argument("--no-tensors", action="store_true", help="leave out the tensor tables")
    parser.add_argument("--json", action="store_true", help="everything on stdout as JSON")
    add_options(parser, MODEL_OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the tables, or JSON."""
    model = model_of(args).directory if args.path is None else args.path
    files = [inspect_file(path) for path in model_paths(model)]
    if args.json:
        print(
            json.dumps(
                {"files": [asdict(file) for file in files], "bytes": sum(file.bytes for file in files)}
            )
        )
        return
    for file in files:
        _print_file(file, not args.no_tensors)
    rows = [(file.path, str(len(file.tensors)), f"{file.parameters:,}", f"{file.bytes:,}") for file in files]
    for row in (
        [*rows, ("total", "", "", f"{sum(file.bytes for file in files):,}")] if len(rows) > 1 else rows
    ):
        print("  ".join((row[3].rjust(16), row[2].rjust(16), row[1].rjust(5), row[0])))


def _print_file(file: FileInfo, with_tensors: bool) -> None:
    keys = [(key, _line(value)) for key, value in file.metadata.items()]
    print_table(file.path, ("key", "value"), keys, file=sys.stdout)
    if with_tensors:
        rows = [(t.name, t.type, shape_text(t.shape), f"{t.bytes:,}") for t in file.tensors]
        print_table("tensors", ("tensor", "type", "shape", "bytes"), rows, right=(3,), file=sys.stdout)
    sizes = [(kind, f"{size:,}") for kind, size in file.bytes_by_type.items()]
    print_table("bytes by type", ("type", "bytes"), sizes, right=(1,), file=sys.stdout)


def _line(text: str) -> str:
    """One line of at most 100 characters."""
    flat = text.replace("\n", "\\n")
    return flat if len(flat) <= 100 else f"{flat[:97]}..."


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
