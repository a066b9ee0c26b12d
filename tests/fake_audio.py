"""A sound system without hardware: tests decide which devices there are and when callbacks run."""

from __future__ import annotations

import numpy as np

from omni.devices import AudioDevice
from omni.errors import DeviceError


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class FakeStream:
    """A stream whose callbacks the test runs."""

    def __init__(self, backend, device, kind, channels, block, callback):
        self.backend = backend
        self.device = device
        self.kind = kind
        self.channels = channels
        self.block = block
        self.callback = callback
        self.active = True
        self.latency = 0.01

    def close(self) -> None:
        self.active = False

    def give(self, samples: np.ndarray, xrun: bool = False) -> None:
        """One callback of an input, all channels alike."""
        self.callback(np.repeat(np.asarray(samples, np.float32)[:, None], self.channels, axis=1), xrun)

    def take(self, frames: int | None = None, xrun: bool = False) -> np.ndarray:
        """One callback of an output; returns its first channel, the others being equal."""
        out = np.full((frames or self.block, self.channels), 9.0, np.float32)
        self.callback(out, xrun)
        assert (out == out[:, :1]).all()
        return out[:, 0]


class FakeBackend:
    """Devices by hand. `present` becomes visible at the next refresh, as with PortAudio."""

    def __init__(self, present: list[AudioDevice]) -> None:
        self.present = present
        self.known = list(present)
        self.streams: list[FakeStream] = []
        self.refreshes = 0
        self.refused_channels: tuple[int, ...] = ()

    def devices(self) -> list[AudioDevice]:
        return list(self.known)

    def open(self, device, kind, channels, block, callback) -> FakeStream:
        if device not in self.present:
            raise DeviceError(f"{device.name} is not there")
        if channels in self.refused_channels:
            raise DeviceError(f"{device.name} can't do {channels} channels")
        self.streams.append(FakeStream(self, device, kind, channels, block, callback))
        return self.streams[-1]

    def refresh(self) -> None:
        self.refreshes += 1
        self.known = list(self.present)
        for stream in self.streams:
            stream.close()

    @property
    def alive(self) -> int:
        return sum(stream.active for stream in self.streams)

    @property
    def stream(self) -> FakeStream:
        """The one opened last."""
        return self.streams[-1]


def device(index: int, name: str, inputs: int = 0, outputs: int = 0, **more) -> AudioDevice:
    """A device with channels in one or both directions."""
    values = {"host_api": "ALSA", "default_input": False, "default_output": False, "rate": 48000} | more
    return AudioDevice(index=index, name=name, inputs=inputs, outputs=outputs, **values)
