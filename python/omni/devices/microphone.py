"""A microphone: blocks of 16 kHz sound in real time, whatever its device does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni.audio_io import MODEL_RATE, Resampler
from omni.devices.backend import AudioDevice, Backend, DeviceSpec
from omni.devices.line import Line, StatusCallback, level_of, monotonic
from omni.devices.ring import Frames, RingBuffer

# float32 [n] at 16 kHz, and when its first sample reached the program, in seconds of time.monotonic().
BlockCallback: TypeAlias = Callable[[NDArray[np.float32], float], None]

_RING_SECONDS = 5.0
_DEAD_SECONDS = 3.0  # of nothing but zeros: a real microphone has noise


class Microphone(Line):
    """Sound of an input device, mono at 16 kHz, in blocks of `block_ms`.

    The stream of blocks never pauses: while the device is lost they hold silence, a second for a second, so
    that a session goes on. `status` is "ok", "lost", "silent" (only zeros for 3 s, as macOS gives them
    to a program that may not use the microphone; back to "ok" with the first sound), "failed" (`on_block`
    raised; see `error`) or "closed".
    """

    kind = "input"

    def __init__(
        self,
        device: DeviceSpec = None,
        *,
        on_block: BlockCallback,
        block_ms: int = 20,
        on_status: StatusCallback | None = None,
        backend: Backend | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """Choose a device; `start` opens it.

        Args:
            device: index, part of the name, or None for the default.
            on_block: called on the microphone's own thread with float32 [block_ms * 16] and the time of its
                first sample.
            block_ms: length of a block, and of the device's callbacks; 5 to 500.
            on_status: called with the new status and a sentence for people.
            backend: the sound system; PortAudio by default.
            now: seconds of a clock; for tests.
        """
        super().__init__(device, block_ms=block_ms, on_status=on_status, backend=backend, now=now)
        self.level = level_of(np.zeros(0, np.float32))
        self._on_block = on_block
        self._block = block_ms * MODEL_RATE // 1000
        self._ring = RingBuffer(1, 1)
        self._resampler = Resampler(MODEL_RATE, MODEL_RATE)
        self._pending: NDArray[np.float32] = np.zeros(0, np.float32)
        self._given = 0  # samples taken out of the present stream, at 16 kHz
        self._dropped = 0  # frames that found no room; counted by the callback
        self._replaced = 0  # of those, how many silence stands for
        self._silence = 0  # samples given since the device was lost
        self._resuming = False  # the device is back and gave nothing yet
        self._zeros = 0  # exact zeros in a row
        self._next_time = 0.0

    @property
    def overflows(self) -> int:
        """How often sound was lost on the way in, by the system or because this program was too slow."""
        return self._xruns

    def _prepare(self, device: AudioDevice, channels: int) -> None:
        self._push(self._resampler.flush(), None)
        self._ring = RingBuffer(int(_RING_SECONDS * device.rate), channels)
        self._resampler = Resampler(device.rate, MODEL_RATE)
        self._given = 0
        self._replaced = self._dropped
        self._zeros = 0
        self._resuming = self._lost_at is not None

    def _callback(self, frames: Frames, xrun: bool) -> None:
        missing = len(frames) - self._ring.write(frames)
        if missing:
            self._dropped += missing
            self._xruns += 1

    def _work(self, now: float) -> None:
        if self.status == "lost":
            self._push(self._resampler.flush(), None)
            self._fill_gap(now)
            return
        if self._resuming and self.clock.running:
            self._fill_gap(self.clock.time_of(0))
            self._resuming = False
            self._silence = 0
        frames = self._ring.read_all()
        missing = self._dropped - self._replaced
        if missing and not len(frames):
            # What was dropped came after everything in the ring; silence keeps the time right.
            frames = np.zeros((missing, 1), np.float32)
            self._replaced += missing
        if not len(frames):
            return
        sound = self._resampler.push(frames.mean(axis=1, dtype=np.float32))
        self._check_dead(sound)
        first = self._given - len(self._pending)
        self._given += len(sound)
        self._push(sound, self.clock.time_of(first * self.device.rate / MODEL_RATE))

    def _fill_gap(self, until: float) -> None:
        """Silence for the time since the device was lost, as far as it was not given yet."""
        if self._lost_at is not None:
            missing = int((until - self._lost_at) * MODEL_RATE) - self._silence
            if missing > 0:
                self._silence += missing
                self._push(np.zeros(missing, np.float32), None)

    def _push(self, sound: NDArray[np.float32], time: float | None) -> None:
        """Cut into blocks; `time` is that of the first pending sample, None: right after the last block."""
        self._pending = np.concatenate([self._pending, sound])
        if time is not None:
            self._next_time = time
        while len(self._pending) >= self._block:
            block, self._pending = self._pending[: self._block], self._pending[self._block :]
            start = self._next_time
            self._next_time += self._block / MODEL_RATE
            self.level = level_of(block)
            self._on_block(block, start)

    def _check_dead(self, sound: NDArray[np.float32]) -> None:
        if sound.any():
            self._zeros = 0
            if self.status == "silent":
                self._set_status("ok", f"{self.device.name} gives sound")
            return
        self._zeros += len(sound)
        if self.status == "ok" and self._zeros >= _DEAD_SECONDS * MODEL_RATE:
            advice = (
                "allow it for your terminal in System Settings, Privacy & Security, Microphone"
                if sys.platform == "darwin"
                else "is it muted?"
            )
            self._set_status("silent", f"{self.device.name} gives nothing but zeros: {advice}")
