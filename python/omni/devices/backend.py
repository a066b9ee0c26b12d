"""Sound devices of this machine, through PortAudio; another system can be put in its place."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias

from omni.devices.ring import Frames
from omni.errors import DeviceError, InvalidArgumentError
from omni.optional import import_optional

Kind: TypeAlias = Literal["input", "output"]
DeviceSpec: TypeAlias = "str | int | None"
# Frames [n, channels] to read or to fill, and whether the system lost some or ran dry before.
Callback: TypeAlias = Callable[[Frames, bool], None]

_log = logging.getLogger("omni.devices")

_PORTAUDIO_ADVICE = (
    "install PortAudio itself: apt-get install libportaudio2 (Debian, Ubuntu), dnf install portaudio "
    "(Fedora) or pacman -S portaudio (Arch)"
)
# Where one device is listed by several systems, the one that comes first here is taken.
_HOST_API_ORDER = ("Windows WASAPI", "Core Audio", "ALSA", "JACK Audio Connection Kit", "Windows DirectSound")
_CLOSE_SECONDS = 3.0
_LATENCY_BLOCKS = 4  # of buffer in the system: a callback may come late while the networks run


@dataclass(frozen=True)
class AudioDevice:
    """A microphone, a loudspeaker, or both."""

    index: int  # changes when devices come and go; names are what to remember
    name: str
    host_api: str
    inputs: int  # channels
    outputs: int
    default_input: bool
    default_output: bool
    rate: int  # native, samples a second

    def channels(self, kind: Kind) -> int:
        """Channels in one direction; 0 if it has none."""
        return self.inputs if kind == "input" else self.outputs

    def is_default(self, kind: Kind) -> bool:
        """Whether it is the system's choice for one direction."""
        return self.default_input if kind == "input" else self.default_output

    def as_dict(self) -> dict[str, Any]:
        """The device for `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        marks = [text for text, on in (("in", self.default_input), ("out", self.default_output)) if on]
        default = f", default {' and '.join(marks)}" if marks else ""
        return (
            f"{self.index:3}  {self.name} ({self.host_api}): {self.inputs} in, {self.outputs} out, "
            f"{self.rate} Hz{default}"
        )


class Stream(Protocol):
    """An open stream of a device."""

    @property
    def active(self) -> bool:
        """Whether callbacks are to be expected."""
        ...

    @property
    def latency(self) -> float:
        """Seconds between the device and the callback, as far as the system knows."""
        ...

    def close(self) -> None:
        """End it; no callback runs afterwards. Closing twice does nothing."""
        ...


class Backend(Protocol):
    """A sound system."""

    def devices(self) -> list[AudioDevice]:
        """The devices that it knows since it was last refreshed."""
        ...

    def open(self, device: AudioDevice, kind: Kind, channels: int, block: int, callback: Callback) -> Stream:
        """Start a stream at the device's native rate, `block` frames a callback.

        Raises:
            DeviceError: the device can't be opened so.
        """
        ...

    def refresh(self) -> None:
        """Look for devices anew. Every open stream of this backend ends."""
        ...

    @property
    def alive(self) -> int:
        """Streams that are open and active."""
        ...


class PortAudio:
    """The sound system that the package sounddevice gives. One object for a process: PortAudio is one, too.

    Its list of devices is made when it is initialised and changes only when that is done again, which ends
    every stream; so all streams are opened here, under one lock.
    """

    def __init__(self, sounddevice: Any = None) -> None:
        """Use the package `sounddevice`, or another object with its functions."""
        self._sd = sounddevice or import_optional("sounddevice", "live", _PORTAUDIO_ADVICE)
        self._alsa_handler = None if sounddevice else _quiet_alsa()
        self._lock = threading.RLock()
        self._streams: list[_PortAudioStream] = []
        self._stuck = False
        self._refreshed = 0.0

    def devices(self) -> list[AudioDevice]:
        """As `Backend.devices`."""
        with self._lock, self._errors("can't list the sound devices"):
            hosts = self._sd.query_hostapis()
            found = self._sd.query_devices()
        default = {kind: _default_index(hosts, f"default_{kind}_device") for kind in ("input", "output")}
        return [
            AudioDevice(
                index=index,
                name=str(each["name"]),
                host_api=str(hosts[each["hostapi"]]["name"]),
                inputs=int(each["max_input_channels"]),
                outputs=int(each["max_output_channels"]),
                default_input=index == default["input"],
                default_output=index == default["output"],
                rate=round(each["default_samplerate"]),
            )
            for index, each in enumerate(found)
        ]

    def open(self, device: AudioDevice, kind: Kind, channels: int, block: int, callback: Callback) -> Stream:
        """As `Backend.open`."""

        def call(frames: Frames, count: int, times: object, status: Any) -> None:
            callback(frames, bool(status.input_overflow or status.output_underflow))

        make = self._sd.InputStream if kind == "input" else self._sd.OutputStream
        with self._lock, self._errors(f"can't open {device.name!r} as {kind}"):
            stream = make(
                device=device.index,
                channels=channels,
                samplerate=device.rate,
                blocksize=block,
                dtype="float32",
                latency=_LATENCY_BLOCKS * block / device.rate,
                callback=call,
            )
            try:
                stream.start()
            except self._sd.PortAudioError:
                stream.close()
                raise
            opened = _PortAudioStream(self, stream)
            self._streams.append(opened)
        return opened

    def refresh(self) -> None:
        """As `Backend.refresh`; does nothing if that was done less than half a second ago."""
        with self._lock:
            if self._refreshed and time.monotonic() - self._refreshed < 0.5:
                return
            for stream in list(self._streams):
                stream.close()
            if self._stuck:
                raise DeviceError(
                    "the sound system does not let go of a lost device, so it can't be started anew; "
                    "restart the program"
                )
            with self._errors("can't start the sound system anew"):
                self._sd._terminate()
                self._sd._initialize()
            self._refreshed = time.monotonic()

    @property
    def alive(self) -> int:
        """As `Backend.alive`."""
        with self._lock:
            return sum(stream.active for stream in self._streams)

    def close(self, stream: _PortAudioStream) -> None:
        """End one of its streams. One whose driver hangs is left behind, and remembered."""
        with self._lock:
            if stream not in self._streams:
                return
            self._streams.remove(stream)
            closer = threading.Thread(target=stream.raw.close, daemon=True)
            closer.start()
            closer.join(_CLOSE_SECONDS)
            self._stuck = self._stuck or closer.is_alive()

    def _errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return _translated(self._sd.PortAudioError, what)


class _PortAudioStream:
    """A running stream of PortAudio."""

    def __init__(self, owner: PortAudio, raw: Any) -> None:
        self.raw = raw
        self._owner = owner
        self._closed = False

    @property
    def active(self) -> bool:
        return not self._closed and bool(self.raw.active)

    @property
    def latency(self) -> float:
        return float(self.raw.latency)

    def close(self) -> None:
        self._closed = True
        self._owner.close(self)


@contextlib.contextmanager
def _translated(error: type[Exception], what: str) -> Iterator[None]:
    """Turns PortAudio's errors into ours; sounddevice also raises ValueError for an index that went."""
    try:
        yield
    except (error, ValueError) as e:
        raise DeviceError(f"{what}: {e}") from e


def _quiet_alsa() -> object:
    """ALSA writes what it thinks of configuration files and late callbacks on stderr; it goes to our log.

    Returns what must live as long as ALSA.
    """
    if not sys.platform.startswith("linux"):
        return None
    kind = ctypes.CFUNCTYPE(
        None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p
    )

    def log(file: bytes, line: int, function: bytes, error: int, text: bytes) -> None:
        _log.debug("ALSA, %s: %s", (function or b"").decode(), (text or b"").decode(errors="replace"))

    handler = kind(log)
    try:
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(handler)
    except (OSError, AttributeError):
        return None
    return handler


def _default_index(hosts: Sequence[Any], key: str) -> int:
    """The default device of the best host system that has one; -1: there is none."""
    named = [host for host in hosts if host[key] >= 0]
    return int(min(named, key=lambda host: _rank(host["name"]))[key]) if named else -1


def _rank(host_api: str) -> int:
    return _HOST_API_ORDER.index(host_api) if host_api in _HOST_API_ORDER else len(_HOST_API_ORDER)


@functools.cache
def portaudio() -> PortAudio:
    """The process's PortAudio, started when first asked for."""
    return PortAudio()


def list_audio_devices(backend: Backend | None = None) -> list[AudioDevice]:
    """All sound devices of this machine.

    Raises:
        UnsupportedError: the package sounddevice, or PortAudio below it, is not installed.
        DeviceError: the sound system fails.
    """
    return (backend or portaudio()).devices()


def find_audio_device(spec: DeviceSpec, kind: Kind, backend: Backend | None = None) -> AudioDevice:
    """The device that a user means.

    Args:
        spec: its index, its name or a part of that (letters' case does not matter), or None for the default.
        kind: "input" or "output".
        backend: the sound system; PortAudio by default.

    Raises:
        InvalidArgumentError: it means no device of this kind, or several; the message lists what exists.
        DeviceError: there is no such device at all.
    """
    usable = [device for device in list_audio_devices(backend) if device.channels(kind)]
    if not usable:
        what = "microphone" if kind == "input" else "loudspeaker"
        raise DeviceError(f"there is no {what}: the sound system lists no {kind} device")
    if spec is None:
        return next((device for device in usable if device.is_default(kind)), usable[0])
    listing = "".join(f"\n{device}" for device in usable)
    if isinstance(spec, int) or spec.strip().isdecimal():
        for device in usable:
            if device.index == int(spec):
                return device
        raise InvalidArgumentError(f"there is no {kind} device number {int(spec)}; there are:{listing}")
    wanted = spec.strip().casefold()
    exact = [device for device in usable if device.name.casefold() == wanted]
    matches = exact or [device for device in usable if wanted and wanted in device.name.casefold()]
    if not matches:
        raise InvalidArgumentError(f"no {kind} device is called {spec!r}; there are:{listing}")
    if len({device.name for device in matches}) > 1:
        names = ", ".join(sorted(repr(device.name) for device in matches))
        raise InvalidArgumentError(
            f"{spec!r} may mean {names}; say more of the name, or the number:{listing}"
        )
    return min(matches, key=lambda device: _rank(device.host_api))
