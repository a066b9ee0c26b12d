"""Safetensors checkpoints, single or sharded, read without PyTorch and one block of rows at a time.

Plain reads instead of a memory map: resident memory stays at the size of one block, and a file that is cut
short is an error instead of a bus fault.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from omni.errors import FormatError, ModelFileError

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

# Bytes per element of the stored types that are weights.
_ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
# The largest header that a checkpoint of this family could need is far below this.
_MAX_HEADER = 100 << 20


class TensorSource(Protocol):
    """Named float tensors somewhere on disk."""

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor, slowest dimension first."""
        ...

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` to `last` (all by default) as float32, shape `[last - first, ...]`."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `offset` counts from the start of the file, in bytes."""

    path: Path
    dtype: str
    shape: Shape
    offset: int


def decode_floats(raw: NDArray[np.uint8], dtype: str) -> Floats:
    """Float32 numbers of little-endian bytes of type F32, F16 or BF16."""
    if dtype == "BF16":
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return raw.view("<f2" if dtype == "F16" else "<f4").astype(np.float32, copy=False)


def read_rows(tensor: StoredTensor, first: int = 0, last: int | None = None) -> Floats:
    """Rows `first` to `last` of a tensor in a file; a 0-d tensor counts as one row."""
    rows, row_shape = (tensor.shape[0], tensor.shape[1:]) if tensor.shape else (1, ())
    last = rows if last is None else last
    row_bytes = math.prod(row_shape) * _ITEM_SIZES[tensor.dtype]
    wanted = (last - first) * row_bytes
    try:
        raw = np.fromfile(tensor.path, np.uint8, wanted, offset=tensor.offset + first * row_bytes)
    except OSError as error:
        raise ModelFileError(f"{tensor.path}: can't be read: {error.strerror or error}") from error
    if raw.size != wanted:
        raise FormatError(f"{tensor.path}: ends {wanted - raw.size} bytes early; download it again")
    shape = (last - first, *row_shape) if tensor.shape else ()
    return decode_floats(raw, tensor.dtype).reshape(shape)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: should hold a JSON object")
    return value


class Checkpoint:
    """A directory with `model.safetensors`, or with shards and `model.safetensors.index.json`.

    Every header is checked completely when the object is made. Raises ModelFileError for files that are
    missing, FormatError for damaged ones.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tensors: dict[str, StoredTensor] = {}
        index = directory / "model.safetensors.index.json"
        if index.exists():
            self._add_shards(index)
        else:
            self._add(directory / "model.safetensors")

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether the directory holds weights at all (a dry run needs none)."""
        names = ("model.safetensors", "model.safetensors.index.json")
        return any((directory / name).exists() for name in names)

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor, slowest dimension first."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` to `last` of a tensor, as float32."""
        return read_rows(self._tensors[name], first, last)

    def _add_shards(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{index}: has no weight_map")
        for shard in sorted({str(file) for file in weight_map.values()}):
            if Path(shard).name != shard:
                raise FormatError(f"{index}: the shard name {shard!r} is not a plain file name")
            if not (self.directory / shard).exists():
                raise ModelFileError(
                    f"{self.directory / shard}: is missing, but {index.name} names it; download it"
                )
            self._add(self.directory / shard)
        absent = [name for name in weight_map if name not in self._tensors]
        if absent:
            raise FormatError(f"{index}: names tensors that no shard holds: {', '.join(absent[:10])}")

    def _add(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(size - 8, _MAX_HEADER):
                    raise FormatError(
                        f"{path}: its header can't have {length} bytes in a file of {size}; "
                        "it is truncated or not a safetensors file"
                    )
                raw = file.read(length)
        except OSError as error:
            raise ModelFileError(f"{path}: can't be read: {error.strerror or error}") from error
        try:
            header = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: damaged header: {error}") from error
        if not isinstance(header, dict):
            raise FormatError(f"{path}: damaged header: not a JSON object")
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in self._tensors:
                raise FormatError(f"{path}: tensor '{name}' is also in {self._tensors[name].path.name}")
            self._tensors[name] = _stored_tensor(path, name, entry, 8 + length, size)


def _stored_tensor(path: Path, name: str, entry: object, data: int, file_size: int) -> StoredTensor:
    where = f"{path}: tensor '{name}'"
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: damaged record")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        raise FormatError(f"{where}: is stored as {dtype}; this converter reads {', '.join(_ITEM_SIZES)}")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise FormatError(f"{where}: damaged shape or offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * _ITEM_SIZES[dtype]:
        raise FormatError(f"{where}: {end - begin} bytes do not hold {dtype} {shape}")
    if data + end > file_size:
        raise FormatError(
            f"{where}: ends {data + end - file_size} bytes after the end of the file; download it again"
        )
    return StoredTensor(path, dtype, tuple(shape), data + begin)


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
