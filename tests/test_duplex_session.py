"""The session that runs by itself: its Python face, over scripted stages and over the tiny model."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest

import omni
from omni import _ext

RATE = 16000
Script = list[tuple[bool, str, bool]]
ANSWER: Script = [(False, "", False), (True, "Hello", False), (True, " there.", True), (False, "", False)]


def session_of(script: Script = ANSWER, *, real_time: bool = False, on_event: Any = None, **how: Any) -> Any:
    stages = _ext.scripted_duplex_stages(script, **{"samples_per_unit": 100, **how})
    return omni.DuplexSession._over(stages, on_event, real_time=real_time)


def sound(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.full(int(seconds * rate), 0.1, np.float32)


def course(events: list[omni.Event]) -> list[str]:
    return [event.type for event in events if event.type != "unit"]


def test_events_of_a_turn() -> None:
    with session_of() as session:
        session.push_audio(sound(4))
        session.end_input()
        events = list(session)
        assert session.is_ended
        assert session.poll() is None
        assert session.units == 4
        assert (session.epoch, session.level, session.is_speaking) == (0, 0, False)
    assert course(events)[:2] == ["state", "text"]
    assert course(events)[-3:] == ["audio", "turn_end", "state"]
    text = [event for event in events if isinstance(event, omni.TextEvent)]
    assert "".join(event.text for event in text) == "Hello there."
    assert [event.end_of_turn for event in text] == [False, True]
    audio = [event for event in events if isinstance(event, omni.AudioEvent)]
    assert [(event.first, event.last, event.sample_rate) for event in audio] == [
        (True, False, 24000),
        (False, True, 24000),
    ]
    assert audio[0].samples.dtype == np.float32
    assert audio[0].samples.shape == (100,)
    units = [event for event in events if isinstance(event, omni.UnitEvent)]
    assert [event.unit for event in units] == [0, 1, 2, 3]
    assert [event.is_listen for event in units] == [True, False, False, True]
    for event in events:
        plain = event.as_dict()
        assert plain["type"] == event.type
        json.dumps(plain)


def test_pieces_of_any_length_and_rate() -> None:
    with session_of() as session:
        for piece in np.array_split(sound(2.5, 48000), 17):
            session.push_audio(piece, 48000)
        session.push_audio(np.zeros(RATE, np.int16))
        session.push_audio(sound(0.75))
        session.end_input()
        assert len([event for event in session if event.type == "unit"]) == 4  # of 4.25 s


def test_bad_input() -> None:
    with session_of() as session:
        for bad in (np.array([np.nan]), np.array([1, np.inf], np.float32), np.zeros((2, 2), np.float32)):
            for rate in (RATE, 44100):
                with pytest.raises(omni.InvalidArgumentError):
                    session.push_audio(bad, rate)
        with pytest.raises(omni.InvalidArgumentError):
            session.push_audio(sound(1), 0)
        for frame in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)):
            with pytest.raises(omni.InvalidArgumentError):
                session.push_frame(frame)
        with pytest.raises(omni.InvalidArgumentError, match="on_event"):
            session.wait()
        session.end_input()
        with pytest.raises(omni.InvalidArgumentError, match="ended"):
            session.push_audio(sound(1))
    with pytest.raises(omni.CancelledError):
        session.push_audio(sound(1))
    assert list(session) == []


@pytest.mark.parametrize("stage", range(4))
def test_failure_of_a_stage(stage: int) -> None:
    with session_of([(True, "a", False)], repeat=True, fails_stage=stage, fails_call=1) as session:
        session.push_audio(sound(2))
        with pytest.raises(omni.DeviceError, match="script"):
            list(session)
        with pytest.raises(omni.DeviceError):
            session.push_audio(sound(1))


def test_interruption() -> None:
    with session_of([(True, "a", False)], repeat=True) as session:
        session.push_audio(sound(1))
        for event in session:
            if isinstance(event, omni.AudioEvent):
                break
        assert session.is_speaking
        session.interrupt()
        assert session.epoch == 1
        assert not session.is_speaking
        session.push_audio(sound(2))
        session.end_input()
        rest = [event for event in session if event.type != "unit"]
    assert all(event.epoch == 1 for event in rest)
    assert isinstance(rest[0], omni.TurnEndEvent)
    assert rest[0].interrupted
    texts = [event.unit for event in rest if event.type == "text"]
    assert texts == [2], "unit 1 had to listen"


def test_callback() -> None:
    events: list[omni.Event] = []
    with session_of(on_event=events.append) as session:
        assert not session.wait(0.01)
        session.push_audio(sound(4))
        session.end_input()
        assert session.wait(20)
        with pytest.raises(omni.InvalidArgumentError, match="on_event"):
            session.poll()
    assert course(events)[-1] == "state"


def test_callback_that_raises_ends_the_session() -> None:
    def callback(event: omni.Event) -> None:
        raise KeyError(event.type)

    with session_of(on_event=callback) as session:
        session.push_audio(sound(1))
        with pytest.raises(KeyError):
            session.wait(20)
        with pytest.raises(omni.CancelledError):
            session.push_audio(sound(1))


def test_callback_may_close() -> None:
    holder: list[Any] = []
    with session_of(on_event=lambda event: holder[0].close()) as session:
        holder.append(session)
        session.push_audio(sound(1))
        assert session.wait(20)


def test_push_from_several_threads() -> None:
    with session_of([]) as session:
        threads = [threading.Thread(target=session.push_audio, args=(sound(5),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.end_input()
        assert len(list(session)) == 20


def test_real_time_never_waits_and_says_what_it_drops() -> None:
    with session_of([], real_time=True, seconds=(0.02, 0, 0, 0)) as session:
        session.push_audio(sound(100))
        session.end_input()
        events = list(session)
    dropped = sum(event.seconds for event in events if isinstance(event, omni.InputDroppedEvent))
    assert dropped + sum(event.type == "unit" for event in events) == 100
    levels = [event for event in events if isinstance(event, omni.DegradedEvent)]
    assert [(event.level, event.name) for event in levels][:1] == [(2, "fewer flow steps")]


def test_async() -> None:
    async def run() -> list[omni.Event]:
        session = omni.AsyncDuplexSession()
        session._make = session_of
        async with session:
            await session.push_audio(sound(4))
            await session.end_input()
            with pytest.raises(asyncio.TimeoutError):  # a reader that is cancelled loses nothing
                await asyncio.wait_for(session.poll(None), 0)
            return [event async for event in session]

    assert course(asyncio.run(run()))[:2] == ["state", "text"]


def test_async_failure_and_close() -> None:
    async def fail() -> None:
        session = omni.AsyncDuplexSession()
        session._make = lambda: session_of(fails_stage=1)
        async with session:
            await session.push_audio(sound(1))
            async for _ in session:
                pass

    async def close() -> None:
        session = omni.AsyncDuplexSession()
        with pytest.raises(omni.InvalidArgumentError):
            session.interrupt()
        session._make = lambda: session_of([])
        async with session:
            reader = asyncio.ensure_future(session.poll(None))
            await asyncio.sleep(0.01)
            await session.close()
            assert await reader is None

    with pytest.raises(omni.DeviceError):
        asyncio.run(fail())
    asyncio.run(close())


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    test_async()
    test_callback()
    assert threading.active_count() == before
