"""Checkpoints for tests: reading them independently of the converter, copying, splitting, damaging."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np


def raw_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor as float32, decoded here without the code under test."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    out = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16"
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(raw[begin:end], np.uint16).astype(np.uint32) << 16
            out[name] = bits.view(np.float32).reshape(entry["shape"])
    return out


def copy_checkpoint(source: Path, target: Path) -> Path:
    """The language model's files, writable."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    return target


def split_checkpoint(directory: Path, parts: int) -> None:
    """Replaces model.safetensors by shards with the same bytes."""
    single = directory / "model.safetensors"
    raw = single.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    weight_map = {}
    for part in range(parts):
        shard, data = {}, b""
        for name in sorted(header)[part::parts]:
            begin, end = header[name]["data_offsets"]
            shard[name] = header[name] | {"data_offsets": [len(data), len(data) + end - begin]}
            data += raw[8 + length + begin : 8 + length + end]
            weight_map[name] = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        encoded = json.dumps(shard).encode()
        (directory / f"model-{part + 1:05}-of-{parts:05}.safetensors").write_bytes(
            len(encoded).to_bytes(8, "little") + encoded + data
        )
    single.unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes float32 tensors."""
    header, data = {}, []
    offset = 0
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, np.float32).tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        data.append(raw)
        offset += len(raw)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"".join(data))


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """Tensors by name, slowest dimension first, which is how NumPy and PyTorch see them."""
    return {t.name: t.data.reshape(t.shape[::-1].tolist()) for t in gguf.GGUFReader(path).tensors}
