"""The model's sizes, and its checkpoint in the Hugging Face layout with the published names."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano import safetensors_file, tokens, whisper
from omni.convert import Options, convert


@dataclass(frozen=True)
class Sizes:
    """The language model. The names are those of the published config."""

    hidden_size: int = 256
    num_hidden_layers: int = 4
    intermediate_size: int = 768
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 8192
    vocab_size: int = tokens.VOCABULARY


# Training sees about 40 units after the system prompt: the context must not grow beyond what it covers.
WINDOW = {
    "sliding_window_mode": "basic",
    "basic_window_high_tokens": 540,
    "basic_window_low_tokens": 420,
}


def config(sizes: Sizes) -> dict[str, object]:
    """config.json."""
    return {
        "architectures": ["MiniCPMO"],
        "model_type": "minicpmo",
        "version": "4.5",
        **asdict(sizes),
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "audio_pool_step": 5,
        "audio_chunk_length": 1.0,
        "stream_input": True,
        "init_vision": False,
        "init_audio": True,
        "init_tts": False,
        "duplex_config": WINDOW,
        "audio_config": {
            "d_model": whisper.WIDTH,
            "encoder_layers": whisper.LAYERS,
            "encoder_attention_heads": whisper.HEADS,
            "encoder_ffn_dim": whisper.FFN,
            "num_mel_bins": whisper.MELS,
            "max_source_positions": whisper.POSITIONS,
            "activation_function": "gelu",
            "model_type": "whisper",
        },
    }


def write_checkpoint(folder: Path, tensors: dict[str, NDArray[np.float32]], sizes: Sizes) -> None:
    """A checkpoint directory from all tensors by their published names."""
    tokens.write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config(sizes), indent=1) + "\n")
    safetensors_file.save(folder / "model.safetensors", tensors)


def random_tensors(
    sizes: Sizes, ear: dict[str, NDArray[np.float32]], seed: int
) -> dict[str, NDArray[np.float32]]:
    """An untrained model around a trained ear."""
    draws = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return draws.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    out = dict(ear)
    width, ffn = sizes.hidden_size, sizes.intermediate_size
    queries, keys = (n * sizes.head_dim for n in (sizes.num_attention_heads, sizes.num_key_value_heads))
    for i, inputs in enumerate((whisper.WIDTH, width), start=1):
        out[f"audio_projection_layer.linear{i}.weight"] = normal(width, inputs)
        out[f"audio_projection_layer.linear{i}.bias"] = np.zeros(width, np.float32)
    out["llm.model.embed_tokens.weight"] = normal(sizes.vocab_size, width)
    out["llm.lm_head.weight"] = normal(sizes.vocab_size, width)
    out["llm.model.norm.weight"] = np.ones(width, np.float32)
    for i in range(sizes.num_hidden_layers):
        at = f"llm.model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}{name}.weight"] = np.ones(width, np.float32)
        for name in ("q_norm", "k_norm"):
            out[f"{at}self_attn.{name}.weight"] = np.ones(sizes.head_dim, np.float32)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            out[f"{at}self_attn.{name}_proj.weight"] = normal(rows, width)
        out[f"{at}self_attn.o_proj.weight"] = normal(width, queries)
        out[f"{at}mlp.gate_proj.weight"] = normal(ffn, width)
        out[f"{at}mlp.up_proj.weight"] = normal(ffn, width)
        out[f"{at}mlp.down_proj.weight"] = normal(width, ffn)
    return out


def convert_checkpoint(checkpoint: Path, out: Path, llm: str, audio: str) -> None:
    """A model directory that the engine opens."""
    parts = frozenset({"llm", "audio"})
    convert(checkpoint, out, Options(llm=llm, audio=audio, only=parts), force=True)
