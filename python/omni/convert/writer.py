"""Writes planned files: one block of rows in memory at a time, under a temporary name until complete."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.convert.checkpoint import Floats, TensorSource
from omni.convert.plan import FilePlan, Key, TensorPlan, padded
from omni.convert.weight_types import tensor_bytes, type_number
from omni.errors import FormatError, InvalidArgumentError, ModelFileError

# Numbers per block: 64 MB of float32, so that the largest matrix never has to be in memory as a whole.
_BLOCK_ELEMENTS = 16 << 20

# Our names of the kinds of metadata values, and those of the gguf package.
VALUE_KINDS = {
    "u8": "UINT8",
    "i8": "INT8",
    "u16": "UINT16",
    "i16": "INT16",
    "u32": "UINT32",
    "i32": "INT32",
    "u64": "UINT64",
    "i64": "INT64",
    "f32": "FLOAT32",
    "f64": "FLOAT64",
    "bool": "BOOL",
    "str": "STRING",
}

Progress = Callable[[int], None]


def write_file(plan: FilePlan, source: TensorSource, out_dir: Path, progress: Progress | None = None) -> Path:
    """Writes one file and returns its path.

    The file appears under its name only when it is complete; `progress` is called with the number of bytes
    written after each block. Raises ModelFileError if `out_dir` can't be written, FormatError if a source
    holds numbers that its type can't.
    """
    path = out_dir / plan.path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_header(plan, part)
        with part.open("ab") as file:
            file.write(bytes(padded(file.tell()) - file.tell()))
            for tensor in plan.tensors:
                for block in encoded_blocks(tensor, source):
                    file.write(block.data)
                    if progress is not None:
                        progress(block.size)
                file.write(bytes(padded(tensor.size) - tensor.size))
        written = part.stat().st_size
        if written != plan.file_size():
            raise FormatError(f"{part}: {written} bytes were written instead of {plan.file_size()}")
        part.replace(path)
    except OSError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: can't be written: {error.strerror or error}") from error
    return path


def is_complete(plan: FilePlan, out_dir: Path) -> bool:
    """Whether an earlier run finished this file: same size, metadata, tensors and types."""
    path = out_dir / plan.path
    if not path.exists() or path.stat().st_size != plan.file_size():
        return False
    with tempfile.TemporaryDirectory() as folder:
        planned = Path(folder) / "header"
        write_header(plan, planned)
        wanted = planned.read_bytes()
    with path.open("rb") as file:
        return file.read(len(wanted)) == wanted


def encoded_blocks(tensor: TensorPlan, source: TensorSource) -> Iterator[NDArray[np.uint8]]:
    """The tensor's data in order, in blocks of whole rows."""
    if tensor.encoded is not None:
        yield from tensor.encoded()
        return
    columns = tensor.shape[-1]
    total = 0
    for values in _float_blocks(tensor, source):
        try:
            block = _ext.quantize(values.reshape(-1, columns), tensor.type)
        except InvalidArgumentError as error:
            names = ", ".join(s.name for s in tensor.sources)
            raise FormatError(f"tensor '{tensor.name}' (from {names}): {error}") from error
        total += block.size
        yield block
    if total != tensor.size:
        raise FormatError(f"tensor '{tensor.name}': {total} bytes instead of {tensor.size}")


def _float_blocks(tensor: TensorPlan, source: TensorSource) -> Iterator[Floats]:
    shapes = source.shapes()
    if tensor.build is not None:
        inputs = [source.read(s.name) if s.name in shapes else None for s in tensor.sources]
        values = np.ascontiguousarray(tensor.build(*inputs), dtype=np.float32)
        if values.shape != tensor.shape:
            raise FormatError(f"tensor '{tensor.name}' came out as {values.shape} instead of {tensor.shape}")
        yield values
        return
    (origin,) = tensor.sources
    if len(origin.shape) < 2:
        yield source.read(origin.name).reshape(tensor.shape)
        return
    rows = origin.shape[0]
    step = max(1, _BLOCK_ELEMENTS // math.prod(origin.shape[1:]))
    for first in range(0, rows, step):
        yield source.read(origin.name, first, min(first + step, rows))


def write_header(plan: FilePlan, path: Path) -> None:
    """Writes everything before the tensors' data, without the padding behind it."""
    import gguf

    architecture = next((str(k.value) for k in plan.metadata if k.name == "general.architecture"), "")
    writer = gguf.GGUFWriter(path, architecture)
    for key in plan.metadata:
        if key.name != "general.architecture":  # the writer puts it first itself
            _add_key(writer, key)
    for tensor in plan.tensors:
        kind = gguf.GGMLQuantizationType(type_number(tensor.type))
        nbytes = tensor_bytes(tensor.type, tensor.shape)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _add_key(writer: object, key: Key) -> None:
    from gguf import GGUFValueType, GGUFWriter

    assert isinstance(writer, GGUFWriter)
    kind = GGUFValueType[VALUE_KINDS[key.kind.removesuffix("[]")]]
    if key.kind.endswith("[]"):
        writer.add_key_value(key.name, key.value, GGUFValueType.ARRAY, kind)
    else:
        writer.add_key_value(key.name, key.value, kind)
