"""What an output file will hold: names, shapes, types, sizes and where each tensor comes from.

A plan needs no weights: dry runs and conversions are the same plan, printed or written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni.convert.checkpoint import Floats, Shape
from omni.convert.weight_types import tensor_bytes
from omni.errors import FormatError

ALIGNMENT = 32

# Bytes of the fixed-size kinds of metadata values. "str" is the other kind; "u32[]" and so on are lists.
_SCALAR_BYTES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "f32": 4, "bool": 1} | {
    "u64": 8,
    "i64": 8,
    "f64": 8,
}


@dataclass(frozen=True)
class Key:
    """One metadata entry."""

    name: str
    kind: str
    value: bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]

    def size(self) -> int:
        """Bytes in the file: name, type and value."""
        return 8 + len(self.name.encode()) + 4 + self._value_size()

    def _value_size(self) -> int:
        if isinstance(self.value, str):
            return 8 + len(self.value.encode())
        if isinstance(self.value, Sequence):
            if self.kind == "str[]":
                return 12 + sum(8 + len(str(item).encode()) for item in self.value)
            return 12 + _SCALAR_BYTES[self.kind.removesuffix("[]")] * len(self.value)
        return _SCALAR_BYTES[self.kind]


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint that a plan reads, with the shape that it must have."""

    name: str
    shape: Shape
    optional: bool = False


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of an output file. `shape`: slowest dimension first (NumPy order).

    Without `build` the one source is copied row by row. With it, all sources are read whole and given to it
    in order; an absent optional source comes as None. `encoded` gives the data as they are to be written, in
    blocks, where no encoding is needed.
    """

    name: str
    shape: Shape
    type: str
    sources: tuple[Source, ...]
    build: Callable[..., Floats] | None = None
    encoded: Callable[[], Iterator[NDArray[np.uint8]]] | None = None

    @property
    def size(self) -> int:
        """Bytes of data."""
        return tensor_bytes(self.type, self.shape)


@dataclass(frozen=True)
class FilePlan:
    """One output file. `path` is relative to the model directory, with `/`."""

    path: str
    metadata: list[Key]
    tensors: list[TensorPlan]
    unused: list[Source] = field(default_factory=list)  # known tensors of the checkpoint that are left out
    notes: list[str] = field(default_factory=list)  # for the user, such as types that had to be replaced

    def header_size(self) -> int:
        """Bytes before the tensor data, padding included."""
        size = 24 + sum(key.size() for key in self.metadata)
        for tensor in self.tensors:
            size += 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8
        return padded(size)

    def tensor_size(self) -> int:
        """Bytes of tensor data without padding."""
        return sum(tensor.size for tensor in self.tensors)

    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.header_size() + sum(padded(tensor.size) for tensor in self.tensors)

    def sources(self) -> dict[str, Source]:
        """All tensors of the checkpoint that belong to this file, by name."""
        used = {source.name: source for tensor in self.tensors for source in tensor.sources}
        return used | {source.name: source for source in self.unused}


def padded(size: int) -> int:
    """The next multiple of the file's alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def check_sources(known: dict[str, Source], found: dict[str, Shape], where: str) -> None:
    """Refuses missing and unknown tensors and wrong shapes, by name.

    `found`: the tensors that are there and should all be known. Raises FormatError.
    """
    missing = [name for name, source in known.items() if name not in found and not source.optional]
    if missing:
        raise FormatError(f"{where}: missing tensors: {_some(missing)}; is the checkpoint complete?")
    unknown = [name for name in found if name not in known]
    if unknown:
        raise FormatError(f"{where}: unknown tensors: {_some(unknown)}; this converter would lose them")
    for name, shape in found.items():
        if shape != known[name].shape:
            raise FormatError(
                f"{where}: tensor '{name}' has shape {list(shape)}, its configuration says "
                f"{list(known[name].shape)}"
            )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
