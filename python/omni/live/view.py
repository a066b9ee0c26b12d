"""What a person sees of a conversation on the terminal, on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any, TextIO

import numpy as np

from omni.audio_io import MODEL_RATE
from omni.devices.line import level_of
from omni.duplex_events import (
    DegradedEvent,
    Event,
    InputDroppedEvent,
    StateEvent,
    TextEvent,
    TurnEndEvent,
    UnitEvent,
)
from omni.live.outputs import Output
from omni.live.sources import Picture, Samples
from omni.live.summary import unit_milliseconds

KEYS = "space or Enter: interrupt    q: leave"

_UNIT_MS = 1000
_REFRESH_SECONDS = 0.125
_LINES = 8  # of subtitles
_METER = 24  # characters
_QUIET_DB = -60.0
_LEVELS = ("", "frames dropped", "fewer flow steps", "half duplex", "text only")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def printable(text: str) -> str:
    """The model's text without characters that would do something to a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def describe_event(event: Event) -> str | None:
    """A sentence about an event that a person should know of, or None."""
    if isinstance(event, DegradedEvent):
        if event.level == 0:
            return "keeping up again: nothing is left out any more"
        return f"this machine is too slow: {_LEVELS[event.level]} ({event.reason})"
    if isinstance(event, InputDroppedEvent):
        return f"{event.seconds:.1f} s of input could not be heard in time"
    return None


class PlainView(Output):
    """Lines for terminals without tricks, files and screen readers."""

    def __init__(self, file: TextIO | None = None, *, verbose: bool = False) -> None:
        self._file = sys.stderr if file is None else file
        self._verbose = verbose
        self._is_open = False  # in the middle of a line

    def event(self, event: Event, at: float | None) -> None:
        """Writes what the model says as it comes, and what else matters."""
        if isinstance(event, TextEvent) and event.text:
            if not self._is_open:
                self._write(f"[{clock(event.unit + 1)}] ")
                self._is_open = True
            self._write(printable(event.text))
        elif isinstance(event, TurnEndEvent):
            if self._is_open:
                self._write(" -\n" if event.interrupted else "\n")
            self._is_open = False
        elif isinstance(event, UnitEvent) and self._verbose:
            self.notice(
                f"unit {event.unit}: {'listened' if event.is_listen else 'spoke'}, encoded in "
                f"{event.encode_ms:.0f} ms, decided in {event.decide_ms:.0f}, speech {event.speak_ms:.0f}, "
                f"sound {event.render_ms:.0f}; after {event.latency_ms:.0f}; context {event.cache_length} "
                f"of {event.cache_capacity}"
            )
        elif text := describe_event(event):
            self.notice(text)

    def notice(self, text: str) -> None:
        """A line of its own."""
        self._end_line()
        self._write(f"({text})\n")

    def close(self, complete: bool) -> None:
        """Ends the line."""
        self._end_line()

    def _end_line(self) -> None:
        if self._is_open:
            self._write("\n")
            self._is_open = False

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


class RichView(Output):
    """State, subtitles, levels and times that stay in their place, drawn with rich."""

    def __init__(self, title: str, file: TextIO | None = None, *, keys: bool = True) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=sys.stderr if file is None else file)
        self._title, self._keys = title, keys
        self._lines: deque[tuple[str, str, str]] = deque(maxlen=_LINES)  # time, text, style
        self._turn_is_open = False
        self._state = "listening"
        self._heard, self._said = -100.0, -100.0  # dB
        self._seconds = 0.0
        self._unit: UnitEvent | None = None
        self._slowest = 0.0
        self._degraded = ""
        self._drawn = 0.0
        self._live: Any = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()
        self._draw()

    def heard(self, samples: Samples, picture: Picture | None) -> None:
        """Moves the user's meter and the clock."""
        self._heard = max(self._heard - 3, level_of(samples))
        self._seconds += len(samples) / MODEL_RATE
        self._draw_soon()

    def settled(self, sound: Samples) -> None:
        """Moves the model's meter."""
        self._said = max(self._said - 3, level_of(np.ascontiguousarray(sound[:, 1])))

    def event(self, event: Event, at: float | None) -> None:
        """Keeps what is to be shown."""
        if isinstance(event, TextEvent) and event.text:
            self._say(event)
        elif isinstance(event, TurnEndEvent):
            if self._turn_is_open and event.interrupted and self._lines:
                when, text, style = self._lines[-1]
                self._lines[-1] = (when, text + " -", style)
            self._turn_is_open = False
        elif isinstance(event, StateEvent):
            self._state = event.state
        elif isinstance(event, UnitEvent):
            self._unit = event
            self._slowest = max(self._slowest, unit_milliseconds(event))
        elif (sentence := describe_event(event)) is not None:
            if isinstance(event, DegradedEvent):
                self._degraded = _LEVELS[event.level]
            self.notice(sentence)
        self._draw_soon()

    def notice(self, text: str) -> None:
        """A line among the subtitles."""
        self._turn_is_open = False
        self._lines.append((clock(self._seconds), text, "yellow"))
        self._draw_soon()

    def close(self, complete: bool) -> None:
        """Leaves the last picture on the terminal."""
        self._draw()
        self._live.stop()

    def _say(self, event: TextEvent) -> None:
        if self._turn_is_open and self._lines:
            when, text, style = self._lines[-1]
            self._lines[-1] = (when, text + printable(event.text), style)
        else:
            self._lines.append((clock(event.unit + 1), printable(event.text), "bold cyan"))
            self._turn_is_open = True

    def _draw_soon(self) -> None:
        if time.monotonic() - self._drawn >= _REFRESH_SECONDS:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        speaks = self._state == "speaking"
        head = Text.assemble(
            (f" {self._state} ", "black on cyan" if speaks else "black on green"),
            f"  {clock(self._seconds)}  ",
        )
        if self._degraded:
            head.append(f" {self._degraded} ", "black on yellow")
        meters = Text.assemble(
            "you   ", (_meter(self._heard), "green"), "\nmodel ", (_meter(self._said), "cyan")
        )
        lines = Text()
        for when, text, style in self._lines:
            lines.append(f"{when:>6} ", "dim").append(text.strip() + "\n", style)
        foot = Text(self._numbers(), "dim")
        if self._keys:
            foot.append(f"\n{KEYS}")
        return Group(Text(self._title, "dim"), head, meters, Text(), lines, foot)

    def _numbers(self) -> str:
        if self._unit is None:
            return ""
        now = unit_milliseconds(self._unit)
        return (
            f"unit {now:.0f} of {_UNIT_MS} ms (slowest {self._slowest:.0f}), "
            f"latency {self._unit.latency_ms:.0f} ms, "
            f"context {self._unit.cache_length} of {self._unit.cache_capacity}"
        )


def _meter(level: float) -> str:
    filled = round(_METER * min(1.0, max(0.0, 1 - level / _QUIET_DB)))
    return "█" * filled + "·" * (_METER - filled) + (f" {level:4.0f} dB" if level > -100 else "  silent")
