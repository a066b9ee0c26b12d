"""Work for the audio encoder: whole clips, and seconds of a stream behind more and more past."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni import _ext
from omni.audio_encoder import AudioEncoder
from omni.bench import Peaks, Work, arithmetic_peak

LAYERS = 24  # of the published encoder
RATE = 16000
CLIPS = (1, 10, 30)  # seconds
PASTS = (0, 10, 28)  # seconds of the stream before the one that is measured; after 29 it begins anew
POSITIONS = 50  # a second


def operations(info: _ext.AudioEncoderInfo, positions: int, seen: float) -> float:
    """Operations for positions of which each sees `seen` on average; a multiply-add counts as two."""
    n, width, out = positions, info.width, info.embed_width
    convolutions = 2 * 2 * n * 3 * info.bins * width + 2 * n * 3 * width**2
    layer = 8 * n * width**2 + 4 * n * seen * width + 4 * n * width * info.ffn_width
    # The average is taken before the second layer of the projection.
    projection = 2 * n * width * out + 2 * n / info.pool * out**2
    return float(convolutions + info.n_layers * layer + projection)


def works(encoder: AudioEncoder, peaks: Peaks) -> Iterator[Work]:
    """Clips in chunks of a second, and single seconds of a duplex stream; items are seconds of sound."""
    info = encoder.info
    peak = arithmetic_peak(peaks, info.matrix_type)
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, max(CLIPS) * RATE).astype(np.float32)
    stream = encoder.stream("duplex")

    def clip(seconds: int) -> Work:
        # A position sees its own second and the earlier ones.
        seen = POSITIONS * (seconds + 1) / 2
        return Work(
            stage="audio",
            what=f"clip of {seconds} s",
            run=lambda: encoder.encode(sound[: seconds * RATE]),
            items=seconds,
            operations=operations(info, POSITIONS * seconds, seen),
            bytes=info.matrix_bytes,
            peak=peak,
            sound=True,
        )

    def begin(past: int) -> None:
        stream.reset()
        for _ in range(past):
            stream.push(sound[:RATE])

    def second(past: int) -> Work:
        return Work(
            stage="audio",
            what=f"1 s after {past} s",
            run=lambda: stream.push(sound[:RATE]),
            items=1,
            operations=operations(info, POSITIONS, POSITIONS * (past + 1)),
            bytes=info.matrix_bytes,
            peak=peak,
            prepare=lambda: begin(past),
            sound=True,
        )

    for seconds in CLIPS:
        yield clip(seconds)
    for past in PASTS:
        yield second(past)
