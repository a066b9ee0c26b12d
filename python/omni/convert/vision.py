"""The vision tower and resampler to the official vision file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omni.convert.checkpoint import Floats, Shape
from omni.convert.config import VisionSizes
from omni.convert.plan import FilePlan, Key, Source, TensorPlan
from omni.convert.weight_types import file_type_of, side_tensor_type

_ARCHITECTURE = "clip"
# MiniCPM-o 4.5 in the numbering of the official converter.
_MODEL_VERSION = 100045
# Side of the position grid for which the official file stores a table.
_GRID = 70

# GGUF name within a layer: name in the checkpoint. The MLP names are crossed in the official file: ffn_down
# is the first, widening matrix.
_LAYER_NAMES = {
    "ln1": "layer_norm1",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ln2": "layer_norm2",
    "ffn_down": "mlp.fc1",
    "ffn_up": "mlp.fc2",
}


def plan_vision(
    sizes: VisionSizes,
    llm_width: int,
    queries: int,
    slice_side: int,
    type_name: str,
    path: str,
    spare_layers: int = 0,
) -> FilePlan:
    """Plans the file.

    `llm_width`: width of the language model, which the resampler writes; `queries`: embeddings per image;
    `slice_side`: pixels; `spare_layers`: layers of the checkpoint after the last one that runs, left out.
    """
    tensors = _resampler(sizes.hidden_size, llm_width, queries, type_name) + _tower(sizes, type_name)
    unused = [
        Source(f"vpm.encoder.layers.{i}.{hf}.{part}", shape)
        for i in range(sizes.num_hidden_layers, sizes.num_hidden_layers + spare_layers)
        for hf, part, shape in _layer_shapes(sizes)
    ]
    metadata = [
        Key("general.architecture", "str", _ARCHITECTURE),
        Key("clip.has_text_encoder", "bool", False),
        Key("clip.has_vision_encoder", "bool", True),
        Key("clip.has_minicpmv_projector", "bool", True),
        Key("general.file_type", "u32", file_type_of(type_name)),
        Key("general.description", "str", "image encoder for MiniCPM-V"),
        Key("clip.projector_type", "str", "resampler"),
        Key("clip.minicpmv_version", "i32", _MODEL_VERSION),
        Key("clip.vision.image_size", "u32", slice_side),
        Key("clip.vision.patch_size", "u32", sizes.patch_size),
        Key("clip.vision.embedding_length", "u32", sizes.hidden_size),
        Key("clip.vision.feed_forward_length", "u32", sizes.intermediate_size),
        Key("clip.vision.projection_dim", "u32", 0),
        Key("clip.vision.attention.head_count", "u32", sizes.num_attention_heads),
        Key("clip.vision.attention.layer_norm_epsilon", "f32", sizes.layer_norm_eps),
        Key("clip.vision.block_count", "u32", sizes.num_hidden_layers),
        Key("clip.minicpmv_query_num", "u32", queries),
        Key("clip.vision.image_mean", "f32[]", [0.5, 0.5, 0.5]),
        Key("clip.vision.image_std", "f32[]", [0.5, 0.5, 0.5]),
        Key("clip.use_gelu", "bool", True),
    ]
    notes = (
        ["the checkpoint's last vision layer is left out, as its config.json says"] if spare_layers else []
    )
    return FilePlan(path, metadata, tensors, unused, notes)


def position_table(width: int, side: int = _GRID) -> Floats:
    """Sine and cosine positions of a grid, `[side * side, width]`, row by row of the grid.

    Channels: sine then cosine of the column, then of the row.
    """
    quarter = width // 4
    omega = 1.0 / 10000.0 ** (np.arange(quarter, dtype=np.float64) / quarter)
    angles = np.arange(side, dtype=np.float32)[:, None] * omega.astype(np.float32)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.empty((side, side, width), np.float32)
    table[:, :, : width // 2] = waves[None, :, :]
    table[:, :, width // 2 :] = waves[:, None, :]
    return table.reshape(side * side, width)


def _tower(sizes: VisionSizes, type_name: str) -> list[TensorPlan]:
    width = sizes.hidden_size
    positions = (sizes.image_size // sizes.patch_size) ** 2
    patch = (width, 3, sizes.patch_size, sizes.patch_size)
    embeddings = "vpm.embeddings."
    tensors = [
        _tensor("v.patch_embd.weight", f"{embeddings}patch_embedding.weight", patch, type_name, "F16"),
        _tensor("v.patch_embd.bias", f"{embeddings}patch_embedding.bias", (width,), type_name),
        _tensor(
            "v.position_embd.weight",
            f"{embeddings}position_embedding.weight",
            (positions, width),
            type_name,
            "F16",
        ),
    ]
    crossed = {hf: ours for ours, hf in _LAYER_NAMES.items()}
    for i in range(sizes.num_hidden_layers):
        for hf, part, shape in _layer_shapes(sizes):
            source = f"vpm.encoder.layers.{i}.{hf}.{part}"
            tensors.append(_tensor(f"v.blk.{i}.{crossed[hf]}.{part}", source, shape, type_name))
    for part in ("weight", "bias"):
        tensors.append(_tensor(f"v.post_ln.{part}", f"vpm.post_layernorm.{part}", (width,), type_name))
    return tensors


def _layer_shapes(sizes: VisionSizes) -> list[tuple[str, str, Shape]]:
    width, ffn = sizes.hidden_size, sizes.intermediate_size
    shapes: dict[str, Shape] = {
        "layer_norm1": (width,),
        "layer_norm2": (width,),
        "mlp.fc1": (ffn, width),
        "mlp.fc2": (width, ffn),
    }
    out = []
    for hf in _LAYER_NAMES.values():
        weight = shapes.get(hf, (width, width))
        out += [(hf, "weight", weight), (hf, "bias", weight[:1])]
    return out


def _resampler(vision_width: int, width: int, queries: int, type_name: str) -> list[TensorPlan]:
    square, vector = (width, width), (width,)
    packed = Source("resampler.attn.in_proj_weight", (3 * width, width))
    packed_bias = Source("resampler.attn.in_proj_bias", (3 * width,))
    tensors = [
        _tensor("resampler.query", "resampler.query", (queries, width), type_name),
        TensorPlan("resampler.pos_embed_k", (_GRID * _GRID, width), "F32", (), lambda: position_table(width)),
        _built("resampler.proj.weight", Source("resampler.proj", square), square, type_name, np.transpose),
        _tensor("resampler.kv.weight", "resampler.kv_proj.weight", (width, vision_width), type_name),
    ]
    for i, part in enumerate("qkv"):
        third = _third(i, width)
        tensors.append(_built(f"resampler.attn.{part}.weight", packed, square, type_name, third))
        tensors.append(_built(f"resampler.attn.{part}.bias", packed_bias, vector, type_name, third))
    tensors.append(_tensor("resampler.attn.out.weight", "resampler.attn.out_proj.weight", square, type_name))
    tensors.append(_tensor("resampler.attn.out.bias", "resampler.attn.out_proj.bias", vector, type_name))
    for norm in ("ln_q", "ln_kv", "ln_post"):
        for part in ("weight", "bias"):
            name = f"resampler.{norm}.{part}"
            tensors.append(_tensor(name, name, vector, type_name))
    return tensors


def _third(index: int, width: int) -> Callable[[Floats], Floats]:
    return lambda packed: packed[index * width : (index + 1) * width]


def _tensor(name: str, source: str, shape: Shape, type_name: str, official: str = "F32") -> TensorPlan:
    kind = side_tensor_type(_ARCHITECTURE, name, shape[-1], type_name, official)
    return TensorPlan(name, shape, kind, (Source(source, shape),))


def _built(
    name: str, source: Source, shape: Shape, type_name: str, build: Callable[[Floats], Floats]
) -> TensorPlan:
    kind = side_tensor_type(_ARCHITECTURE, name, shape[-1], type_name, "F32")
    return TensorPlan(name, shape, kind, (source,), build)
