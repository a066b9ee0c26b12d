"""The sizes that a checkpoint's config.json states; defaults are those of the published MiniCPM-o 4.5."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from omni.convert.checkpoint import read_json
from omni.errors import FormatError

# No network of this family has more layers; a larger number in a config is damage.
_MAX_LAYERS = 1000
_MAX_SIZE = 1 << 31


@dataclass(frozen=True)
class Sizes:
    """Base of the size tables. Field names are those of the config."""


AnySizes = TypeVar("AnySizes", bound=Sizes)


@dataclass(frozen=True)
class LlmSizes(Sizes):
    """The Qwen3 decoder."""

    num_hidden_layers: int = 36
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 151748
    max_position_embeddings: int = 40960
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6


@dataclass(frozen=True)
class WindowSizes(Sizes):
    """How a full-duplex session's context is kept short; the defaults are those of the published API."""

    basic_window_high_tokens: int = 8000
    basic_window_low_tokens: int = 6000
    context_previous_max_tokens: int = 500
    context_max_units: int = 24


WINDOW_MODES = ("off", "basic", "context")


@dataclass(frozen=True)
class SharedSizes(Sizes):
    """What the side networks take from the top of the config."""

    hidden_size: int = 4096
    query_num: int = 64
    audio_pool_step: int = 5


@dataclass(frozen=True)
class SliceSizes(Sizes):
    """How pictures are cut."""

    scale_resolution: int = 448


@dataclass(frozen=True)
class VisionSizes(Sizes):
    """The SigLIP2 tower."""

    num_hidden_layers: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_attention_heads: int = 16
    patch_size: int = 14
    image_size: int = 980  # the position table has (image_size / patch_size)^2 rows
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class AudioSizes(Sizes):
    """The Whisper encoder."""

    encoder_layers: int = 24
    d_model: int = 1024
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    num_mel_bins: int = 80
    max_source_positions: int = 1500


@dataclass(frozen=True)
class TtsSizes(Sizes):
    """The speech-token model. The class defaults of the published code are those of an older model."""

    num_hidden_layers: int = 20
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    max_position_embeddings: int = 4096
    num_audio_tokens: int = 6562
    num_text_tokens: int = 152064
    audio_bos_token_id: int = 151687
    text_eos_token_id: int = 151692


def section(config: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """A nested object of the config; empty if it is absent."""
    value = config.get(name, {})
    if not isinstance(value, dict):
        raise FormatError(f"{where}: {name} should be an object")
    return value


def read_sizes(kind: type[AnySizes], config: dict[str, Any], where: str) -> AnySizes:
    """Fills a dataclass of sizes from a JSON object; an absent value keeps its default.

    Raises FormatError for values that no network can have.
    """
    values: dict[str, Any] = {}
    for entry in fields(kind):
        value = config.get(entry.name)
        if value is None:
            continue
        whole = isinstance(entry.default, int)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value <= 0 or (whole and value != int(value)):
            raise FormatError(f"{where}: {entry.name} can't be {value!r}")
        if value > (_MAX_LAYERS if entry.name.endswith("layers") else _MAX_SIZE):
            raise FormatError(f"{where}: {entry.name} {value} is too large")
        values[entry.name] = int(value) if whole else float(value)
    return kind(**values)


def read_config(directory: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises FormatError if it is of another model."""
    path = directory / "config.json"
    config = read_json(path)
    if config.get("model_type") != "minicpmo":
        raise FormatError(
            f"{path}: model_type is {config.get('model_type')!r}; this converter knows 'minicpmo'"
        )
    if config.get("tie_word_embeddings"):
        raise FormatError(f"{path}: tie_word_embeddings is true; MiniCPM-o 4.5 has a separate output matrix")
    if str(config.get("version", "4.5")) != "4.5":
        raise FormatError(f"{path}: version {config['version']}; this converter knows 4.5")
    return config
