"""The ring between a sound callback and the program, the history behind it, and the clock of a stream."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.devices import History, RingBuffer, StreamClock
from omni.errors import InvalidArgumentError


@given(
    capacity=st.integers(1, 40),
    channels=st.sampled_from([None, 2]),
    steps=st.lists(st.tuples(st.sampled_from(["write", "read", "all", "skip"]), st.integers(0, 50))),
)
def test_ring_is_a_queue_of_bounded_length(capacity, channels, steps):
    ring, queue, number = RingBuffer(capacity, channels), [], 0
    shape = () if channels is None else (channels,)
    for what, n in steps:
        if what == "write":
            frames = np.broadcast_to(
                np.arange(number, number + n, dtype=np.float32).reshape(-1, *[1] * len(shape)), (n, *shape)
            )
            taken = ring.write(frames)
            assert taken == min(n, capacity - len(queue))
            queue += range(number, number + taken)
            number += taken
        elif what == "read":
            out = np.full((n, *shape), -1, np.float32)
            found = ring.read_into(out)
            expected = [queue.pop(0) for _ in range(min(n, len(queue)))]
            assert out[:found].reshape(found, channels or 1)[:, 0].tolist() == expected
            assert (out[found:] == -1).all()
        elif what == "all":
            assert ring.read_all().reshape(-1, channels or 1)[:, -1].tolist() == queue
            queue.clear()
        else:
            ring.skip_to(n)
            queue = [value for value in queue if value >= n]
        assert (ring.available, ring.free) == (len(queue), capacity - len(queue))


def test_ring_between_two_threads():
    ring, total = RingBuffer(64), 3000

    def write() -> None:
        sent = 0
        while sent < total:
            sent += ring.write(np.arange(sent, min(sent + 37, total), dtype=np.float32))

    writer = threading.Thread(target=write)
    writer.start()
    got = 0
    while got < total:
        part = ring.read_all()
        assert (part == np.arange(got, got + len(part))).all()
        got += len(part)
    writer.join()


@given(capacity=st.integers(1, 20), sizes=st.lists(st.integers(0, 50)), start=st.integers(-5, 120))
def test_history_remembers_the_end(capacity, sizes, start):
    history, sent = History(capacity), 0
    for n in sizes:
        history.write(np.arange(sent + 1, sent + n + 1))
        sent += n
    assert history.written == sent
    known = range(max(0, sent - capacity), sent)
    expected = [position + 1 if position in known else 0 for position in range(start, start + 30)]
    assert history.read(start, 30).tolist() == expected


def test_empty_rings_are_refused():
    for kind in (RingBuffer, History):
        with pytest.raises(InvalidArgumentError, match="at least one"):
            kind(0)


@pytest.mark.parametrize("ppm", [-300, 0, 200])
def test_clock_finds_the_true_rate_among_late_callbacks(ppm):
    """Callbacks up to 15 ms late: after two minutes the rate is right to 50 ppm, times to 3 ms."""
    random, clock, true = np.random.default_rng(1), StreamClock(48000), 48000 * (1 + ppm * 1e-6)
    late = random.uniform(0, 0.015, 6000)
    for i in range(6000):
        clock.update(960, 5.0 + 960 * (i + 1) / true + late[i])
    assert clock.frames == 960 * 6000
    assert clock.rate == pytest.approx(true, rel=50e-6)
    time = 5.0 + 960 * 6000 / true + late.mean()
    assert clock.time_of(960 * 6000) == pytest.approx(time, abs=3e-3)
    assert clock.frame_at(clock.time_of(12345.5)) == pytest.approx(12345.5, abs=1e-3)


def test_clock_starts_anew_after_a_pause():
    clock = StreamClock(16000)
    assert not clock.running
    for time in (1.0, 1.02, 3.0):
        clock.update(320, time)
    assert clock.running
    assert clock.time_of(960) == 3.0
    assert clock.rate == 16000
