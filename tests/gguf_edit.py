"""Copies a GGUF file with changes: renamed or dropped tensors, other or missing keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf


def edit_gguf(
    source: Path,
    target: Path,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Path:
    """Write `target` with the content of `source`.

    `rename` maps tensor names, None drops one; `keys` replaces values, None drops a key;
    `tensors` replaces data.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if keys is not None and name in keys:
            value = keys[name]
            if value is None:
                continue
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, value, field.types[0], sub_type)
    for tensor in reader.tensors:
        new_name = rename(tensor.name)
        if new_name is not None:
            data = tensor.data if tensors is None or tensor.name not in tensors else tensors[tensor.name]
            writer.add_tensor(
                new_name, data, raw_dtype=None if data is not tensor.data else tensor.tensor_type
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
