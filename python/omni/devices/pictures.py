"""What the model sees: the latest picture of a camera or of the screen."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni.devices.line import StatusCallback
from omni.errors import DeviceError, InvalidArgumentError
from omni.optional import import_optional

if TYPE_CHECKING:
    from typing_extensions import Self

Picture: TypeAlias = NDArray[np.uint8]  # [height, width, 3], RGB

_log = logging.getLogger("omni.devices")

_RETRY_SECONDS = 2.0
_DEFAULT_FPS = 2.0  # the model takes one picture a second


class PictureSource(ABC):
    """A thread that keeps the latest picture.

    `status` is "ok", "lost" (the source gives nothing; every 2 s it is opened again), "ended" (a file is
    over) or "closed".
    """

    def __init__(self, name: str, fps: float, on_status: StatusCallback | None) -> None:
        if not 0.01 <= fps <= 120:
            raise InvalidArgumentError(f"fps must be 0.01 to 120 pictures a second, not {fps}")
        self.name = name
        self.status = "closed"
        self._every = 1 / fps
        self._on_status = on_status
        self._latest: Picture | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Open the source and take pictures until `close`.

        Raises:
            DeviceError: it can't be opened.
            UnsupportedError: a package is missing.
        """
        if self._thread is None:
            self._stopping.clear()
            opened: list[Exception | None] = []
            ready = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(opened, ready), name=f"omni {self.name}", daemon=True
            )
            self._thread.start()
            ready.wait()
            if opened[0] is not None:
                self.close()
                raise opened[0]
        return self

    def close(self) -> None:
        """Stop and release the source. Closing twice does nothing."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)  # a driver that hangs must not hang the program
        self._latest = None
        self.status = "closed"

    def latest(self) -> Picture | None:
        """uint8 [height, width, 3], RGB; None before the first, when it is lost, and after its end."""
        return self._latest

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _open(self) -> None:
        """Open it, on the source's thread. Raises DeviceError."""

    @abstractmethod
    def _take(self) -> Picture | None:
        """Wait for the next moment and take a picture; None: there is none this time. Raises DeviceError."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open, if anything is."""

    def _ended(self) -> bool:
        """Whether nothing more will come."""
        return False

    def _run(self, opened: list[Exception | None], ready: threading.Event) -> None:
        # Some systems want one thread to open, read and close.
        try:
            self._open()
        except Exception as error:
            opened.append(error)
            ready.set()
            return
        opened.append(None)
        self._set_status("ok", f"{self.name} is open")
        ready.set()
        try:
            while not self._stopping.is_set() and self.status != "ended":
                self._round()
        finally:
            self._release()

    def _round(self) -> None:
        try:
            if self.status == "lost":
                self._open()
                self._set_status("ok", f"{self.name} is open again")
            picture = self._take()
        except (DeviceError, InvalidArgumentError) as error:
            self._latest = None
            self._release()
            if self._ended():
                self._set_status("ended", f"{self.name} is over")
                return
            if self.status != "lost":
                self._set_status("lost", str(error))
            self._stopping.wait(_RETRY_SECONDS)
            return
        if picture is not None:
            picture.flags.writeable = False  # it is shared
            self._latest = picture

    def _set_status(self, status: str, message: str) -> None:
        if self._stopping.is_set():
            return
        self.status = status
        _log.info("%s", message)
        if self._on_status is not None:
            self._on_status(status, message)


class Capture(Protocol):
    """What is used of OpenCV's VideoCapture."""

    def isOpened(self) -> bool:
        """Whether it could be opened."""
        ...

    def get(self, prop: int) -> float:
        """A property."""
        ...

    def grab(self) -> bool:
        """Wait for the next picture without decoding it; False: there is none."""
        ...

    def retrieve(self) -> tuple[bool, Any]:
        """Decode it: BGR."""
        ...

    def release(self) -> None:
        """Close it."""
        ...


_CAP_PROP_FPS = 5  # OpenCV's number for it


class Camera(PictureSource):
    """A camera by number, a device path such as /dev/video0, a stream's URL, or a video file.

    A camera's pictures are all fetched, so that none waits in its buffer, but only `fps` a second are
    decoded. A file runs at its own pace, once.
    """

    def __init__(
        self,
        source: int | str = 0,
        *,
        fps: float = _DEFAULT_FPS,
        on_status: StatusCallback | None = None,
        capture: Callable[[int | str], Capture] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose a camera; `start` opens it.

        Args:
            source: number (also as text), path or URL.
            fps: pictures a second to keep.
            on_status: called with the new status and a sentence for people.
            capture: opens a source; OpenCV by default.
            now: seconds of a clock; for tests.
        """
        number = isinstance(source, int) or source.strip().isdecimal()
        self._source: int | str = int(source) if number else str(source)
        super().__init__(f"camera {self._source}", fps, on_status)
        self._make = capture or _open_capture
        self._now = now
        self._capture: Capture | None = None
        self._is_file = isinstance(self._source, str) and Path(self._source).is_file()
        self._period = 0.0  # seconds a picture of a file
        self._grabbed = 0
        self._begun = 0.0
        self._next = 0.0

    def _open(self) -> None:
        if isinstance(self._source, str) and "://" not in self._source and not Path(self._source).exists():
            raise DeviceError(f"there is no camera or video {self._source!r}")
        self._capture = self._make(self._source)
        if not self._capture.isOpened():
            self._release()
            advice = (
                "allow it for your terminal in System Settings, Privacy & Security, Camera"
                if sys.platform == "darwin"
                else "is it plugged in, and not used by another program?"
            )
            if self._is_file:
                advice = "it is not a video that OpenCV reads"
            raise DeviceError(f"can't open {self.name}: {advice}")
        rate = self._capture.get(_CAP_PROP_FPS) if self._is_file else 0.0
        self._period = 1 / rate if 0 < rate <= 1000 else 1 / 25 if self._is_file else 0.0
        self._grabbed = 0
        self._begun = self._next = self._now()

    def _take(self) -> Picture | None:
        assert self._capture is not None
        if self._stopping.wait(max(0.0, self._begun + self._grabbed * self._period - self._now())):
            return None
        if not self._capture.grab():
            raise DeviceError(f"{self.name} gives no more pictures; waiting for it")
        self._grabbed += 1
        now = self._now()
        if now < self._next:
            return None
        self._next = max(self._next + self._every, now)
        good, picture = self._capture.retrieve()
        if not good or picture is None or picture.ndim != 3:
            return None
        return np.ascontiguousarray(picture[:, :, 2::-1], dtype=np.uint8)

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _ended(self) -> bool:
        return self._is_file and self._grabbed > 0


def _open_capture(source: int | str) -> Capture:
    capture: Capture = import_optional("cv2", "camera").VideoCapture(source)
    return capture


class Screen(PictureSource):
    """What a monitor shows."""

    def __init__(
        self,
        monitor: int = 1,
        *,
        fps: float = _DEFAULT_FPS,
        on_status: StatusCallback | None = None,
        mss: Any = None,
    ) -> None:
        """Choose a monitor; `start` begins to look at it.

        Args:
            monitor: 1: the first, 2: the second, ...; 0: all of them as one picture.
            fps: pictures a second.
            on_status: called with the new status and a sentence for people.
            mss: the package of that name, or another object with its functions.
        """
        super().__init__(f"screen {monitor}" if monitor else "the whole screen", fps, on_status)
        self._monitor = monitor
        self._package = mss
        self._grabber: Any = None
        self._area: Any = None

    def _open(self) -> None:
        package = self._package or import_optional("mss", "screen")
        try:
            self._grabber = (getattr(package, "MSS", None) or package.mss)()
            monitors = self._grabber.monitors
        except Exception as error:  # mss lets the system's own errors through
            self._release()
            advice = "; a display of X11 is needed (DISPLAY)" if sys.platform.startswith("linux") else ""
            raise DeviceError(f"can't look at the screen: {error}{advice}") from error
        if not 0 <= self._monitor < len(monitors):
            self._release()
            raise InvalidArgumentError(f"there is no {self.name}; there are 1 to {len(monitors) - 1}")
        self._area = monitors[self._monitor]

    def _take(self) -> Picture | None:
        if self._latest is not None and self._stopping.wait(self._every):
            return None
        try:
            shot = self._grabber.grab(self._area)
        except Exception as error:
            raise DeviceError(f"can't look at the screen any more: {error}") from error
        pixels = np.frombuffer(shot.bgra, np.uint8).reshape(shot.height, shot.width, 4)
        return np.ascontiguousarray(pixels[:, :, 2::-1])

    def _release(self) -> None:
        if self._grabber is not None:
            self._grabber.close()
            self._grabber = None
