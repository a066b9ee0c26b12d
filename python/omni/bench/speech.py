"""Work for the speech model: one second of speech, with a unit's text before it and alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni.bench import Peaks, Work, arithmetic_peak
from omni.speech_model import SpeechModel

LAYERS = 20  # of the published model
TOKENS = 25  # a second of sound; a unit in mid-turn has exactly so many
TEXT_SIZES = (0, 5, 18)  # text tokens of a unit: none, a usual one, the most there can be


def works(model: SpeechModel, peaks: Peaks, past: int = 0) -> Iterator[Work]:
    """One unit of a duplex turn behind about `past` positions; items are seconds of sound."""
    info = model.info
    random = np.random.default_rng(0)
    hidden = random.standard_normal((max(TEXT_SIZES), info.llm_width), dtype=np.float32)
    ids = random.integers(0, info.n_text, len(hidden), dtype=np.int32)
    stream = model.stream(seed=1)

    def begin() -> None:
        # The first unit of a turn may be short; and a turn must not outgrow its context while it is measured.
        if stream.position == 0 or stream.position > past + 500:
            stream.flush()
            stream.push(ids[:1], hidden[:1])
            while stream.position < past:
                stream.push(ids, hidden)

    def unit(n: int) -> Work:
        attention = 4 * info.n_layers * info.width * (past + TOKENS / 2)
        head = info.width * info.n_codes
        positions = n + 1 + TOKENS  # the unit's last token is computed with the next unit
        layers = (info.matrix_parameters - head) * positions
        return Work(
            stage="speech",
            what=f"1 s, {n} text",
            run=lambda: stream.push(ids[:n], hidden[:n]),
            items=1,
            operations=2.0 * layers + 2.0 * head * TOKENS + attention * positions,
            bytes=TOKENS * info.matrix_bytes,
            peak=arithmetic_peak(peaks, info.matrix_type),
            prepare=begin,
            sound=True,
        )

    for n in TEXT_SIZES:
        yield unit(n)
