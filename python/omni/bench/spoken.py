"""Work for speaking: the speech model and token2wav together, a second at a time, and the first sound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni.bench import Peaks, Work, arithmetic_peak
from omni.bench.token2wav import FRAMES, HISTORY, STEPS, TOKENS, VOICE_SECONDS, random_voice
from omni.speech_model import SpeechModel
from omni.token2wav import Token2Wav

TEXT = 5  # tokens of a unit: a usual number


def works(speech: SpeechModel, token2wav: Token2Wav, peaks: Peaks) -> Iterator[Work]:
    """Units of a duplex turn, one network after the other: from hidden states to samples.

    "1 s" is a second in the middle of a turn. "first sound" is the time from the first unit's hidden states
    to its first samples, the voice being ready; the pause of 160 ms before a turn's sound is not in it.
    """
    info = speech.info
    random = np.random.default_rng(0)
    hidden = random.standard_normal((TEXT, info.llm_width), dtype=np.float32)
    ids = random.integers(0, info.n_text, TEXT, dtype=np.int32)
    voice = random_voice(token2wav.info.n_tokens)
    words = speech.stream(seed=1)
    vocoder = token2wav.vocoder_cost(FRAMES)
    peak = arithmetic_peak(peaks, token2wav.info.matrix_type)

    def pair(steps: int) -> tuple[Work, Work]:
        sound = token2wav.stream(voice, steps)

        def second() -> int:
            return sound.push(words.push(ids, hidden)).size

        def silent() -> None:
            words.flush()
            sound.reset()

        def middle() -> None:
            if words.position == 0 or words.position > 500:
                silent()
                for _ in range(HISTORY // FRAMES + 2):
                    second()

        def first() -> int:
            # Random weights end a unit early now and then: then what there is gets spoken.
            return second() or sound.push([], last=True).size

        def cost(past: int) -> tuple[float, float]:
            flow = token2wav.flow_cost(steps, VOICE_SECONDS * FRAMES + past)
            positions = TEXT + 1 + TOKENS
            return (
                flow.operations + vocoder.operations + 2.0 * info.matrix_parameters * positions,
                flow.bytes + vocoder.bytes + TOKENS * info.matrix_bytes,
            )

        def work(what: str, past: int, sounds: bool) -> Work:
            operations, size = cost(past)
            return Work(
                stage="spoken",
                what=f"{what}, {steps} steps" if sounds else f"{what}, {steps}",
                run=second if sounds else first,
                items=1,
                operations=operations,
                bytes=size,
                peak=peak,
                prepare=middle if sounds else silent,
                sound=sounds,
            )

        return work("1 s", HISTORY, True), work("first sound", 0, False)

    for steps in STEPS:
        yield from pair(steps)
