"""Single keys of the terminal, without Enter, while a conversation runs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

_POLL_SECONDS = 0.1


class Keyboard:
    """Calls `on_key` with each key that is pressed, on a thread of its own, and restores the terminal.

    Without a terminal on stdin it does nothing. Ctrl-C stays what it is.
    """

    def __init__(self, on_key: Callable[[str], None]) -> None:
        self._on_key = on_key
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._saved: Any = None

    def __enter__(self) -> Keyboard:
        if sys.stdin is None or not sys.stdin.isatty():
            return self
        read = self._read_windows if sys.platform == "win32" else self._read_posix
        if sys.platform != "win32":
            import termios
            import tty

            self._saved = termios.tcgetattr(sys.stdin.fileno())
            tty.setcbreak(sys.stdin.fileno())
        self._thread = threading.Thread(target=read, name="omni keys", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._saved is not None and sys.platform != "win32":
            import termios

            with contextlib.suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._saved)

    def _read_posix(self) -> None:
        import select

        stdin = sys.stdin.fileno()
        while not self._stop.is_set():
            try:
                if not select.select([stdin], [], [], _POLL_SECONDS)[0]:
                    continue
                data = os.read(stdin, 64)
            except OSError:
                return
            if not data:
                return
            for key in data.decode(errors="ignore"):
                self._on_key(key)

    def _read_windows(self) -> None:
        import importlib

        msvcrt: Any = importlib.import_module("msvcrt")
        while not self._stop.wait(_POLL_SECONDS):
            while msvcrt.kbhit():
                self._on_key(msvcrt.getwch())
