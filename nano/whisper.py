"""The frozen ear: Whisper tiny.en's encoder, read from a CTranslate2 model file.

The weights are OpenAI's, published under the MIT licence.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from omni.errors import FormatError

WIDTH, LAYERS, HEADS, FFN, MELS, POSITIONS = 384, 4, 6, 1536, 80, 1500
_TYPES = {0: np.float32, 4: np.float16}


def _number(file: BinaryIO, kind: str) -> int:
    raw = file.read(struct.calcsize(kind))
    if len(raw) != struct.calcsize(kind):
        raise FormatError("the model file ends too early")
    return int(struct.unpack("<" + kind, raw)[0])


def _name(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def read_ctranslate2(path: Path, prefix: str) -> dict[str, NDArray[np.float32]]:
    """Float tensors whose names begin with `prefix`. Raises FormatError for other versions of the format."""
    found = {}
    with path.open("rb") as file:
        version = _number(file, "I")
        if version != 6:
            raise FormatError(f"{path}: version {version} of the format; 6 is known")
        _name(file)
        _number(file, "I")
        for _ in range(_number(file, "I")):
            name = _name(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            kind, size = _number(file, "B"), _number(file, "I")
            raw = file.read(size)
            if name.startswith(prefix) and kind in _TYPES:
                found[name] = np.frombuffer(raw, _TYPES[kind]).astype(np.float32).reshape(shape)
    return found


def encoder_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The encoder under the names of a MiniCPM-o checkpoint (`apm.*`)."""
    source = read_ctranslate2(path, "encoder/")
    out = {f"apm.{n}.{p}": source[f"encoder/{n}/{p}"] for n in ("conv1", "conv2") for p in ("weight", "bias")}
    out["apm.embed_positions.weight"] = source["encoder/position_encodings/encodings"]
    _norm(out, "apm.layer_norm", source, "encoder/layer_norm")
    for i in range(LAYERS):
        to, at = f"apm.layers.{i}", f"encoder/layer_{i}"
        _norm(out, f"{to}.self_attn_layer_norm", source, f"{at}/self_attention/layer_norm")
        _norm(out, f"{to}.final_layer_norm", source, f"{at}/ffn/layer_norm")
        for part in ("weight", "bias"):
            fused = np.split(source[f"{at}/self_attention/linear_0/{part}"], 3)
            for name, values in zip(("q_proj", "k_proj", "v_proj"), fused, strict=True):
                if (name, part) != ("k_proj", "bias"):  # it is zero, and the checkpoint has none
                    out[f"{to}.self_attn.{name}.{part}"] = values
            out[f"{to}.self_attn.out_proj.{part}"] = source[f"{at}/self_attention/linear_1/{part}"]
            out[f"{to}.fc1.{part}"] = source[f"{at}/ffn/linear_0/{part}"]
            out[f"{to}.fc2.{part}"] = source[f"{at}/ffn/linear_1/{part}"]
    return out


def _norm(
    out: dict[str, NDArray[np.float32]], name: str, source: dict[str, NDArray[np.float32]], old: str
) -> None:
    out[f"{name}.weight"], out[f"{name}.bias"] = source[f"{old}/gamma"], source[f"{old}/beta"]
