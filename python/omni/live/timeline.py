"""Both sides of a conversation on one clock: that of what was heard."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from omni.audio_io import MODEL_RATE, Resampler

Samples = NDArray[np.float32]

RATE = 24000
"""Samples a second of both sides on the time line: the rate of the model's sound."""

_FADE = RATE // 100


class SpeechTrack:
    """The model's sound at its places, 24 kHz, read once from the beginning."""

    def __init__(self) -> None:
        self.read = 0  # samples taken so far
        self.end = 0  # behind the last sound
        self._pieces: deque[tuple[int, Samples]] = deque()  # ascending, without overlap

    def place(self, samples: Samples, at: int) -> int:
        """Puts sound at a sample's position: later if other sound is there, or that was read already.

        Returns the position.
        """
        start = max(at, self.end, self.read)
        if len(samples):
            self._pieces.append((start, samples))
            self.end = start + len(samples)
        return start

    def take(self, until: int) -> Samples:
        """What lies between the position read last and `until`; silence where nothing was said."""
        out = np.zeros(max(0, until - self.read), np.float32)
        while self._pieces and self._pieces[0][0] < until:
            start, samples = self._pieces.popleft()
            n = min(len(samples), until - start)
            out[start - self.read : start - self.read + n] = samples[:n]
            if n < len(samples):
                self._pieces.appendleft((until, samples[n:]))
                break
        self.read += len(out)
        return out

    def cut(self) -> None:
        """Drops what was not read, but for a fade of 10 ms."""
        if not self._pieces:
            return
        start, samples = self._pieces[0]
        self._pieces.clear()
        self.end = self.read
        if start == self.read:  # in the middle of a sound
            head = samples[:_FADE]
            self.place(head * np.linspace(1, 0, len(head), dtype=np.float32), self.read)


class Timeline:
    """Places what the model says beside what it hears, and gives out what can't change any more.

    The clock is the input's. In real time the model's sound lies where it was said: at the moment it came,
    or behind the sound before it. Otherwise the clock runs ahead of the answers, and sound lies where it
    could have been said at the earliest: at the end of the second that it answers.
    """

    def __init__(self, *, real_time: bool) -> None:
        self._real_time = real_time
        self._resampler = Resampler(MODEL_RATE, RATE)
        self._heard: deque[Samples] = deque()  # resampled, not given out
        self._n_heard = 0  # samples of it, with those given out, at 24 kHz
        self._clock = 0  # samples heard, at 16 kHz
        self._answered = -1  # the last unit whose answer is known
        self._track = SpeechTrack()

    @property
    def seconds(self) -> float:
        """How much was heard."""
        return self._clock / MODEL_RATE

    @property
    def settled_seconds(self) -> float:
        """How much was given out."""
        return self._track.read / RATE

    @property
    def waiting_seconds(self) -> float:
        """Sound of the model beyond the clock: in real time, what was said but not heard yet."""
        return max(0.0, self._track.end / RATE - self.seconds)

    def heard(self, samples: Samples) -> None:
        """Moves the clock: the user's side, 16 kHz."""
        self._clock += len(samples)
        self._keep(self._resampler.push(samples))

    def said(self, samples: Samples, unit: int) -> float:
        """Places the model's sound, 24 kHz, that answers a unit. Returns where it begins, in seconds."""
        at = self._clock * RATE // MODEL_RATE if self._real_time else (unit + 1) * RATE
        return self._track.place(samples, at) / RATE

    def answered(self, unit: int) -> None:
        """No more sound comes for this unit and those before it."""
        self._answered = max(self._answered, unit)

    def interrupt(self) -> None:
        """What was said but not heard is not heard."""
        self._track.cut()

    def settle(self) -> Samples:
        """What can't change any more since the last call: [n, 2], the user's side and the model's."""
        limit = self._n_heard if self._real_time else (self._answered + 2) * RATE
        return self._take(min(self._n_heard, limit))

    def finish(self) -> Samples:
        """The rest, with all that was said; nothing may come after it."""
        self._keep(self._resampler.flush())
        return self._take(max(self._n_heard, self._track.end))

    def _keep(self, samples: Samples) -> None:
        if len(samples):
            self._heard.append(samples)
            self._n_heard += len(samples)

    def _take(self, until: int) -> Samples:
        model = self._track.take(until)
        out = np.zeros((len(model), 2), np.float32)
        out[:, 1] = model
        at = 0
        while self._heard and at < len(out):
            block = self._heard.popleft()
            n = min(len(block), len(out) - at)
            out[at : at + n, 0] = block[:n]
            if n < len(block):
                self._heard.appendleft(block[n:])
            at += n
        return out
