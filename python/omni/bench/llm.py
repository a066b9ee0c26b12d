"""Work for the language model: prefill of several sizes, and decoding token by token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni.bench import Peaks, Work, arithmetic_peak
from omni.language_model import LanguageModel

PREFILL_SIZES = (1, 16, 64, 128, 512)
DECODE_STEPS = 16


def works(model: LanguageModel, peaks: Peaks, past: int = 0) -> Iterator[Work]:
    """Prefill of 1 to 512 tokens in one batch, and decoding, each behind `past` tokens of context."""
    info = model.info
    peak = arithmetic_peak(peaks, info.matrix_type)
    random = np.random.default_rng(0)
    ids = random.integers(0, info.n_vocab, past + max(PREFILL_SIZES), dtype=np.int32)
    cache = model.new_cache()
    if past:
        model.forward(ids[:past], cache, logits="none", hidden="rows")

    def operations(n: int, context: int) -> float:
        # The output matrix works for one row only; attention multiplies with keys and values.
        layers = info.matrix_parameters - info.width * info.n_vocab
        attention = 4 * info.n_layers * info.n_heads * info.head_dim * n * (context + n / 2)
        return 2.0 * layers * n + 2.0 * info.width * info.n_vocab + attention

    def prefill(n: int) -> Work:
        return Work(
            stage="llm",
            what=f"prefill {n}",
            run=lambda: model.forward(ids[past : past + n], cache, hidden="rows"),
            items=n,
            operations=operations(n, past),
            bytes=info.matrix_bytes,
            peak=peak,
            prepare=lambda: cache.truncate(past),
        )

    def decode() -> None:
        for step in range(DECODE_STEPS):
            model.forward(ids[past + step : past + step + 1], cache, hidden="rows")

    for n in PREFILL_SIZES:
        if past + n <= cache.capacity:
            yield prefill(n)
    yield Work(
        stage="llm",
        what="decode",
        run=decode,
        items=DECODE_STEPS,
        operations=DECODE_STEPS * operations(1, past),
        bytes=DECODE_STEPS * info.matrix_bytes,
        peak=peak,
        prepare=lambda: cache.truncate(past),
    )
