"""What a microphone and a loudspeaker share: a stream that outlives its device."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni.devices.backend import AudioDevice, Backend, DeviceSpec, Kind, Stream, find_audio_device, portaudio
from omni.devices.ring import Frames, StreamClock
from omni.errors import DeviceError, InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

# New status and what it means for a person.
StatusCallback: TypeAlias = Callable[[str, str], None]

_log = logging.getLogger("omni.devices")

STALL_SECONDS = 1.0  # without a callback: the device is lost
START_SECONDS = 5.0  # the same in a stream's first second: a device may have to wake up
_ROUND_SECONDS = 0.01
_FIRST_RETRY, _LAST_RETRY = 1.0, 16.0
_SILENCE_DB = -100.0


def level_of(samples: NDArray[np.float32]) -> float:
    """Root mean square in dB of full scale, at least -100."""
    if not len(samples):
        return _SILENCE_DB
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(_SILENCE_DB, 10 * float(np.log10(power))) if power > 0 else _SILENCE_DB


class Line(ABC):
    """A stream of one device, its worker thread, and what happens when the device goes away.

    The callback only copies; the worker does everything else, a round every 10 ms. When no callback came for
    a second, or the system ended the stream, the device counts as lost: the stream is closed, the sound
    system is started anew (only then it sees changed devices) and the device is opened again by its name, or
    the default one if that name is gone. While there is none this is tried again after 1, 2, 4, ... 16 s if
    other streams run (they pause for a moment each time), otherwise every second.
    """

    kind: Kind

    def __init__(
        self,
        device: DeviceSpec,
        *,
        block_ms: int,
        on_status: StatusCallback | None,
        backend: Backend | None,
        now: Callable[[], float],
    ) -> None:
        if not 5 <= block_ms <= 500:
            raise InvalidArgumentError(f"block_ms must be 5 to 500, not {block_ms}")
        self._backend = backend or portaudio()
        self._spec = device
        self._block_ms = block_ms
        self._on_status = on_status
        self._now = now
        self._stream: Stream | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._called = 0.0  # when the last callback came
        self._lost_at: float | None = None  # when the last callback before a loss came
        self._retry_at = 0.0
        self._retry_after = _FIRST_RETRY
        self._xruns = 0  # written by callbacks only
        self.status = "closed"
        self.restarts = 0
        self.error: Exception | None = None
        self.device = find_audio_device(device, self.kind, self._backend)
        self.clock = StreamClock(self.device.rate)

    # ---- life ----

    def open(self) -> None:
        """Open the device without a thread; whoever calls this calls `step` often.

        Raises:
            DeviceError: it can't be opened.
        """
        if self._stream is None and self.status != "lost":
            self._open(self.device)
            self._set_status("ok", f"{self.device.name} is open")

    def start(self) -> Self:
        """Open the device and work on a thread until `close`.

        Raises:
            DeviceError: it can't be opened.
        """
        if self._thread is None:
            self.open()
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name=f"omni {self.kind}", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """The same as `close`; `start` opens the device again."""
        self.close()

    def close(self) -> None:
        """Stop at once and release the device. Closing twice does nothing."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self.status = "closed"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def latency(self) -> float:
        """Seconds between the device and this program, as far as the system knows."""
        stream = self._stream
        return 0.0 if stream is None else stream.latency

    def step(self) -> None:
        """One round of the worker."""
        now = self._now()
        self._watch(now)
        self._work(now)

    @abstractmethod
    def _work(self, now: float) -> None:
        """Move sound between the ring and the program."""

    @abstractmethod
    def _callback(self, frames: Frames, xrun: bool) -> None:
        """Copy."""

    @abstractmethod
    def _prepare(self, device: AudioDevice, channels: int) -> None:
        """Make rings and resamplers for a device that is about to be opened."""

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_ROUND_SECONDS):
                self.step()
        except Exception as error:
            # The caller's callback failed, or ours did: nobody hears this thread, so it must be told.
            self.error = error
            _log.exception("the %s thread failed", self.kind)
            self._set_status("failed", f"{type(error).__name__}: {error}")

    # ---- the device ----

    def _open(self, device: AudioDevice) -> None:
        block = max(1, round(device.rate * self._block_ms / 1000))
        reason: DeviceError | None = None
        # Some systems open a stereo device in stereo only, others have a microphone with one channel.
        for channels in dict.fromkeys((min(device.channels(self.kind), 2), 1)):
            self._prepare(device, channels)
            self.clock = StreamClock(device.rate)
            self._called = self._now()
            try:
                self._stream = self._backend.open(device, self.kind, channels, block, self._called_back)
            except DeviceError as error:
                reason = reason or error
                continue
            self.device = device
            return
        assert reason is not None
        raise reason

    def _called_back(self, frames: Frames, xrun: bool) -> None:
        now = self._now()
        self._called = now
        self._callback(frames, xrun)
        self.clock.update(len(frames), now)
        if xrun:
            self._xruns += 1

    def _watch(self, now: float) -> None:
        if self.status == "lost":
            if now >= self._retry_at:
                self._retry(now)
            return
        stream = self._stream
        if stream is None:
            return
        settled = self.clock.frames >= self.device.rate
        stalled = now - self._called > (STALL_SECONDS if settled else START_SECONDS)
        if stream.active and not stalled:
            return
        self._stream = None
        stream.close()
        self.restarts += 1
        self._lost_at = self._called
        if not stalled:
            # Ended by the system, perhaps because another line had it started anew: then it is back already.
            try:
                self._open(self._find())
                return
            except DeviceError:
                pass
        self._retry_at = now
        self._retry_after = _FIRST_RETRY
        self._set_status("lost", f"{self.device.name} is gone; waiting for it or another {self.kind} device")

    def _retry(self, now: float) -> None:
        others = self._backend.alive
        try:
            self._backend.refresh()
            self._open(self._find())
        except DeviceError as error:
            _log.info("no %s device yet: %s", self.kind, error)
            self._retry_at = self._now() + self._retry_after
            self._retry_after = min(2 * self._retry_after, _LAST_RETRY) if others else _FIRST_RETRY
            return
        self._set_status("ok", f"{self.device.name} is open again")

    def _find(self) -> AudioDevice:
        """The device that was asked for by name, the one that was open last, or the default."""
        names = [self._spec] if isinstance(self._spec, str) and not self._spec.strip().isdecimal() else []
        if self._spec is not None:
            names.append(self.device.name)
        for name in names:
            try:
                return find_audio_device(name, self.kind, self._backend)
            except InvalidArgumentError:
                continue
        return find_audio_device(None, self.kind, self._backend)

    def _set_status(self, status: str, message: str) -> None:
        self.status = status
        _log.info("%s: %s", self.kind, message)
        if self._on_status is not None:
            self._on_status(status, message)


def monotonic() -> float:
    """The clock of all lines, in seconds."""
    return time.monotonic()
