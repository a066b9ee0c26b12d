"""A loudspeaker: 24 kHz sound out, without clicks, and silent at once when it must be."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from omni.audio_io import MODEL_RATE, Resampler, float_samples
from omni.devices.backend import AudioDevice, Backend, DeviceSpec
from omni.devices.line import Line, StatusCallback, level_of, monotonic
from omni.devices.ring import Frames, History, RingBuffer
from omni.errors import InvalidArgumentError

SPEECH_RATE = 24000
"""Samples a second that a loudspeaker takes."""

_RING_SECONDS = 1.0  # is lost with the device
_HISTORY_SECONDS = 5.0
_FADE_SECONDS = 0.01
_GAP_SECONDS = 1.0  # sound after a longer pause is a new turn, not the rest of one that ran dry
_START_STEP_MS, _START_MAX_MS = 20, 250  # the head start grows so far with each underrun
_REFERENCE_DELAY = 0.01  # seconds; sound is known to the reference so much after it was handed over
# An echo canceller bears a steady error better than corrections: up to 1 ms is left alone, above that a
# sample is left out or repeated every quarter of a second (250 ppm), and only 10 ms are corrected at once.
_REFERENCE_BAND, _REFERENCE_JUMP, _REFERENCE_PAUSE = MODEL_RATE // 1000, MODEL_RATE // 100, MODEL_RATE // 4


class Speaker(Line):
    """Plays float32 sound at 24 kHz on an output device.

    Playing begins when 100 ms are queued (more after each underrun, up to 250), or that long after the first
    sound. Starts, ends and interruptions are faded over 10 ms. While the device is lost the queue is used up
    in real time, unheard. `status` is "ok", "lost", "failed" or "closed".
    """

    kind = "output"

    def __init__(
        self,
        device: DeviceSpec = None,
        *,
        on_played: Callable[[float], None] | None = None,
        block_ms: int = 20,
        start_ms: int = 100,
        on_status: StatusCallback | None = None,
        backend: Backend | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """Choose a device; `start` opens it.

        Args:
            device: index, part of the name, or None for the default.
            on_played: called on the loudspeaker's own thread with `played_seconds` when it changed.
            block_ms: length of the device's callbacks, and the time in which a flush is silent; 5 to 500.
            start_ms: head start of the queue before playing begins, 0 to 250.
            on_status: called with the new status and a sentence for people.
            backend: the sound system; PortAudio by default.
            now: seconds of a clock; for tests.
        """
        if not 0 <= start_ms <= _START_MAX_MS:
            raise InvalidArgumentError(f"start_ms must be 0 to {_START_MAX_MS}, not {start_ms}")
        super().__init__(device, block_ms=block_ms, on_status=on_status, backend=backend, now=now)
        self.underruns = 0
        self.start_ms = start_ms
        self._on_played = on_played
        self._lock = threading.RLock()  # everything but what the callback uses
        self._queue: deque[tuple[NDArray[np.float32], bool]] = deque()  # at 24 kHz, and whether a turn ends
        self._queued = 0  # samples in it
        self._played_before = 0.0  # seconds, by streams before the present one
        self._reported = 0.0
        self._drained_at: float | None = None  # how far the queue was used up while the device is lost
        self._rate = self.device.rate
        self._played = 0  # frames of sound that the present stream took
        self._prepare(self.device, 1)

    def _prepare(self, device: AudioDevice, channels: int) -> None:
        with self._lock:
            self._played_before += self._played / self._rate
            self._rate = device.rate
            self._ring = RingBuffer(int(_RING_SECONDS * device.rate))
            self._history = History(int(_HISTORY_SECONDS * device.rate))
            self._resampler = Resampler(SPEECH_RATE, device.rate)
            self._held = 0.0  # seconds that the resampler keeps until more comes
            fade = max(1, int(_FADE_SECONDS * device.rate))
            self._fade_in = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
            self._starting = 0  # frames of the fade-in that are done
            self._playing = False
            self._waited = 0  # frames since the first sound that is queued
            self._flush_to = 0  # drop what the ring held before this position
            self._end_at = -1  # position where a turn ends
            self._played = 0
            self._dry_at: float | None = None  # when the ring ran dry in the middle of a turn
            self._reference = History(int(_HISTORY_SECONDS * MODEL_RATE))
            self._reference_resampler = Resampler(device.rate, MODEL_RATE)
            self._reference_taken = 0  # frames of the history that went through it
            self._reference_next: int | None = None  # position where the next block begins
            self._reference_steady = 0  # samples since the last correction

    # ---- any thread ----

    def write(self, samples: NDArray[np.float32], *, last: bool = False) -> None:
        """Queue sound; returns at once.

        Args:
            samples: float32 [n] at 24 kHz, finite; louder than full scale is clipped.
            last: a turn ends with it, so that the silence after it is no underrun.
        """
        sound = float_samples(np.asarray(samples))
        if sound.shape[1] != 1:
            raise InvalidArgumentError(f"a loudspeaker takes mono samples [n], got {list(np.shape(samples))}")
        if not np.isfinite(sound).all():
            raise InvalidArgumentError("sound to play must be finite numbers; there are NaN or infinite ones")
        with self._lock:
            dry_at, self._dry_at = self._dry_at, None
            if dry_at is not None and len(sound) and self._now() - dry_at < _GAP_SECONDS:
                self.underruns += 1
                self.start_ms = min(self.start_ms + _START_STEP_MS, _START_MAX_MS)
            self._queue.append((np.clip(sound[:, 0], -1, 1), last))
            self._queued += len(sound)
            if self.status == "ok":
                self._feed()

    def flush(self) -> float:
        """Drop what is queued and fade out; silent within one block. Returns the seconds dropped."""
        with self._lock:
            dropped = self.queued_seconds
            self._queue.clear()
            self._queued = 0
            self._reset_resampler()
            self._flush_to = self._ring.written
            self._dry_at = None
            return dropped

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until everything that is queued was played; False: it was not within `timeout` seconds."""
        with self._lock:
            if self.queued_seconds > 0:
                self.write(np.zeros(0, np.float32), last=True)
        end = None if timeout is None else self._now() + timeout
        while self.queued_seconds > 0 and self.status in ("ok", "lost") and not self._stopping.wait(0.01):
            if end is not None and self._now() > end:
                return False
        self._stopping.wait(min(self.latency, 1.0))
        return self.queued_seconds == 0

    @property
    def queued_seconds(self) -> float:
        """Sound that was written and is not handed to the device yet."""
        with self._lock:
            ring = self._ring.written - max(self._ring.read, self._flush_to)
            return self._queued / SPEECH_RATE + max(0.0, self._held) + max(0, ring) / self._rate

    @property
    def played_seconds(self) -> float:
        """Sound that was handed to the device, without the silence between."""
        with self._lock:
            return self._played_before + self._played / self._rate

    @property
    def is_playing(self) -> bool:
        """Whether sound is queued or being played."""
        return self._playing or self.queued_seconds > 0

    @property
    def device_underruns(self) -> int:
        """How often the system had no block in time, because this program was too slow."""
        return self._xruns

    @property
    def level(self) -> float:
        """Loudness of the last 50 ms, in dB of full scale."""
        n = self._rate // 20
        return level_of(self._history.read(self._history.written - n, n))

    def reference(self, time: float, n: int) -> NDArray[np.float32]:
        """What was handed to the device from a moment on, for an echo canceller; call it block after block.

        The clocks of two devices differ: this follows the time of the microphone's blocks.

        Args:
            time: seconds of the common clock, as a microphone gives them with its blocks.
            n: samples.

        Returns:
            float32 [n] at 16 kHz, silence included; zeros where nothing is known.
        """
        with self._lock:
            if not self.clock.running:
                return np.zeros(n, np.float32)
            self._resample_reference()
            exact = self.clock.frame_at(time - _REFERENCE_DELAY) * MODEL_RATE / self._rate
            position = self._reference_next
            if position is None or abs(exact - position) > _REFERENCE_JUMP:
                position = round(exact)
                self._reference_steady = 0
            elif abs(exact - position) > _REFERENCE_BAND and self._reference_steady >= _REFERENCE_PAUSE:
                position += 1 if exact > position else -1
                self._reference_steady = 0
            self._reference_steady += n
            self._reference_next = position + n
            return self._reference.read(position, n)

    def _resample_reference(self) -> None:
        written = self._history.written
        new = self._history.read(self._reference_taken, written - self._reference_taken)
        self._reference_taken = written
        self._reference.write(self._reference_resampler.push(new))

    # ---- the worker ----

    def _work(self, now: float) -> None:
        with self._lock:
            if self.status == "lost":
                self._use_up(now)
            else:
                self._drained_at = None
                self._resample_reference()
                self._feed()
            played = self.played_seconds
        if self._on_played is not None and played != self._reported:
            self._reported = played
            self._on_played(played)

    def _feed(self) -> None:
        """Move sound from the queue into the ring as far as there is room."""
        room = SPEECH_RATE // 10  # a piece at a time, so that the ring takes all of what is resampled
        while self._queue and self._ring.free > self._rate // 5:
            sound, last = self._queue.popleft()
            if len(sound) > room:
                self._queue.appendleft((sound[room:], last))
                sound, last = sound[:room], False
            self._queued -= len(sound)
            resampled = self._resampler.push(sound)
            self._ring.write(resampled)
            self._held += len(sound) / SPEECH_RATE - len(resampled) / self._rate
            if last:
                self._ring.write(self._resampler.flush())
                self._reset_resampler()
                self._end_at = self._ring.written

    def _reset_resampler(self) -> None:
        self._resampler.reset()
        self._held = 0.0

    def _use_up(self, now: float) -> None:
        """Without a device: drop so much of the queue as would have been played."""
        if self._drained_at is None:
            # First what the ring held would have been played.
            ring = self._ring.available / self._rate
            self._drained_at = ring + (now if self._lost_at is None else self._lost_at)
            self._flush_to = self._ring.written
        due = max(0, int((now - self._drained_at) * SPEECH_RATE))
        self._drained_at += due / SPEECH_RATE
        while due > 0 and self._queue:
            sound, last = self._queue.popleft()
            if len(sound) > due:
                self._queue.appendleft((sound[due:], last))
            self._queued -= min(due, len(sound))
            due -= len(sound)

    # ---- the callback ----

    def _callback(self, frames: Frames, xrun: bool) -> None:
        out = frames[:, 0]
        n = self._fill(out)
        out[n:] = 0
        frames[:, 1:] = frames[:, :1]
        self._played += n
        self._history.write(out)

    def _fill(self, out: NDArray[np.float32]) -> int:
        """Sound into the front of a block; returns how many samples."""
        ring = self._ring
        if self._flush_to > ring.read:
            n = min(len(self._fade_in), self._flush_to - ring.read) if self._playing else 0
            n = ring.read_into(out[:n])
            self._soften(out[:n])
            ring.skip_to(self._flush_to)
            self._playing = False
            return n
        fade = len(self._fade_in)
        ended = self._end_at >= ring.written
        if not self._playing:
            self._waited = self._waited + len(out) if ring.available else 0
            start = self._rate * self.start_ms // 1000
            if not ended and max(ring.available, self._waited) < start:
                return 0
            if ring.available < fade and not ended:
                ring.skip_to(ring.written)  # the rest of what ran dry
            if not ring.available:
                return 0
            self._playing = True
            self._waited = 0
            self._starting = 0
        # As long as more is to come, enough stays behind that running dry can be faded.
        dry = ring.available < len(out) + (0 if ended else fade)
        n = ring.read_into(out)
        if self._starting < fade:
            ramp = self._fade_in[self._starting : self._starting + n]
            out[: len(ramp)] *= ramp
            self._starting += len(ramp)
        if dry:
            self._soften(out[:n])
            self._playing = False
            if not ended:
                self._dry_at = self._called
        return n

    def _soften(self, sound: NDArray[np.float32]) -> None:
        """Fade the end of the last sound out, over all of it if it is short."""
        fade = len(self._fade_in)
        n = min(len(sound), fade)
        if n:
            step = fade // n
            sound[len(sound) - n :] *= self._fade_in[: n * step : step][::-1]
