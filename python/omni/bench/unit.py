"""A whole second of full duplex: everything that a unit takes, stage by stage, held against its second.

Random weights decide nothing, so what a unit does is given: a listening one hears a second, maybe sees a
frame, and closes; a speaking one also says six text tokens, which become 25 speech tokens and a second of
sound. The rows that the language model is fed are those of a session, in the same calls.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from omni.audio_encoder import AudioEncoder
from omni.bench import durations
from omni.bench.audio import POSITIONS, RATE
from omni.bench.token2wav import HISTORY, random_voice
from omni.language_model import LanguageModel
from omni.speech_model import SpeechModel
from omni.token2wav import Token2Wav
from omni.vision_encoder import VisionEncoder

LAYERS = 36  # of the published language model
BUDGET_MS = 1000.0
TEXT_TOKENS = 6  # what a second of speech takes
SPEECH_TOKENS = 25
HEARD_SECONDS = 10  # in the audio encoder's stream before those that are measured
SPOKEN_ROWS = 300  # in the speech model's turn
_FRAME = 448

Take = Callable[[Callable[[], object], Callable[[], object] | None], float]


@dataclass(frozen=True)
class Networks:
    """What a session is made of."""

    llm: LanguageModel
    audio: AudioEncoder
    vision: VisionEncoder
    speech: SpeechModel
    token2wav: Token2Wav


@dataclass(frozen=True)
class UnitRow:
    """Milliseconds of one kind of unit, its stages one after another."""

    unit: str
    hear: float  # the audio encoder, a second
    see: float  # the picture encoder, one slice
    prompt: float  # the language model takes what was heard and seen
    answer: float  # ... says six tokens, or none, and closes the unit
    speech: float  # six text tokens to 25 speech tokens
    sound: float  # and those to a second of sound

    @property
    def total(self) -> float:
        """All of them."""
        return self.hear + self.see + self.prompt + self.answer + self.speech + self.sound

    def as_dict(self) -> dict[str, Any]:
        """The row for `--json`."""
        return {**asdict(self), "total": self.total, "share": self.total / BUDGET_MS}


def unit_rows(
    networks: Networks,
    repeats: int,
    seconds: float,
    *,
    past: int = 0,
    steps: int | None = None,
    full_layers: int | None = None,
) -> list[UnitRow]:
    """Listening and speaking units, with sound alone and with a frame.

    Args:
        networks: what is measured.
        repeats, seconds: runs of each stage at most, and about how long.
        past: positions of context before the unit.
        steps: of the flow (None: 10).
        full_layers: layers that the language model stands for: time in its layers is scaled up to them.
    """

    def take(run: Callable[[], object], prepare: Callable[[], object] | None = None) -> float:
        return statistics.median(durations(run, prepare, repeats, seconds)) * 1e3

    llm = LanguageModelTimes(networks.llm, take, past, full_layers)
    hear, see = _hear(networks.audio, take), _see(networks.vision, take)
    speech, sound = speech_second(networks.speech, take), _sound(networks.token2wav, take, steps)
    heard = 1 + POSITIONS // networks.audio.info.pool
    seen = heard + networks.vision.info.n_queries + 2
    listen, speak = llm.answer(0), llm.answer(TEXT_TOKENS)
    with_sound, with_frame = llm.prompt(heard), llm.prompt(seen)
    return [
        UnitRow("listen", hear, 0, with_sound, listen, 0, 0),
        UnitRow("listen, frame", hear, see, with_frame, listen, 0, 0),
        UnitRow("speak", hear, 0, with_sound, speak, speech, sound),
        UnitRow("speak, frame", hear, see, with_frame, speak, speech, sound),
    ]


def unit_table(rows: Iterable[UnitRow]) -> Iterator[str]:
    """Lines of a table for people."""
    stages = ("hear", "see", "prompt", "answer", "speech", "sound")
    yield f"{'unit, ms':<14} " + " ".join(f"{name:>8}" for name in (*stages, "total", "of 1 s"))
    for row in rows:
        values = [getattr(row, stage) for stage in stages]
        cells = [f"{value:8.1f}" if value else f"{'':8}" for value in values]
        yield f"{row.unit:<14} {' '.join(cells)} {row.total:8.1f} {row.total / BUDGET_MS:8.0%}"


class LanguageModelTimes:
    """Times of the language model's calls, scaled up from its layers to those that it stands for."""

    def __init__(self, model: LanguageModel, take: Take, past: int, full_layers: int | None) -> None:
        self._model, self._take, self._past = model, take, past
        self._scale = (full_layers or model.info.n_layers) / model.info.n_layers
        self._cache = model.new_cache()
        self._ids = np.random.default_rng(0).integers(0, model.info.n_vocab, past + 512, dtype=np.int32)
        if past:
            model.forward(self._ids[:past], self._cache, logits="none", hidden="rows")

    def prompt(self, rows: int) -> float:
        """`rows` rows, and the logits of the last."""
        return self._time([(rows, True)])

    def answer(self, spoken: int) -> float:
        """Tokens one by one, if any after the one that says so, and then the two that close the unit."""
        decisions = [(1, True)] * (spoken + 1 if spoken else 0)
        return self._time([*decisions, (2, False)])

    def _time(self, calls: list[tuple[int, bool]]) -> float:
        whole = self._run(calls)
        if self._scale == 1.0:
            return whole
        layers = self._run([(rows, False) for rows, _ in calls])  # without the output matrix
        return layers * self._scale + max(0.0, whole - layers)

    def _run(self, calls: list[tuple[int, bool]]) -> float:
        def run() -> None:
            first = self._past
            for rows, logits in calls:
                ids = self._ids[first : first + rows]
                self._model.forward(ids, self._cache, "last" if logits else "none", hidden="rows")
                first += rows

        return self._take(run, lambda: self._cache.truncate(self._past))


def _hear(encoder: AudioEncoder, take: Take) -> float:
    sound = np.random.default_rng(1).uniform(-0.3, 0.3, RATE).astype(np.float32)
    stream = encoder.stream("duplex")
    for _ in range(HEARD_SECONDS):
        stream.push(sound)
    return take(lambda: stream.push(sound), None)


def _see(encoder: VisionEncoder, take: Take) -> float:
    frame = np.random.default_rng(2).integers(0, 256, (_FRAME, _FRAME, 3), dtype=np.uint8)
    return take(lambda: encoder.encode(frame, max_slice_nums=1), None)


def speech_second(model: SpeechModel, take: Take, rows: int = SPOKEN_ROWS) -> float:
    """Milliseconds of a second in a turn of `rows` rows or more."""
    random = np.random.default_rng(3)
    hidden = random.standard_normal((TEXT_TOKENS, model.info.llm_width), dtype=np.float32)
    ids = random.integers(0, model.info.n_text, TEXT_TOKENS, dtype=np.int32)
    stream = model.stream(seed=1)

    def begin() -> None:
        if stream.position == 0 or stream.position > 2 * SPOKEN_ROWS:
            stream.flush()
            while stream.position < rows:
                stream.push(ids, hidden)

    return take(lambda: stream.push(ids, hidden), begin)


def _sound(model: Token2Wav, take: Take, steps: int | None) -> float:
    tokens = np.random.default_rng(4).integers(0, model.info.n_tokens, SPEECH_TOKENS, dtype=np.int32)
    stream = model.stream(random_voice(model.info.n_tokens), steps or 10)
    for _ in range(HISTORY // (2 * SPEECH_TOKENS) + 1):
        stream.push(tokens)
    return take(lambda: stream.push(tokens), None)
