"""One answer: the prompt into a KV cache, then token after token, or a beam search."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.errors import ContextFullError, InvalidArgumentError
from omni.language_model import Cache, LanguageModel

__all__ = ["Generation", "GenerationConfig", "PromptCache", "TextStream", "row_keys"]


# Rows of a prompt computed between chances to interrupt.
_BLOCK = 512


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen. The values are those of the published `chat()`."""

    max_new_tokens: int = 4096
    min_new_tokens: int = 0
    do_sample: bool = True
    num_beams: int = 3
    temperature: float = 0.7
    top_k: int = 100
    top_p: float = 0.8
    repetition_penalty: float | None = None  # None: 1.02, or 1.2 for a beam search that doesn't sample
    seed: int | None = None  # None: a new one for each answer

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0), ("num_beams", 1), ("top_k", 0)):
            if getattr(self, name) < least:
                raise InvalidArgumentError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name, most in (("temperature", 1e3), ("top_p", 1.0), ("penalty", 1e3)):
            if not 0 <= getattr(self, name) <= most:
                raise InvalidArgumentError(f"{name} must be from 0 to {most:g}, not {getattr(self, name)}")

    @property
    def penalty(self) -> float:
        """The repetition penalty that holds."""
        if self.repetition_penalty is not None:
            return self.repetition_penalty
        return 1.2 if self.num_beams > 1 and not self.do_sample else 1.02

    def sampler_options(self) -> dict[str, Any]:
        """Arguments that sampler and beam search have in common."""
        return {
            "greedy": not self.do_sample or self.temperature == 0,
            "temperature": self.temperature or 1.0,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "repetition_penalty": self.penalty,
            "min_new_tokens": self.min_new_tokens,
            "seed": secrets.randbits(64) if self.seed is None else self.seed,
        }


@dataclass
class Generation:
    """What happened while an answer was made. Filled while it is."""

    prompt_tokens: int = 0
    reused_tokens: int = 0  # of the prompt, found in the cache
    ids: list[int] = field(default_factory=list)  # generated, the stop token included
    finish: Literal["stop", "length"] | None = None  # None: not finished
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    speech_tokens: int = 0  # of the spoken answer; 25 are a second
    speech_seconds: float = 0.0  # that it took to speak


def row_keys(
    ids: NDArray[np.int32], embeds: NDArray[np.float32], is_media: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """A number for each row of a prompt, [n]: equal numbers mean equal rows.

    A token's is its id; that of a picture's or clip's row is a digest of its values, with the sign bit set.
    """
    keys = ids.astype(np.int64)
    for row in np.flatnonzero(is_media):
        digest = hashlib.blake2b(embeds[row].tobytes(), digest_size=8).digest()
        keys[row] = (int.from_bytes(digest, "little") >> 1) - 2**63
    return keys


class PromptCache:
    """A KV cache that remembers which rows it holds, so that the next prompt computes only what is new."""

    def __init__(self, model: LanguageModel, n_ctx: int | None = None) -> None:
        self.cache: Cache = model.new_cache(n_ctx)
        self._model = model
        self._keys: list[int] = []

    def prefill(
        self, keys: NDArray[np.int64], embeds: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], int]:
        """Makes the cache hold exactly these rows; returns logits [V] behind them and how many it had."""
        common = 0
        for mine, wanted in zip(self._keys, keys[:-1].tolist(), strict=False):
            if mine != wanted:
                break
            common += 1
        # The keys always tell the truth, so that a pass which fails or is interrupted costs only itself.
        del self._keys[common:]
        self.cache.truncate(common)
        for first in range(common, len(keys), _BLOCK):
            rows = embeds[first : first + _BLOCK]
            _, logits = self._model.forward(rows, self.cache, "last", hidden="rows")
            self._keys += keys[first : first + _BLOCK].tolist()
        return logits[0], common

    def recompute(
        self, first: int, keys: NDArray[np.int64], embeds: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Replaces the rows from `first` on by these; returns their hidden states [n, D]."""
        del self._keys[first:]
        self.cache.truncate(first)
        hidden, _ = self._model.forward(embeds, self.cache, "none")
        self._keys += keys.tolist()
        return hidden

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends a token; returns the logits [V] behind it."""
        logits = _step(self._model, self.cache, token)
        self._keys.append(token)
        return logits


def _step(model: LanguageModel, cache: Cache, token: int) -> NDArray[np.float32]:
    _, logits = model.forward(np.array([token], np.int32), cache, "last", hidden="rows")
    row: NDArray[np.float32] = logits[0]
    return row


def sample(
    model: LanguageModel,
    state: PromptCache,
    logits: NDArray[np.float32],
    stop_ids: Sequence[int],
    config: GenerationConfig,
    result: Generation,
) -> Iterator[int]:
    """Yields token after token; `result` is kept up to date."""
    sampler = _ext.ChatSampler(model.info.n_vocab, list(stop_ids), **config.sampler_options())
    start = time.perf_counter()
    for _ in range(config.max_new_tokens):
        token = sampler.sample(logits)
        result.ids.append(token)
        result.decode_seconds = time.perf_counter() - start
        if token in stop_ids:
            result.finish = "stop"
            yield token
            return
        yield token
        if state.cache.length == state.cache.capacity:
            break
        logits = state.step(token)
    result.finish = "length"


class _Beams:
    """The caches of a search's beams. All begin with the prompt's."""

    def __init__(self, model: LanguageModel, cache: Cache, count: int) -> None:
        self._model = model
        self._caches = [cache] * count

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits [n_beams, V]: beam b continues what beam parents[b] was, with tokens[b]."""
        caches: list[Cache] = []
        for parent in parents:
            cache = self._caches[parent]
            # The first heir goes on with the cache itself, the others with copies.
            caches.append(cache.clone() if any(cache is taken for taken in caches) else cache)
        self._caches = caches
        rows = [_step(self._model, cache, token) for cache, token in zip(caches, tokens, strict=True)]
        return np.stack(rows)


def search(
    model: LanguageModel,
    state: PromptCache,
    logits: NDArray[np.float32],
    stop_ids: Sequence[int],
    config: GenerationConfig,
    result: Generation,
) -> None:
    """Fills `result` with the best answer of a beam search."""
    start = time.perf_counter()
    room = state.cache.capacity - state.cache.length
    beams = _Beams(model, state.cache, config.num_beams)
    result.ids, _ = _ext.beam_search(
        beams.step,
        logits,
        list(stop_ids),
        n_beams=config.num_beams,
        max_new_tokens=min(config.max_new_tokens, room + 1),
        **config.sampler_options(),
    )
    result.decode_seconds = time.perf_counter() - start
    result.finish = "stop" if result.ids and result.ids[-1] in stop_ids else "length"


def require_room(rows: int, n_ctx: int) -> None:
    """Raises ContextFullError unless a prompt of `rows` rows and a token fit."""
    if rows >= n_ctx:
        raise ContextFullError(
            f"the prompt needs {rows} of the {n_ctx} positions of the context and leaves none for the "
            "answer: raise n_ctx, or shorten the prompt"
        )


class TextStream(Iterator[str]):
    """Text of an answer, piece by piece, as it is generated. `result` says how it went."""

    def __init__(self, pieces: Iterator[str], result: Generation) -> None:
        self._pieces = pieces
        self.result = result

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)
