"""The speech-token model and its projector to the official tts files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from omni.convert import keys
from omni.convert.checkpoint import Floats, Shape
from omni.convert.config import TtsSizes
from omni.convert.plan import FilePlan, Key, Source, TensorPlan
from omni.convert.tokenizer import Tokenizer
from omni.convert.weight_types import file_type_of, side_tensor_type
from omni.errors import FormatError

_ARCHITECTURE = "llama"
_PREFIX = "tts."
# Rows of the checkpoint's token table, which no one reads; the tiny checkpoint leaves it out.
_UNUSED_TABLE_ROWS = 32000

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# The forms of the network that the published model uses, and the only ones that there are weights for.
_SUPPORTED = {
    "projector_type": "mlp",
    "condition_type": "hidden_text_merge",
    "backbone_model": "llama",
    "num_vq": 1,
    "normalize_projected_hidden": True,
    "interleaved": False,
}


def check_tts_config(config: dict[str, Any], where: str) -> None:
    """Refuses speech models of another form. Raises FormatError."""
    for name, value in _SUPPORTED.items():
        if config.get(name, value) != value:
            raise FormatError(f"{where}: tts_config.{name} is {config[name]!r}; only {value!r} is supported")


def plan_tts(
    sizes: TtsSizes, llm_width: int, tokenizer: Tokenizer | None, type_name: str, name: str, path: str
) -> FilePlan:
    """Plans the speech model's file. `tokenizer`: padded to `vocabulary_size(sizes)`; None in a dry run."""
    head = sizes.hidden_size // sizes.num_attention_heads
    tensors = _trunk(sizes, type_name) + _tables(sizes, llm_width, type_name)
    metadata = [
        Key("general.architecture", "str", _ARCHITECTURE),
        Key("general.type", "str", "model"),
        Key("general.name", "str", name),
        Key("general.license", "str", "apache-2.0"),
        Key("llama.block_count", "u32", sizes.num_hidden_layers),
        Key("llama.context_length", "u32", sizes.max_position_embeddings),
        Key("llama.embedding_length", "u32", sizes.hidden_size),
        Key("llama.feed_forward_length", "u32", sizes.intermediate_size),
        Key("llama.attention.head_count", "u32", sizes.num_attention_heads),
        Key("llama.attention.head_count_kv", "u32", sizes.num_key_value_heads),
        Key("llama.rope.freq_base", "f32", 10000.0),
        Key("llama.attention.layer_norm_rms_epsilon", "f32", 1e-6),
        Key("llama.vocab_size", "u32", vocabulary_size(sizes)),
        Key("llama.rope.dimension_count", "u32", head),
        Key("general.file_type", "u32", file_type_of(type_name)),
        Key("general.quantization_version", "u32", 2),
    ]
    if tokenizer is not None:
        metadata += tokenizer.metadata()
    published = TtsSizes()
    if sizes.audio_bos_token_id != published.audio_bos_token_id:
        metadata.append(Key(keys.AUDIO_BOS_TOKEN_ID, "u32", sizes.audio_bos_token_id))
    if sizes.text_eos_token_id != published.text_eos_token_id:
        metadata.append(Key(keys.TEXT_EOS_TOKEN_ID, "u32", sizes.text_eos_token_id))
    return FilePlan(path, metadata, tensors)


def plan_projector(sizes: TtsSizes, llm_width: int, path: str) -> FilePlan:
    """Plans the projector's file: the numbers of projector_semantic once more, always F32."""
    tensors = [
        TensorPlan(name, shape, "F32", (Source(f"{_PREFIX}projector_semantic.{name}", shape),))
        for name, shape in _projector(sizes, llm_width)
    ]
    return FilePlan(path, [Key("general.architecture", "str", "projector")], tensors)


def vocabulary_size(sizes: TtsSizes) -> int:
    """Ids of text and speech tokens together."""
    return sizes.num_text_tokens + sizes.num_audio_tokens


def _trunk(sizes: TtsSizes, type_name: str) -> list[TensorPlan]:
    width, ffn = sizes.hidden_size, sizes.intermediate_size
    head = width // sizes.num_attention_heads
    keys_width = sizes.num_key_value_heads * head
    shapes: dict[str, Shape] = {
        "attn_norm": (width,),
        "attn_k": (keys_width, width),
        "attn_v": (keys_width, width),
        "ffn_norm": (width,),
        "ffn_gate": (ffn, width),
        "ffn_up": (ffn, width),
        "ffn_down": (width, ffn),
    }
    table = (vocabulary_size(sizes), width)
    unused = Source(f"{_PREFIX}model.embed_tokens.weight", (_UNUSED_TABLE_ROWS, width), optional=True)
    pad = _zero_padded(table)
    tensors = [
        TensorPlan("token_embd.weight", table, "F32" if type_name == "F32" else "F16", (unused,), pad),
        TensorPlan("output_norm.weight", (width,), "F32", (Source(f"{_PREFIX}model.norm.weight", (width,)),)),
    ]
    for i in range(sizes.num_hidden_layers):
        for ours, hf in _LAYER_NAMES.items():
            name, shape = f"blk.{i}.{ours}.weight", shapes.get(ours, (width, width))
            source = Source(f"{_PREFIX}model.layers.{i}.{hf}.weight", shape)
            kind = side_tensor_type(_ARCHITECTURE, name, shape[-1], type_name, "F32")
            build = _neighbour_pairs(head) if ours in ("attn_q", "attn_k") else None
            tensors.append(TensorPlan(name, shape, kind, (source,), build))
    return tensors


def _tables(sizes: TtsSizes, llm_width: int, type_name: str) -> list[TensorPlan]:
    width, codes = sizes.hidden_size, sizes.num_audio_tokens
    plain: list[tuple[str, Shape]] = [
        ("emb_text.weight", (sizes.num_text_tokens, width)),
        ("emb_code.0.weight", (codes, width)),
    ]
    plain += [(f"projector_semantic.{name}", shape) for name, shape in _projector(sizes, llm_width)]
    tensors = [TensorPlan(name, shape, "F32", (Source(_PREFIX + name, shape),)) for name, shape in plain]
    head = Source(f"{_PREFIX}head_code.0.weight", (codes, width))
    tensors.insert(2, TensorPlan("head_code.0.weight", (width, codes), "F32", (head,), np.transpose))
    for name, shape in _projector(sizes, llm_width):
        kind = "F16" if len(shape) > 1 and type_name != "F32" else "F32"
        tensors.append(
            TensorPlan(
                f"projector_spk.{name}", shape, kind, (Source(f"{_PREFIX}projector_spk.{name}", shape),)
            )
        )
    return tensors


def _projector(sizes: TtsSizes, llm_width: int) -> list[tuple[str, Shape]]:
    width = sizes.hidden_size
    return [
        ("linear1.weight", (width, llm_width)),
        ("linear1.bias", (width,)),
        ("linear2.weight", (width, width)),
        ("linear2.bias", (width,)),
    ]


def _neighbour_pairs(head: int) -> Callable[[Floats], Floats]:
    """Reorders each head's rows so that the rotation's pairs (i, i + head / 2) become neighbours."""

    def build(weight: Floats) -> Floats:
        halves = weight.reshape(-1, 2, head // 2, weight.shape[1])
        return halves.swapaxes(1, 2).reshape(weight.shape)

    return build


def _zero_padded(shape: Shape) -> Callable[[Floats | None], Floats]:
    def build(table: Floats | None) -> Floats:
        out = np.zeros(shape, np.float32)
        if table is not None:
            rows = min(len(table), len(out))
            out[:rows] = table[:rows]
        return out

    return build
