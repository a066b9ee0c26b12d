"""Weight types, their sizes, and which tensor gets which type in a mix such as Q4_K_M."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from dataclasses import dataclass

from omni.errors import InvalidArgumentError

# Elements per block, bytes per block, and the number of the type in GGUF.
_LAYOUT = {
    "F32": (1, 4, 0),
    "F16": (1, 2, 1),
    "Q4_0": (32, 18, 2),
    "Q4_1": (32, 20, 3),
    "Q5_0": (32, 22, 6),
    "Q5_1": (32, 24, 7),
    "Q8_0": (32, 34, 8),
    "Q4_K": (256, 144, 12),
    "Q5_K": (256, 176, 13),
    "Q6_K": (256, 210, 14),
    "BF16": (1, 2, 30),
}

# What a K type becomes when a row is no multiple of 256: the next simpler type of at least its precision.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def block_size(type_name: str) -> int:
    """How many numbers of a row share one block."""
    return _LAYOUT[type_name][0]


def type_number(type_name: str) -> int:
    """The number that stands for the type in a GGUF file."""
    return _LAYOUT[type_name][2]


def tensor_bytes(type_name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's data. `shape`: slowest dimension first, so that the last one is a row."""
    block, size, _ = _LAYOUT[type_name]
    return math.prod(shape) // block * size


def fit_type(type_name: str, columns: int) -> str:
    """The type itself, or what replaces it for rows of this length."""
    if columns % block_size(type_name):
        type_name = _FALLBACK.get(type_name, "F16")
    return "F16" if columns % block_size(type_name) else type_name


@dataclass(frozen=True)
class Mix:
    """How the matrices of a file are stored.

    `base` for all, `output` for the output matrix, `more` for attn_v and ffn_down of the layers that `chosen`
    names. `file_type` is `general.file_type`.
    """

    file_type: int
    base: str
    output: str
    more: str = ""
    few: bool = False  # only the first layers get `more`

    def type_of(self, name: str, layers: int, columns: int) -> str:
        """The type of a matrix by its GGUF name (`blk.3.attn_v.weight`) and row length."""
        wanted = self.output if name == "output.weight" else self.base
        parts = name.split(".")
        if self.more and parts[0] == "blk" and parts[2] in ("attn_v", "ffn_down"):
            layer = int(parts[1])
            if self.few:
                chosen = layer < (4 if parts[2] == "attn_v" else layers // 8)
            else:
                chosen = _more_bits(layer, layers)
            wanted = self.more if chosen else wanted
        return fit_type(wanted, columns)


def _more_bits(layer: int, layers: int) -> bool:
    # The first and the last eighth and every third layer between.
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


MIXES = {
    "F32": Mix(0, "F32", "F32"),
    "F16": Mix(1, "F16", "F16"),
    "BF16": Mix(32, "BF16", "BF16"),
    "Q8_0": Mix(7, "Q8_0", "Q8_0"),
    "Q6_K": Mix(18, "Q6_K", "Q6_K"),
    "Q5_K_M": Mix(17, "Q5_K", "Q6_K", "Q6_K"),
    "Q5_K_S": Mix(16, "Q5_K", "Q6_K"),
    "Q5_1": Mix(9, "Q5_1", "Q6_K"),
    "Q5_0": Mix(8, "Q5_0", "Q6_K"),
    "Q4_K_M": Mix(15, "Q4_K", "Q6_K", "Q6_K"),
    "Q4_K_S": Mix(14, "Q4_K", "Q6_K", "Q5_K", few=True),
    "Q4_1": Mix(3, "Q4_1", "Q6_K"),
    "Q4_0": Mix(2, "Q4_0", "Q6_K"),
}

# Side networks (vision, audio, speech) have no mixes: one type for every matrix.
SIDE_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0")


def find_mix(name: str) -> Mix:
    """The mix of this name, in any case."""
    mix = MIXES.get(name.upper())
    if mix is None:
        raise InvalidArgumentError(f"there is no quantisation '{name}'; choose one of {', '.join(MIXES)}")
    return mix


def side_type(name: str) -> str:
    """The weight type of this name for a side network, in any case."""
    if name.upper() not in SIDE_TYPES:
        raise InvalidArgumentError(f"there is no weight type '{name}'; choose one of {', '.join(SIDE_TYPES)}")
    return name.upper()


def file_type_of(type_name: str) -> int:
    """`general.file_type` of a file whose matrices all have this type."""
    names = {"Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}
    return MIXES[names.get(type_name, type_name)].file_type


# The matrices of a side network that only ever multiply activations, by kind of file: these may take any
# type. Convolutions, tables and vectors keep the type of the official file.
_LINEAR = {
    "clip": (
        r"v\.blk\.\d+\.(attn_(q|k|v|out)|ffn_(up|down))\.weight"
        r"|resampler\.(proj|kv|attn\.(q|k|v|out))\.weight"
    ),
    "whisper": (
        r"encoder\.blocks\.\d+\.(attn\.(query|key|value|out)|mlp\.[02])\.weight"
        r"|audio_projector\.linear[12]\.weight"
    ),
    "llama": r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight",
    "token2wav-encoder": (
        r"(up_)?(embed\.out\.0|encoders\.\d+\.(self_attn\.linear_(q|k|v|out|pos)|feed_forward\.w_[12]))\.weight"
    ),
    "token2wav-flow-matching": (
        r"estimator\.(t_embedder\.mlp\.[02]|in_proj|final_layer\.(adaLN_modulation\.1|linear)"
        r"|blocks\.\d+\.(attn\.(to_[qkv]|proj)|mlp\.fc[12]|adaLN_modulation\.1))\.weight"
    ),
    "omni-speech-tokenizer": r"encoder\.blocks\.\d+\.(attn\.(query|key|value|out)|mlp\.[02])\.weight",
}

# A tensor by which each kind of file is known; general.architecture is not always there.
_MARKERS = {
    "blk.0.attn_q_norm.weight": "qwen3",
    "v.patch_embd.weight": "clip",
    "audio_projector.linear1.weight": "whisper",
    "head_code.0.weight": "llama",
    "encoders.0.norm_mha.weight": "token2wav-encoder",
    "estimator.in_proj.weight": "token2wav-flow-matching",
    "quantizer._codebook.project_down.weight": "omni-speech-tokenizer",
}


def file_kind(names: Container[str]) -> str | None:
    """The kind of a file by the names of its tensors; None if it holds nothing to quantise."""
    return next((kind for marker, kind in _MARKERS.items() if marker in names), None)


def is_known(type_name: str) -> bool:
    """Whether tensors of this type can be read and written."""
    return type_name in _LAYOUT


def is_linear(architecture: str, name: str) -> bool:
    """Whether a tensor of a side network is a plain matrix that may be quantised."""
    pattern = _LINEAR.get(architecture)
    return pattern is not None and re.fullmatch(pattern, name) is not None


def side_tensor_type(architecture: str, name: str, columns: int, wanted: str, official: str) -> str:
    """The type of a side network's tensor.

    `wanted` is what was asked for; tensors that can't take it are stored as `official`.
    """
    if wanted == "F32":
        return "F32"
    return fit_type(wanted, columns) if is_linear(architecture, name) else official
