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
