"""The language model: token ids or embeddings in, hidden states and logits out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from omni import _ext

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Cache = _ext.KvCache


class LanguageModel:
    """A Qwen3 decoder from a GGUF file. Weights are shared; each conversation has its own cache.

    Args:
        gguf: path of the file.
        n_ctx: positions that a new cache holds; at most the model's own limit.
        n_threads: threads on the processor; None: one for each physical core.
        device: a name of `omni.list_devices()`, "gpu" for the first accelerator, None for the processor.
        n_batch: rows computed at once; longer input is split.
        kv_type: how keys and values are kept: "f32", "f16" or "q8_0".
        weight_format: how float weights are held: "stored", "bf16" or "q8_0".
        repack: let quantised weights be copied into a layout with faster kernels.
        poll: 0 to 100, how eagerly worker threads wait; high values lose when other programs run.

    Raises:
        ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
    """

    def __init__(
        self,
        gguf: str | os.PathLike[str],
        *,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        device: str | None = None,
        n_batch: int = 512,
        kv_type: Literal["f32", "f16", "q8_0"] = "f16",
        weight_format: Literal["stored", "bf16", "q8_0"] = "stored",
        repack: bool = True,
        poll: int = 1,
    ) -> None:
        self._model = _ext.LanguageModel.open(
            os.fspath(gguf),
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            kv_type=kv_type,
            weight_format=weight_format,
            repack=repack,
        )

    @classmethod
    def synthetic(
        cls,
        llm: str = "Q4_K_M",
        layers: int = 36,
        *,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        device: str | None = None,
        n_batch: int = 512,
        kv_type: Literal["f32", "f16", "q8_0"] = "f16",
        weight_format: Literal["stored", "bf16", "q8_0"] = "stored",
        repack: bool = True,
        poll: int = 1,
    ) -> LanguageModel:
        """Make a model of MiniCPM-o 4.5's sizes with random weights of type `llm`, in memory."""
        self = cls.__new__(cls)
        self._model = _ext.LanguageModel.synthetic(
            llm,
            layers,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            kv_type=kv_type,
            weight_format=weight_format,
            repack=repack,
        )
        return self

    @property
    def info(self) -> _ext.LanguageModelInfo:
        """Sizes and memory of the model."""
        return self._model.info

    @property
    def device_name(self) -> str:
        """The device that computes."""
        return self._model.device_name

    def embed(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Look up token ids [n] in the embedding table: float32 [n, D]."""
        return self._model.embed(np.atleast_1d(np.asarray(ids, dtype=np.int32)))

    def new_cache(self, n_ctx: int | None = None) -> Cache:
        """Make an empty KV cache of `n_ctx` positions (default: the model's)."""
        return self._model.new_cache(n_ctx or 0)

    def forward(
        self,
        input: ArrayLike,
        cache: Cache,
        logits: Literal["all", "last", "none"] | Sequence[int] = "last",
        *,
        hidden: Literal["all", "rows"] = "all",
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Append n rows to the cache and compute them.

        Args:
            input: token ids [n] (integers) or embeddings [n, D] (floats).
            cache: from `new_cache()`; its length grows by n. Unchanged if an error is raised.
            logits: rows whose logits are wanted: all, the last, none, or ascending indices in [0, n).
            hidden: hidden states of all n rows, or only of the rows with logits (a little faster).

        Returns:
            hidden states after the final norm, float32 [n or rows, D]; logits, float32 [rows, V].

        Raises:
            ContextFullError: the cache has no room for n more rows.
            InvalidArgumentError: an unknown id, NaN values or a wrong shape.
        """
        rows = logits if isinstance(logits, str) else list(logits)
        return self._model.forward(cache, np.asarray(input), rows, hidden == "all")
