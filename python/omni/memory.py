"""What a model takes in memory beside what there is, told before it is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omni import _ext
from omni.errors import OutOfMemoryError
from omni.model_files import PARTS, ModelFiles

_VALUE_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
# Tensors that nobody reads, or only a few rows of.
_IDLE = {"token_embd.weight", "emb_text.weight", "projector_spk.linear1.weight", "resampler.pos_embed_k"}


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes of a model in use."""

    llm: int  # pages of its file; the system can drop them, and reads them again for the next token
    context: int  # keys and values
    parts: int  # the encoders, the speech model, token2wav

    @property
    def total(self) -> int:
        """All of it."""
        return self.llm + self.context + self.parts

    def __str__(self) -> str:
        parts = f", {self.parts / 1e9:.1f} the other networks" if self.parts else ""
        return (
            f"{self.total / 1e9:.1f} GB ({self.llm / 1e9:.1f} the language model, "
            f"{self.context / 1e9:.1f} its context{parts})"
        )


def available_memory() -> int | None:
    """Bytes that programs can use now; where the system does not say, all there are; None: unknown."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    total = next((device.memory_total for device in _ext.list_devices() if device.kind == "cpu"), 0)
    return total or None


def context_bytes(n_layers: int, n_kv_heads: int, head_dim: int, n_ctx: int, kv_type: str) -> int:
    """Keys and values of a full context."""
    return int(2 * n_layers * n_kv_heads * head_dim * _VALUE_BYTES[kv_type] * n_ctx)


def memory_needs(files: ModelFiles, n_ctx: int, kv_type: str, parts: Collection[str] = PARTS) -> MemoryNeeds:
    """What a model takes with a context and these parts of `PARTS`, as far as they are there."""
    llm = _ext.GgufFile(str(files.llm))
    names = ("block_count", "attention.head_count_kv", "attention.key_length")
    layers, heads, width = (int(llm.describe(f"qwen3.{name}")) for name in names)
    paths = [getattr(files, part) for part in ("vision", "audio") if part in parts]
    if "speech" in parts:
        paths += [files.tts, *(sorted(files.token2wav.glob("*.gguf")) if files.token2wav else [])]
    return MemoryNeeds(
        llm=_used_bytes(files.llm),
        context=context_bytes(layers, heads, width, n_ctx, kv_type),
        parts=sum(_used_bytes(path) for path in paths if path is not None),
    )


def require_memory(files: ModelFiles, n_ctx: int, kv_type: str, parts: Collection[str] = PARTS) -> None:
    """Warns if a model will not fit into what is available, and refuses a context that can't.

    Raises OutOfMemoryError. For models on the processor.
    """
    available = available_memory()
    if available is None:
        return
    needs = memory_needs(files, n_ctx, kv_type, parts)
    there = f"{available / 1e9:.1f} GB are available"
    smaller = "a shorter context (n_ctx, --ctx-size) or kv_type q8_0 takes less"
    if needs.context > available:
        raise OutOfMemoryError(
            f"the context of {n_ctx} positions takes {needs.context / 1e9:.1f} GB; {there}: {smaller}"
        )
    if needs.total > available:
        warnings.warn(
            f"{files.llm.name} needs {needs}, and {there}: it will be read from the disk again and again, "
            f"which is slow; a smaller quantisation or {smaller}",
            stacklevel=3,
        )


def _used_bytes(path: Path) -> int:
    return sum(size for name, _, _, _, size in _ext.GgufFile(str(path)).tensors() if name not in _IDLE)
