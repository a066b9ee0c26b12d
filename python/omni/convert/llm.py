"""The language model: Qwen3 decoder and tokenizer to one GGUF file that any llama.cpp opens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from omni.convert import keys
from omni.convert.config import WINDOW_MODES, LlmSizes, WindowSizes, read_sizes
from omni.convert.plan import FilePlan, Key, Source, TensorPlan
from omni.convert.tokenizer import Tokenizer
from omni.convert.weight_types import Mix, block_size, find_mix
from omni.errors import FormatError

PREFIX = "llm."

# GGUF tensor of a layer: the checkpoint's name within it.
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def plan_llm(
    sizes: LlmSizes,
    quant: str,
    tokenizer: Tokenizer | None,
    name: str,
    path: str,
    more: Sequence[Key] = (),
) -> FilePlan:
    """Plans the file. Without a tokenizer (a dry run from a config alone) its keys are left out.

    `more`: metadata beyond the official file's.
    """
    mix = find_mix(quant)
    notes: list[str] = []
    tensors = [_tensor(gguf, PREFIX + hf, shape, sizes, mix, notes) for gguf, hf, shape in _names(sizes)]
    elements = sum(math.prod(t.shape) for t in tensors)
    metadata = [
        Key("general.architecture", "str", "qwen3"),
        Key("general.type", "str", "model"),
        Key("general.name", "str", name),
        Key("general.size_label", "str", _size_label(elements)),
        Key("general.license", "str", "apache-2.0"),
        Key("qwen3.block_count", "u32", sizes.num_hidden_layers),
        Key("qwen3.context_length", "u32", sizes.max_position_embeddings),
        Key("qwen3.embedding_length", "u32", sizes.hidden_size),
        Key("qwen3.feed_forward_length", "u32", sizes.intermediate_size),
        Key("qwen3.attention.head_count", "u32", sizes.num_attention_heads),
        Key("qwen3.attention.head_count_kv", "u32", sizes.num_key_value_heads),
        Key("qwen3.rope.freq_base", "f32", sizes.rope_theta),
        Key("qwen3.attention.layer_norm_rms_epsilon", "f32", sizes.rms_norm_eps),
        Key("qwen3.attention.key_length", "u32", sizes.head_dim),
        Key("qwen3.attention.value_length", "u32", sizes.head_dim),
        Key("general.file_type", "u32", mix.file_type),
        Key("general.quantization_version", "u32", 2),
    ]
    if tokenizer is not None:
        metadata += tokenizer.metadata() + tokenizer.omni_metadata()
    metadata += more
    return FilePlan(path, metadata, tensors, notes=notes)


def window_metadata(settings: dict[str, Any], where: str) -> list[Key]:
    """What a checkpoint's `duplex_config` says about a session's context, where it is not as published."""
    mode = settings.get("sliding_window_mode", WINDOW_MODES[0])
    if mode not in WINDOW_MODES:
        raise FormatError(f"{where}: sliding_window_mode can't be {mode!r}")
    sizes = read_sizes(WindowSizes, settings, where)
    if sizes.basic_window_low_tokens > sizes.basic_window_high_tokens:
        raise FormatError(f"{where}: basic_window_low_tokens is above basic_window_high_tokens")
    out = [Key(keys.DUPLEX_MODE, "str", mode)] if mode != WINDOW_MODES[0] else []
    for entry in fields(sizes):
        value = getattr(sizes, entry.name)
        if value != entry.default:
            out.append(Key(keys.DUPLEX_LIMITS + entry.name, "u32", value))
    return out


def _names(sizes: LlmSizes) -> list[tuple[str, str, tuple[int, ...]]]:
    """GGUF name, checkpoint name and shape of every tensor, in file order."""
    width, ffn, head = sizes.hidden_size, sizes.intermediate_size, sizes.head_dim
    queries, keys = sizes.num_attention_heads * head, sizes.num_key_value_heads * head
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_output": (width, queries),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "ffn_norm": (width,),
        "ffn_gate": (ffn, width),
        "ffn_up": (ffn, width),
        "ffn_down": (width, ffn),
    }
    table = (sizes.vocab_size, width)
    out: list[tuple[str, str, tuple[int, ...]]] = [
        ("output.weight", "lm_head.weight", table),
        ("output_norm.weight", "model.norm.weight", (width,)),
        ("token_embd.weight", "model.embed_tokens.weight", table),
    ]
    for i in range(sizes.num_hidden_layers):
        for part, hf in _LAYER_NAMES.items():
            out.append((f"blk.{i}.{part}.weight", f"model.layers.{i}.{hf}.weight", shapes[part]))
    return out


def _tensor(
    name: str, source: str, shape: tuple[int, ...], sizes: LlmSizes, mix: Mix, notes: list[str]
) -> TensorPlan:
    kind = "F32"
    if len(shape) > 1:
        kind = mix.type_of(name, sizes.num_hidden_layers, shape[-1])
        wanted = mix.type_of(name, sizes.num_hidden_layers, block_size("Q6_K"))
        if kind != wanted:
            notes.append(f"{name}: rows of {shape[-1]} don't fit {wanted}, stored as {kind}")
    return TensorPlan(name, shape, kind, (Source(source, shape),))


def _size_label(elements: int) -> str:
    """Parameters for people: 8.2B, 1.9M."""
    for scale, letter in ((1e9, "B"), (1e6, "M")):
        if elements >= scale:
            return f"{elements / scale:.1f}{letter}"
    return f"{elements / 1e3:.0f}K"
