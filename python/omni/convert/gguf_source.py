"""GGUF files as a source of tensors and metadata, for requantising."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.convert.checkpoint import Floats, Shape
from omni.convert.plan import Key
from omni.convert.weight_types import is_known, tensor_bytes
from omni.convert.writer import VALUE_KINDS
from omni.errors import FormatError, ModelFileError, UnsupportedError

_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class _Stored:
    type: str
    shape: Shape  # slowest dimension first
    offset: int
    size: int


class GgufSource:
    """A checked GGUF file. Raises UnsupportedError for tensor types that can't be decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors: dict[str, _Stored] = {}
        for name, kind, ne, offset, size in _ext.GgufFile(str(path)).tensors():
            if not is_known(kind):
                raise UnsupportedError(
                    f"{path}: tensor '{name}' is stored as {kind}, which can't be converted"
                )
            self._tensors[name] = _Stored(kind, ne[::-1], offset, size)

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor, slowest dimension first, in file order."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def type_of(self, name: str) -> str:
        """The stored type."""
        return self._tensors[name].type

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` to `last` of the slowest dimension, decoded to float32."""
        tensor = self._tensors[name]
        if len(tensor.shape) == 1:
            return self._decode(tensor, tensor.offset, tensor.shape)[first:last]
        last = tensor.shape[0] if last is None else last
        step = tensor_bytes(tensor.type, tensor.shape[1:])
        return self._decode(tensor, tensor.offset + first * step, (last - first, *tensor.shape[1:]))

    def raw(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """The stored bytes in blocks."""
        tensor = self._tensors[name]
        for begin in range(0, tensor.size, _BLOCK_BYTES):
            yield self._bytes(tensor.offset + begin, min(_BLOCK_BYTES, tensor.size - begin))

    def metadata(self) -> list[Key]:
        """All keys with their kinds. Empty lists, which say nothing, are left out."""
        import gguf

        ours = {theirs: kind for kind, theirs in VALUE_KINDS.items()}
        keys = []
        for name, field in gguf.GGUFReader(self.path).fields.items():
            if not field.types:  # version and counts, which the reader lists among the keys
                continue
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                if len(field.types) < 2 or not field.contents():
                    continue
                if field.types[1] == gguf.GGUFValueType.ARRAY:
                    raise UnsupportedError(f"{self.path}: key '{name}' is a list of lists")
            elif name.startswith("GGUF."):
                continue
            nested = "[]" if field.types[0] == gguf.GGUFValueType.ARRAY else ""
            keys.append(Key(name, ours[field.types[-1].name] + nested, field.contents()))
        return keys

    def _decode(self, tensor: _Stored, offset: int, shape: Shape) -> Floats:
        raw = self._bytes(offset, tensor_bytes(tensor.type, shape))
        columns = tensor.shape[-1]
        return (
            _ext.dequantize(raw, tensor.type, columns).reshape(shape)
            if math.prod(shape)
            else np.zeros(shape, "f4")
        )

    def _bytes(self, offset: int, size: int) -> NDArray[np.uint8]:
        try:
            raw = np.fromfile(self.path, np.uint8, size, offset=offset)
        except OSError as error:
            raise ModelFileError(f"{self.path}: can't be read: {error.strerror or error}") from error
        if raw.size != size:
            raise FormatError(f"{self.path}: became shorter while it was read")
        return raw
