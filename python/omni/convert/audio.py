"""The Whisper encoder and audio projection to the official audio file."""

from __future__ import annotations

import numpy as np

from omni.convert.checkpoint import Floats, Shape
from omni.convert.config import AudioSizes
from omni.convert.plan import FilePlan, Key, Source, TensorPlan
from omni.convert.weight_types import file_type_of, side_tensor_type

_ARCHITECTURE = "whisper"
_SAMPLE_RATE = 16000
_FFT = 400

# GGUF name within a layer: name in the checkpoint.
_LAYER_NAMES = {
    "attn_ln": "self_attn_layer_norm",
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "mlp_ln": "final_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
}


def plan_audio(sizes: AudioSizes, llm_width: int, pool_step: int, type_name: str, path: str) -> FilePlan:
    """Plans the file. `llm_width`: width of the language model, which the projection writes."""
    bins = _FFT // 2 + 1
    filters = mel_filters(sizes.num_mel_bins, _SAMPLE_RATE, _FFT)
    metadata = [
        Key("general.architecture", "str", _ARCHITECTURE),
        Key("general.file_type", "u32", file_type_of(type_name)),
        Key("general.description", "str", "audio encoder for MiniCPM-omni"),
        Key("encoder_attention_heads", "u32", sizes.encoder_attention_heads),
        Key("encoder_ffn_dim", "u32", sizes.encoder_ffn_dim),
        Key("encoder_layers", "u32", sizes.encoder_layers),
        Key("num_hidden_layers", "u32", sizes.encoder_layers),
        Key("d_model", "u32", sizes.d_model),
        Key("audio_pool_step", "u32", pool_step),
        Key("use_f16", "u32", int(type_name != "F32")),
        Key("n_mel", "u32", sizes.num_mel_bins),
        Key("n_fft", "u32", bins),  # this key counts frequency bins
        Key("filters", "f32[]", filters.ravel().tolist()),
    ]
    return FilePlan(path, metadata, _tensors(sizes, llm_width, type_name))


def mel_filters(mels: int, rate: int, fft: int) -> Floats:
    """Triangular filters `[mels, fft / 2 + 1]` from 0 Hz to half the rate (Hz), with equal areas.

    The Slaney scale: linear below 1000 Hz, logarithmic above. Computed in float64, rounded once.
    """
    corners = _mel_to_hz(np.linspace(0.0, _hz_to_mel(rate / 2), mels + 2))
    frequencies = np.arange(fft // 2 + 1) * (rate / fft)
    left, centre, right = (corners[i : i + mels, None] for i in range(3))
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (right - left)), np.float32)


# Slaney's scale: 200/3 Hz per mel up to 1000 Hz (mel 15), then 27 mels per factor 6.4.
_LINEAR_HZ, _BREAK_HZ, _BREAK_MEL = 200.0 / 3.0, 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    return float(hz / _LINEAR_HZ if hz < _BREAK_HZ else _BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(
    mel: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, _BREAK_HZ * np.exp((mel - _BREAK_MEL) * _LOG_STEP))


def _tensors(sizes: AudioSizes, llm_width: int, type_name: str) -> list[TensorPlan]:
    width, ffn = sizes.d_model, sizes.encoder_ffn_dim
    shapes: dict[str, Shape] = {
        "attn_ln": (width,),
        "mlp_ln": (width,),
        "mlp.0": (ffn, width),
        "mlp.2": (width, ffn),
    }

    def plan(
        name: str, source: str, shape: Shape, official: str = "F32", stored: Shape | None = None
    ) -> TensorPlan:
        kind = side_tensor_type(_ARCHITECTURE, name, shape[-1], type_name, official)
        # In the official file every value went through F16 once; a file of full precision keeps them all.
        build = _through_f16 if kind == "F32" and type_name != "F32" else np.asarray
        stored = stored or shape
        return TensorPlan(
            name, stored, kind, (Source(source, shape),), lambda values: build(values).reshape(stored)
        )

    tensors = []
    for i, inputs in enumerate((sizes.num_mel_bins, width), start=1):
        tensors.append(plan(f"encoder.conv{i}.weight", f"apm.conv{i}.weight", (width, inputs, 3), "F16"))
        tensors.append(plan(f"encoder.conv{i}.bias", f"apm.conv{i}.bias", (width,), stored=(width, 1)))
    positions = (sizes.max_source_positions, width)
    tensors.append(plan("encoder.positional_embedding", "apm.embed_positions.weight", positions))
    for part in ("weight", "bias"):
        tensors.append(plan(f"encoder.ln_post.{part}", f"apm.layer_norm.{part}", (width,)))
    for i in range(sizes.encoder_layers):
        for ours, hf in _LAYER_NAMES.items():
            name, source, shape = (
                f"encoder.blocks.{i}.{ours}",
                f"apm.layers.{i}.{hf}",
                shapes.get(ours, (width, width)),
            )
            tensors.append(plan(f"{name}.weight", f"{source}.weight", shape))
            if ours != "attn.key":  # the one projection without a bias
                tensors.append(plan(f"{name}.bias", f"{source}.bias", shape[:1]))
    for i, inputs in enumerate((ffn // 4, llm_width), start=1):
        name, source = f"audio_projector.linear{i}", f"audio_projection_layer.linear{i}"
        tensors.append(plan(f"{name}.weight", f"{source}.weight", (llm_width, inputs)))
        tensors.append(plan(f"{name}.bias", f"{source}.bias", (llm_width,)))
    return tensors


def _through_f16(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # infinity is refused when the tensor is written
        return values.astype(np.float16).astype(np.float32)
