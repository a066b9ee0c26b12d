"""Writing safetensors files of float32, and reading them, with NumPy alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Writes the tensors in their order."""
    header: dict[str, object] = {}
    offset = 0
    for name, values in tensors.items():
        size = 4 * values.size
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, np.float32).tobytes())
    part.rename(path)
