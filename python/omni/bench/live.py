"""A whole conversation with a model, at real-time pace: how long one waits for it, and how fast it stops.

A file is the user. It is played twice: once undisturbed, and once with every turn interrupted soon after its
first sound. Times are taken where a loudspeaker would get the sound; it adds its own delay, as does a
microphone.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from omni.audio_io import MODEL_RATE, load_audio
from omni.chat import open_model
from omni.devices.line import level_of
from omni.duplex_events import AudioEvent, DegradedEvent, Event, UnitEvent
from omni.duplex_session import DuplexSession
from omni.live.conversation import Conversation
from omni.live.outputs import Picture, Samples
from omni.live.sources import BLOCK, Block, Paced
from omni.live.summary import Summary
from omni.live.timeline import RATE
from omni.options import model_of

LIVE = "live"
_INTERRUPT_SECONDS = 0.3  # behind a turn's first sound
_SPEECH_DB = 30.0  # below the loudest: quieter is not speech
_FRAME = MODEL_RATE // 50


@dataclass(frozen=True)
class Quantiles:
    """Of a list of milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles | None:
        """None if there are no values."""
        if not values:
            return None
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        return cls(len(values), p50, p95, p99, max(values))

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f}, p95 {self.p95:.1f}, p99 {self.p99:.1f}, worst {self.worst:.1f} ms"


@dataclass
class LiveReport:
    """What was measured, in milliseconds."""

    model: str
    steps: int  # of the flow
    units: Quantiles | None = None  # the slowest stage's time for a second
    latency: Quantiles | None = None  # from a unit's last sample to its decision or sound
    first_sound_from_boundary: Quantiles | None = None  # from the last sample of the unit that it answers
    first_sound_from_speech: Quantiles | None = None  # from the end of what the user said
    stop: Quantiles | None = None  # from the interruption to the flush of the loudspeaker
    gaps: Quantiles | None = None  # holes in the sound of a turn
    turns: int = 0
    level: int = 0  # how far the session went in doing less
    dropped_seconds: float = 0.0
    context: int = 0  # rows at the end
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.model}; {self.steps} flow steps; {self.context} rows of context at the end"
        for name, values in (
            ("unit, of 1000 ms", self.units),
            ("latency of a unit", self.latency),
            ("first sound, from the unit's end", self.first_sound_from_boundary),
            ("first sound, from the end of speech", self.first_sound_from_speech),
            ("stop", self.stop),
            ("gaps", self.gaps),
        ):
            yield f"{name:<36} {'none' if values is None else f'{values} ({values.count})'}"
        yield f"{self.turns} turns, {self.dropped_seconds:.0f} s dropped, level of degradation {self.level}"
        yield from self.notes


class Meter(Summary):
    """Takes the times of a conversation. `speech_end`: second of the input where the user's speech ends."""

    def __init__(self, speech_end: float, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.latencies: list[float] = []
        self.from_boundary: list[float] = []
        self.from_speech: list[float] = []
        self.stops: list[float] = []
        self.gaps: list[float] = []
        self.level = self.context = 0
        self.interrupt: Callable[[], None] | None = None
        self._speech_end, self._now = speech_end, now
        self._n_heard = 0
        self._boundaries: list[float] = []  # when the units' last samples came
        self._speech_ended: float | None = None
        self._playing_until = 0.0
        self._asked: float | None = None

    def heard(self, samples: Samples, picture: Picture | None) -> None:
        """Notes the ends of seconds and of speech."""
        self._n_heard += len(samples)
        now = self._now()
        while len(self._boundaries) < self._n_heard // MODEL_RATE:
            self._boundaries.append(now)
        if self._speech_ended is None and self._n_heard >= self._speech_end * MODEL_RATE:
            # The block brought the end and what follows it.
            self._speech_ended = now - (self._n_heard / MODEL_RATE - self._speech_end)

    def event(self, event: Event, at: float | None) -> None:
        """Notes its time."""
        super().event(event, at)
        if isinstance(event, AudioEvent):
            self._sounded(event)
        elif isinstance(event, UnitEvent):
            self.latencies.append(event.latency_ms)
            self.context = event.cache_length
        elif isinstance(event, DegradedEvent):
            self.level = max(self.level, event.level)

    def ask(self) -> None:
        """The user interrupts now."""
        self._asked = self._now()

    def flush(self) -> None:
        """The loudspeaker would be silent now."""
        if self._asked is not None:
            self.stops.append((self._now() - self._asked) * 1e3)
            self._asked = None
        self._playing_until = 0.0

    def _sounded(self, event: AudioEvent) -> None:
        now = self._now()
        if event.first:
            if event.unit < len(self._boundaries):
                self.from_boundary.append((now - self._boundaries[event.unit]) * 1e3)
            if self._speech_ended is not None and not self.from_speech:
                self.from_speech.append((now - self._speech_ended) * 1e3)
            if self.interrupt is not None:
                threading.Timer(_INTERRUPT_SECONDS, self.interrupt).start()
        elif now > self._playing_until > 0:
            self.gaps.append((now - self._playing_until) * 1e3)
        begin = now if event.first else max(now, self._playing_until)
        self._playing_until = begin + len(event.samples) / RATE


def end_of_speech(sound: Samples) -> float:
    """Second where the last 20 ms end that are not 30 dB quieter than the loudest."""
    count = len(sound) // _FRAME
    levels = np.array([level_of(sound[i * _FRAME : (i + 1) * _FRAME]) for i in range(count)])
    loud = np.flatnonzero(levels > levels.max(initial=-100.0) - _SPEECH_DB)
    return float((loud[-1] + 1) * _FRAME / MODEL_RATE) if len(loud) else len(sound) / MODEL_RATE


class _Played:
    """Samples in memory as a source."""

    name, is_live = "sound", False

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        for start in range(0, len(self._samples), BLOCK):
            yield Block(self._samples[start : start + BLOCK])

    def close(self) -> None:
        pass


def converse(make: Callable[[], DuplexSession], sound: Samples, *, interrupts: bool) -> Meter:
    """One conversation at real-time pace."""
    meter = Meter(end_of_speech(sound))
    conversation = Conversation(make(), Paced(_Played(sound)), [meter], real_time=True)
    if interrupts:

        def interrupt() -> None:
            meter.ask()
            conversation.command("interrupt")

        meter.interrupt = interrupt
    conversation.run()
    return meter


def sample_sound(seconds: float = 3.0) -> Samples:
    """Noise with the rhythm of speech, for models that are not asked anything."""
    t = np.arange(int(seconds * MODEL_RATE)) / MODEL_RATE
    noise = np.random.default_rng(0).uniform(-1, 1, len(t))
    return (0.2 * noise * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def measure_live(args: argparse.Namespace) -> LiveReport:
    """Opens the model of the options and converses with it, about twice as long as the input lasts."""
    sound = sample_sound() if args.input is None else load_audio(args.input)
    files = model_of(args, {"audio", "speech"})
    model = open_model(args, files)
    model.init_audio()
    model.init_tts()

    steps = args.flow_steps or model.require_speaker().choose_voice(args.ref_audio, None).cache_steps or 10

    def make() -> DuplexSession:
        seed = 0 if args.seed is None else args.seed
        return DuplexSession(model, ref_audio=args.ref_audio, steps=steps, seed=seed)

    calm = converse(make, sound, interrupts=False)
    disturbed = converse(make, sound, interrupts=True)
    report = LiveReport(model.describe(), steps)
    report.units = Quantiles.of(calm.milliseconds)
    report.latency = Quantiles.of(calm.latencies)
    report.first_sound_from_boundary = Quantiles.of(calm.from_boundary)
    report.first_sound_from_speech = Quantiles.of(calm.from_speech)
    report.gaps = Quantiles.of(calm.gaps)
    report.stop = Quantiles.of(disturbed.stops)
    report.turns, report.context = calm.turns, calm.context
    report.level, report.dropped_seconds = calm.level, calm.dropped_seconds
    if args.input is None:
        report.notes.append("noise was heard, not a question: give --input FILE for latencies of real turns")
    if not calm.turns:
        report.notes.append("the model did not speak, so that nothing could be measured of its speech")
    return report
