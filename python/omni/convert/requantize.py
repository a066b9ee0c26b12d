"""Model files to other weight types."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial
from pathlib import Path

from omni.convert.gguf_source import GgufSource
from omni.convert.plan import FilePlan, Key, Source, TensorPlan
from omni.convert.weight_types import (
    block_size,
    file_kind,
    file_type_of,
    find_mix,
    fit_type,
    is_linear,
    side_type,
)
from omni.convert.writer import Progress, write_file
from omni.errors import InvalidArgumentError, UnsupportedError


def plan_requantization(source: GgufSource, type_name: str, path: str) -> FilePlan:
    """Plans the file `path` that holds the tensors of `source` in another type.

    The language model takes mixes such as "Q4_K_M"; of other networks only the matrices change, and
    convolutions, tables and vectors stay. Raises UnsupportedError for files with nothing to quantise.
    """
    shapes = source.shapes()
    kind = file_kind(shapes)
    if kind is None:
        raise UnsupportedError(
            f"{source.path}: holds no matrices that may be quantised; omni.quantize takes the language, "
            "vision, audio and speech models, the flow's encoder and estimator, and the speech tokenizer"
        )
    if kind == "qwen3":
        mix = find_mix(type_name)
        layers = len({name.split(".")[1] for name in shapes if name.startswith("blk.")})
        types = {n: mix.type_of(n, layers, s[-1]) for n, s in shapes.items() if len(s) == 2}
        wanted = {n: mix.type_of(n, layers, block_size("Q6_K")) for n in types}
        file_type = mix.file_type
    else:
        side = side_type(type_name)
        types = {n: fit_type(side, s[-1]) for n, s in shapes.items() if is_linear(kind, n)}
        wanted = dict.fromkeys(types, side)
        file_type = file_type_of(side)
    notes = [
        f"{name}: rows of {shapes[name][-1]} don't fit {wanted[name]}, stored as {chosen}"
        for name, chosen in types.items()
        if chosen != wanted[name]
    ]
    lossy = [
        n for n, chosen in types.items() if block_size(source.type_of(n)) > 1 and chosen != source.type_of(n)
    ]
    if lossy:
        warnings.warn(
            f"{source.path}: {len(lossy)} tensors are quantised already ({lossy[0]}: "
            f"{source.type_of(lossy[0])}); quantising them again loses more than starting from the F16 file",
            stacklevel=2,
        )
    tensors = [_tensor(source, name, shape, types.get(name)) for name, shape in shapes.items()]
    return FilePlan(path, _with_file_type(source.metadata(), file_type), tensors, notes=notes)


def requantize(
    source: GgufSource, plan: FilePlan, out: Path, force: bool = False, progress: Progress | None = None
) -> None:
    """Writes a plan to the file `out`. Never replaces the input, and other files only with `force`."""
    if out.exists() and out.samefile(source.path):
        raise InvalidArgumentError(f"{out}: is the input; choose another name")
    if out.exists() and not force:
        raise InvalidArgumentError(f"{out}: exists; --force replaces it")
    write_file(dataclasses.replace(plan, path=out.name), source, out.parent, progress)


def _tensor(source: GgufSource, name: str, shape: tuple[int, ...], chosen: str | None) -> TensorPlan:
    stored = source.type_of(name)
    if chosen is None or chosen == stored:
        return TensorPlan(name, shape, stored, (Source(name, shape),), encoded=partial(source.raw, name))
    return TensorPlan(name, shape, chosen, (Source(name, shape),))


def _with_file_type(metadata: list[Key], file_type: int) -> list[Key]:
    changed = Key("general.file_type", "u32", file_type)
    if not any(key.name == changed.name for key in metadata):
        return metadata
    return [changed if key.name == changed.name else key for key in metadata]
