"""Work for token2wav: a second of a stream with more and fewer steps of the flow, and the vocoder alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni.bench import Peaks, Work, arithmetic_peak
from omni.token2wav import Token2Wav
from omni.voice import Voice

STEPS = (10, 5)  # of the flow: the default, and half the work
TOKENS = 25  # a second
FRAMES = 50  # of the mel, a second
VOICE_SECONDS = 5
HISTORY = 100  # mel frames of speech that the flow keeps beside the voice's


def random_voice(n_tokens: int, seconds: int = VOICE_SECONDS) -> Voice:
    """A voice of some seconds that nobody has."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, n_tokens, seconds * TOKENS, dtype=np.int32)
    embedding = random.standard_normal(192, dtype=np.float32)
    return Voice(tokens, embedding, random.uniform(-8, 0, (2 * len(tokens), 80)).astype(np.float32))


def works(model: Token2Wav, peaks: Peaks) -> Iterator[Work]:
    """Windows of a turn that has outgrown the flow's memory, and the vocoder's part; items are seconds."""
    info = model.info
    peak = arithmetic_peak(peaks, info.matrix_type)
    random = np.random.default_rng(1)
    tokens = random.integers(0, info.n_tokens, TOKENS, dtype=np.int32)
    mel = random.uniform(-8, 0, (FRAMES, 80)).astype(np.float32)
    voice = random_voice(info.n_tokens)
    vocoder = model.vocoder_cost(FRAMES)

    def window(steps: int) -> Work:
        stream = model.stream(voice, steps)
        for _ in range(HISTORY // FRAMES + 1):
            stream.push(tokens)
        flow = model.flow_cost(steps, VOICE_SECONDS * FRAMES + HISTORY)
        return Work(
            stage="token2wav",
            what=f"1 s, {steps} steps",
            run=lambda: stream.push(tokens),
            items=1,
            operations=flow.operations + vocoder.operations,
            bytes=flow.bytes + vocoder.bytes,
            peak=peak,
            sound=True,
        )

    for steps in STEPS:
        yield window(steps)
    yield Work(
        stage="token2wav",
        what="1 s, vocoder",
        run=lambda: model.vocode(mel),
        items=1,
        operations=vocoder.operations,
        bytes=vocoder.bytes,
        peak=peak,
        sound=True,
    )
