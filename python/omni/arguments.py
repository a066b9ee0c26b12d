"""Arguments that programs written for the PyTorch model pass, and that mean nothing here."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

__all__ = ["TORCH_ARGUMENTS", "warn_unknown"]

# Of from_pretrained().
TORCH_ARGUMENTS = {
    "trust_remote_code", "attn_implementation", "torch_dtype", "dtype", "device_map", "low_cpu_mem_usage",
    "cache_dir", "revision", "use_safetensors",
}  # fmt: skip


def warn_unknown(function: str, names: Iterable[str], stacklevel: int = 3) -> None:
    """Warns of arguments that `function` ignores, at the place that called it."""
    for name in names:
        warnings.warn(
            f"{function}() ignores the argument {name}, which it doesn't know", stacklevel=stacklevel
        )
