"""The loop between a source, a session and outputs, over scripted stages instead of networks."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omni
from omni import _ext
from omni.errors import FormatError, OmniError
from omni.live.conversation import Conversation
from omni.live.outputs import Output, Recording, SoundFile
from omni.live.sources import BLOCK, Block, Paced
from omni.live.summary import Summary
from omni.live.timeline import RATE

HEARD = 16000
Script = list[tuple[bool, str, bool]]
LISTEN = (False, "", False)
ANSWER: Script = [LISTEN, (True, "Hello", False), (True, " there.", True), LISTEN, LISTEN, LISTEN, LISTEN]
TALK: Script = [(True, "and so on ", False)]


def session_of(script: Script, *, real_time: bool = False, **how: Any) -> omni.DuplexSession:
    stages = _ext.scripted_duplex_stages(script, **how)
    return omni.DuplexSession._over(stages, None, real_time=real_time)


class Sound:
    """A source of so many seconds."""

    name, is_live = "sound", False

    def __init__(self, seconds: float, block: int = HEARD, error: Exception | None = None) -> None:
        self._n, self._block, self._error = int(seconds * HEARD), block, error
        self.closed = False

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        for start in range(0, self._n, self._block):
            yield Block(np.full(min(self._block, self._n - start), 0.1, np.float32))
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed = True


class Notes(Output):
    """Keeps everything."""

    def __init__(self, on_event: Callable[[omni.Event], None] | None = None) -> None:
        self.events: list[tuple[omni.Event, float | None]] = []
        self.n_heard = self.n_settled = 0
        self.sound: list[np.ndarray] = []
        self.flushed: list[float] = []
        self.notices: list[str] = []
        self.closed: list[bool] = []
        self._on_event = on_event

    def heard(self, samples: np.ndarray, picture: np.ndarray | None) -> None:
        self.n_heard += len(samples)

    def event(self, event: omni.Event, at: float | None) -> None:
        self.events.append((event, at))
        if self._on_event is not None:
            self._on_event(event)

    def settled(self, sound: np.ndarray) -> None:
        self.sound.append(sound)

    def flush(self) -> None:
        self.flushed.append(time.monotonic())

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def close(self, complete: bool) -> None:
        self.closed.append(complete)

    def units(self) -> list[bool]:
        return [event.is_listen for event, _ in self.events if isinstance(event, omni.UnitEvent)]

    def both(self) -> np.ndarray:
        return np.concatenate(self.sound)


def converse(
    session: omni.DuplexSession, source: Any, *outputs: Output, real_time: bool = False
) -> Conversation:
    conversation = Conversation(session, source, outputs, real_time=real_time)
    conversation.run()
    return conversation


def test_an_answer_lies_on_the_time_line_of_the_input() -> None:
    notes, source = Notes(), Sound(2)
    converse(session_of(ANSWER), source, notes)
    # Units 2, 3, 4 are silence; the answer ends in unit 2.
    assert notes.units() == [True, False, False, True, True]
    assert [at for event, at in notes.events if isinstance(event, omni.AudioEvent)] == [2.0, 3.0]
    both = notes.both()
    assert both.shape == (5 * RATE, 2)
    said = np.flatnonzero(both[:, 1])
    assert (said[0], said[-1]) == (2 * RATE, 4 * RATE - 1)
    assert abs(float(both[RATE // 2, 0]) - 0.1) < 0.01
    assert not both[2 * RATE + 1000 :, 0].any()
    assert notes.closed == [True]
    assert source.closed


@pytest.mark.parametrize(
    ("seconds", "units"),
    [(2, 4), (2.37, 5), (0.2, 3)],  # silence fills the last second up
)
def test_two_silent_seconds_that_are_listened_to_end_it(seconds: float, units: int) -> None:
    notes = Notes()
    converse(session_of([LISTEN] * 20), Sound(seconds), notes)
    assert notes.units() == [True] * units
    assert notes.n_heard == units * HEARD


def test_listening_must_be_in_a_row() -> None:
    script = [LISTEN, LISTEN, (True, "Oh", True), *[LISTEN] * 9]
    notes = Notes()
    converse(session_of(script), Sound(1), notes)
    assert notes.units() == [True, True, False, True, True]


def test_ten_silent_seconds_are_enough() -> None:
    notes = Notes()
    converse(session_of(TALK, repeat=True), Sound(1), notes)
    assert notes.units() == [False] * 11
    assert notes.closed == [True]


def test_real_time_keeps_its_pace() -> None:
    notes = Notes()
    start = time.monotonic()
    converse(session_of(ANSWER, real_time=True), Paced(Sound(1.3, BLOCK)), notes, real_time=True)
    taken = time.monotonic() - start
    # 1.3 s of input, 0.7 to fill the second, then silence up to its second listening unit: 3 and 4.
    assert notes.units()[:5] == [True, False, False, True, True]
    assert taken >= 5.0
    assert 5 * HEARD <= notes.n_heard <= 7 * HEARD
    at = [at for event, at in notes.events if isinstance(event, omni.AudioEvent)]
    assert len(at) == 2
    assert all(early <= moment for early, moment in zip((2.0, 3.0), at, strict=True))


class Live(Sound):
    """A source that goes on until it is stopped."""

    is_live = True

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        while not stop.wait(0.02):
            yield Block(np.zeros(HEARD // 10, np.float32))


def test_real_time_needs_a_pace() -> None:
    with session_of(ANSWER) as session, pytest.raises(omni.InvalidArgumentError, match="pace"):
        Conversation(session, Sound(1), [], real_time=True)


def test_an_interruption_silences_everything_at_once() -> None:
    asked: list[float] = []

    def interrupt() -> None:
        asked.append(time.monotonic())
        conversation.command("interrupt")

    def on_event(event: omni.Event) -> None:
        if isinstance(event, omni.AudioEvent) and event.first and not asked:
            threading.Timer(0.1, interrupt).start()
        if isinstance(event, omni.UnitEvent) and event.is_listen and event.unit and asked:
            conversation.command("quit")

    notes = Notes(on_event)
    session = session_of([LISTEN, *TALK * 50], real_time=True, samples_per_unit=5 * RATE)
    conversation = Conversation(session, Live(0), [notes], real_time=True)
    conversation.run()
    assert len(notes.flushed) == 1
    assert notes.flushed[0] - asked[0] < 0.25
    ends = [event for event, _ in notes.events if isinstance(event, omni.TurnEndEvent)]
    assert ends[0].interrupted
    both = notes.both()
    # Many times five seconds were said, but what was not heard yet is not in the recording either.
    said = np.flatnonzero(both[:, 1])
    assert len(said)
    assert said[-1] < len(both) - RATE // 2
    assert notes.closed == [False]


def test_a_session_that_was_interrupted_elsewhere_is_flushed_as_well() -> None:
    def on_event(event: omni.Event) -> None:
        if isinstance(event, omni.AudioEvent) and event.epoch == 0:
            session.interrupt()

    notes = Notes(on_event)
    session = session_of([*TALK, *[LISTEN] * 9])
    converse(session, Sound(1), notes)
    assert len(notes.flushed) == 1


def test_quit_and_notices() -> None:
    notes = Notes(lambda event: conversation.notice("here") or conversation.command("quit"))
    conversation = Conversation(session_of([LISTEN], repeat=True), Live(0), [notes], real_time=False)
    conversation.run()
    assert notes.closed == [False]
    assert notes.notices[0] == "here"


def test_an_error_of_the_session_is_raised_and_everything_closed() -> None:
    notes, source = Notes(), Sound(60)
    with pytest.raises(OmniError):
        converse(session_of([LISTEN], repeat=True, fails_stage=1, fails_call=3), source, notes)
    assert notes.closed == [False]
    assert source.closed
    assert len(notes.units()) <= 3


def test_a_damaged_source_ends_the_input_and_is_reported() -> None:
    notes = Notes()
    with pytest.raises(FormatError, match="damaged"):
        converse(session_of([LISTEN], repeat=True), Sound(2, error=FormatError("it is damaged")), notes)
    assert notes.units() == [True, True]  # what came before was answered


def test_an_output_that_fails_does_not_keep_others_open() -> None:
    class Full(Notes):
        def settled(self, sound: np.ndarray) -> None:
            raise OSError("disk full")

    broken, notes = Full(), Notes()
    with pytest.raises(OSError, match="disk full"):
        converse(session_of([LISTEN], repeat=True), Sound(9), broken, notes)
    assert broken.closed == notes.closed == [False]


def test_pictures_reach_the_session() -> None:
    class Seen(Sound):
        def blocks(self, stop: threading.Event) -> Iterator[Block]:
            for block in super().blocks(stop):
                yield Block(block.samples, np.zeros((20, 30, 3), np.uint8))

    shown: list[tuple[int, ...]] = []
    session = session_of([LISTEN], repeat=True)
    push = session.push_frame
    session.push_frame = lambda image: (shown.append(image.shape), push(image))[1]  # type: ignore[method-assign]
    converse(session, Seen(2), Notes())
    assert shown == [(20, 30, 3)] * 2


def test_an_hour(tmp_path: Path) -> None:
    hour = 3600
    script: Script = [LISTEN, LISTEN, LISTEN, (True, "Hello", False), (True, " there.", True)]
    sizes: list[int] = []

    def on_event(event: omni.Event) -> None:
        if isinstance(event, omni.UnitEvent) and event.unit in (600, hour - 10):
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])

    class Probe(Output):
        def event(self, event: omni.Event, at: float | None) -> None:
            on_event(event)

    summary = Summary()
    outputs = [SoundFile(tmp_path / "reply.wav"), Recording(tmp_path / "record", {}), summary, Probe()]
    tracemalloc.start()
    try:
        source = Sound(hour)
        conversation = converse(session_of(script, repeat=True), source, *outputs)
    finally:
        tracemalloc.stop()
    # The whole program holds some 100 MB; 2 % of them are 2 MB.
    assert sizes[1] - sizes[0] < 2e6
    units = len(summary.milliseconds)
    assert hour + 2 <= units <= hour + 10
    frame = 1 / 25  # a speech token
    for path, channels in ((tmp_path / "reply.wav", 1), (tmp_path / "record" / "conversation.wav", 2)):
        seconds = (path.stat().st_size - 44) / (2 * channels * RATE)
        assert abs(seconds - conversation.timeline.seconds) < frame
        assert abs(seconds - units) < frame
    assert summary.turns == units // len(script)
