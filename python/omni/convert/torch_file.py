"""Tensors of `torch.save` files, read without PyTorch and without executing anything.

Such a file is a zip archive: `data.pkl` describes the tensors with pickle, `data/N` holds their numbers.
Pickle is a program for a small machine; only the few instructions and the three names that a dictionary of
tensors needs are let through, and the names stand for plain records here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omni.convert.checkpoint import Floats, Shape, decode_floats
from omni.errors import FormatError, ModelFileError

_STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
_ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_PICKLE = 64 << 20
_MAX_MEMO = 1 << 20

# What `torch.save` writes for a dictionary of tensors, in pickle protocol 2.
_INSTRUCTIONS = frozenset(
    (
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
        *("EMPTY_DICT", "EMPTY_TUPLE", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("SETITEM", "SETITEMS", "APPEND", "APPENDS"),
        *("BINUNICODE", "SHORT_BINUNICODE", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    )
)


@dataclass(frozen=True)
class _Tensor:
    key: str
    dtype: str
    offset: int  # elements
    shape: Shape


class TorchFile:
    """A file that holds a dictionary of float tensors. Scalars beside them, such as an epoch, are ignored.

    Raises ModelFileError if the file can't be read, FormatError for everything else that is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                description, self._root = self._description(archive)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise FormatError(
                f"{path}: not a readable torch.save archive ({error}); files of PyTorch before 1.6 must be "
                "saved again"
            ) from error
        except OSError as error:
            raise ModelFileError(f"{path}: can't be read: {error.strerror or error}") from error
        self._tensors = {name: t for name, t in description.items() if isinstance(t, _Tensor)}
        if not self._tensors:
            raise FormatError(f"{path}: holds no tensors")

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor, slowest dimension first."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` to `last` of a tensor, as float32."""
        tensor = self._tensors[name]
        size = _ITEM_SIZES[tensor.dtype]
        begin = tensor.offset * size
        count = int(np.prod(tensor.shape, dtype=np.int64))
        where = f"{self.path}: tensor '{name}'"
        try:
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(f"{self._root}/data/{tensor.key}")
                # Stored without compression, the entry can't be larger than the file itself.
                if entry.compress_type != zipfile.ZIP_STORED or begin + count * size > entry.file_size:
                    raise FormatError(
                        f"{where}: its storage of {entry.file_size} bytes is too small or compressed"
                    )
                raw = archive.read(entry)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise FormatError(f"{where}: its numbers are damaged or missing: {error}") from error
        except OSError as error:
            raise ModelFileError(f"{self.path}: can't be read: {error.strerror or error}") from error
        numbers = np.frombuffer(raw, np.uint8, count * size, begin)
        values = decode_floats(numbers, tensor.dtype).reshape(tensor.shape)
        return values[first:last] if tensor.shape else values

    def _description(self, archive: zipfile.ZipFile) -> tuple[dict[str, object], str]:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(entries) != 1:
            raise FormatError(
                f"{self.path}: not a torch.save archive: it has {len(entries)} data.pkl entries"
            )
        root = entries[0].filename.removesuffix("/data.pkl")
        if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
            raise FormatError(f"{self.path}: was saved on a big-endian machine")
        if entries[0].file_size > _MAX_PICKLE:
            raise FormatError(f"{self.path}: its description of {entries[0].file_size} bytes is too large")
        try:
            raw = archive.read(entries[0])
            self._check_instructions(raw)
            value = _Unpickler(io.BytesIO(raw)).load()
        except FormatError:
            raise
        except Exception as error:  # damaged pickles fail in every way there is
            raise FormatError(f"{self.path}: damaged description: {error}") from error
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise FormatError(f"{self.path}: should hold a dictionary of tensors by name")
        return value, root

    def _check_instructions(self, raw: bytes) -> None:
        for instruction, argument, _ in pickletools.genops(raw):
            if instruction.name not in _INSTRUCTIONS:
                raise FormatError(
                    f"{self.path}: its description uses {instruction.name}, which a dictionary of tensors "
                    "does not need; the file may be hostile"
                )
            if instruction.name == "LONG_BINPUT" and isinstance(argument, int) and argument > _MAX_MEMO:
                raise FormatError(f"{self.path}: its description is damaged")


class _State(dict[Any, Any]):
    """Stands for OrderedDict; ignores the attributes that PyTorch hangs on it."""

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _State
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor_record
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise FormatError(
            f"its description names {module}.{name}, which is neither a float tensor nor a dictionary"
        )

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or dtype not in _ITEM_SIZES or not isinstance(key, str) or not key.isalnum():
            raise FormatError(f"its description refers to an unknown storage {pid!r}")
        return key, dtype


def _tensor_record(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    key, dtype = storage
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers) or len(shape) > 4:
        raise FormatError("a tensor has a damaged shape")
    expected, contiguous = 1, True
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        contiguous = contiguous and (size == 1 or step == expected)
        expected *= size
    if not contiguous or not 0 < expected < 1 << 40:
        raise FormatError("a tensor is not stored contiguously")
    return _Tensor(key, dtype, offset, tuple(shape))
