"""What a sound callback may touch: rings that it copies into or out of, and the clock of a stream.

A callback of the sound system must neither wait nor allocate. Each ring has one writer and one reader on
different threads; a position is moved by its owner alone and only after the samples were copied, so neither
needs a lock.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni.errors import InvalidArgumentError

Frames: TypeAlias = NDArray[np.float32]


class RingBuffer:
    """Samples [n] or frames [n, channels] on their way from one thread to another; never overwrites.

    Positions count frames since the start and never decrease.
    """

    def __init__(self, capacity: int, channels: int | None = None) -> None:
        """Hold `capacity` frames of `channels` samples; None: plain samples."""
        if capacity < 1:
            raise InvalidArgumentError(f"a ring buffer holds at least one frame, not {capacity}")
        shape = (capacity,) if channels is None else (capacity, channels)
        self._data = np.zeros(shape, np.float32)
        self.capacity = capacity
        self.written = 0  # moved by the writer
        self.read = 0  # moved by the reader

    @property
    def available(self) -> int:
        """Frames that can be read now."""
        return self.written - self.read

    @property
    def free(self) -> int:
        """Frames that can be written now."""
        return self.capacity - self.available

    def write(self, frames: NDArray[Any]) -> int:
        """Writer: copy in what fits; returns how many frames that were."""
        n = min(len(frames), self.free)
        start = self.written % self.capacity
        first = min(n, self.capacity - start)
        self._data[start : start + first] = frames[:first]
        self._data[: n - first] = frames[first:n]
        self.written += n
        return n

    def read_into(self, out: NDArray[Any]) -> int:
        """Reader: fill the front of `out`; returns how many frames were there."""
        n = min(len(out), self.available)
        start = self.read % self.capacity
        first = min(n, self.capacity - start)
        out[:first] = self._data[start : start + first]
        out[first:n] = self._data[: n - first]
        self.read += n
        return n

    def read_all(self) -> Frames:
        """Reader: everything that is there, as an array of its own."""
        out = np.empty((self.available, *self._data.shape[1:]), np.float32)
        self.read_into(out)
        return out

    def skip_to(self, position: int) -> None:
        """Reader: drop what was written before `position`; positions already behind stay where they are."""
        self.read = max(self.read, min(position, self.written))


class History:
    """The last samples of a stream, overwritten as it goes on, read by position."""

    def __init__(self, capacity: int) -> None:
        """Remember `capacity` samples."""
        if capacity < 1:
            raise InvalidArgumentError(f"a history holds at least one sample, not {capacity}")
        self._data = np.zeros(capacity, np.float32)
        self.capacity = capacity
        self.written = 0

    def write(self, samples: NDArray[Any]) -> None:
        """Append; allocates nothing."""
        n = len(samples)
        if n > self.capacity:
            self.written += n - self.capacity
            samples = samples[n - self.capacity :]
            n = self.capacity
        start = self.written % self.capacity
        first = min(n, self.capacity - start)
        self._data[start : start + first] = samples[:first]
        self._data[: n - first] = samples[first:]
        self.written += n

    def read(self, start: int, n: int) -> Frames:
        """Samples [n] from position `start`; zeros where they are forgotten or not yet there."""
        out = np.zeros(n, np.float32)
        begin = max(start, self.written - self.capacity, 0)
        end = min(start + n, self.written)
        if begin < end:
            out[begin - start : end - start] = self._data[np.arange(begin, end) % self.capacity]
        return out


class StreamClock:
    """Which moment each frame of a stream belongs to: a delay-locked loop over the callbacks' times.

    Callbacks come late by chance and in bursts; the loop follows their average, so it also measures the
    device's true rate against the system's clock, a few to a few hundred parts per million off the nominal.
    """

    _FAST, _SLOW = 0.5, 0.02  # Hz, the loop's bandwidth: it settles fast and then becomes steady
    _SETTLED = 10.0  # seconds; before, one late callback would say more about the rate than there is to know
    _RESTART = 0.25  # seconds off: the stream stopped in between
    _MAX_DEVIATION = 0.005  # of the nominal rate

    def __init__(self, rate: float) -> None:
        """Follow a stream of `rate` frames a second."""
        self._period = 1.0 / rate
        self._state: tuple[int, float, float] | None = None  # frames, their time, seconds a frame
        self._since = 0  # frames when the loop began

    def update(self, frames: int, now: float) -> None:
        """The callback for the next `frames` ran at `now` (seconds)."""
        if self._state is None:
            self._state = (frames, now, self._period)
            self._since = 0
            return
        count, time, period = self._state
        expected = time + frames * period
        error = now - expected
        if abs(error) > self._RESTART:
            self._state = (count + frames, now, self._period)
            self._since = count
            return
        elapsed = (count + frames - self._since) * self._period
        bandwidth = min(max(self._SLOW, self._FAST / elapsed), self._FAST)
        omega = 2 * math.pi * bandwidth * frames * self._period
        if elapsed > self._SETTLED:
            period += omega * omega * error / max(frames, 1)
        span = self._period * self._MAX_DEVIATION
        period = min(max(period, self._period - span), self._period + span)
        self._state = (count + frames, expected + math.sqrt(2) * omega * error, period)

    @property
    def running(self) -> bool:
        """Whether a callback came yet."""
        return self._state is not None

    @property
    def frames(self) -> int:
        """Frames of all callbacks so far."""
        return 0 if self._state is None else self._state[0]

    @property
    def rate(self) -> float:
        """Measured frames a second."""
        return 1.0 / (self._period if self._state is None else self._state[2])

    def time_of(self, frame: float) -> float:
        """When frame number `frame` (from 0, may be fractional) passed, in seconds of the system's clock."""
        if self._state is None:
            return 0.0
        count, time, period = self._state
        return time + (frame - count) * period

    def frame_at(self, time: float) -> float:
        """Which frame passed at `time`; the inverse of `time_of`."""
        if self._state is None:
            return 0.0
        count, last, period = self._state
        return count + (time - last) / period
