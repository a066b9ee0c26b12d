"""What a conversation took, in one line at its end."""

from __future__ import annotations

import numpy as np

from omni.duplex_events import Event, InputDroppedEvent, TurnEndEvent, UnitEvent
from omni.live.outputs import Output


def unit_milliseconds(event: UnitEvent) -> float:
    """The slowest thread's time for a unit: they work side by side, so that it must stay below a second."""
    return max(event.encode_ms, event.decide_ms, event.speak_ms, event.render_ms)


class Summary(Output):
    """Counts units and turns and keeps what each took."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.turns = self.interrupted = 0
        self.dropped_seconds = 0.0

    def event(self, event: Event, at: float | None) -> None:
        """Counts it."""
        if isinstance(event, UnitEvent):
            self.milliseconds.append(unit_milliseconds(event))
        elif isinstance(event, TurnEndEvent):
            self.turns += 1
            self.interrupted += event.interrupted
        elif isinstance(event, InputDroppedEvent):
            self.dropped_seconds += event.seconds

    def __str__(self) -> str:
        if not self.milliseconds:
            return "no second of sound was heard"
        median, high = np.percentile(self.milliseconds, (50, 95))
        text = (
            f"{len(self.milliseconds)} s heard, {self.turns} turn{'s' * (self.turns != 1)} spoken; "
            f"a unit took {median:.0f} ms (95 %: {high:.0f}, slowest {max(self.milliseconds):.0f}) of 1000"
        )
        if self.dropped_seconds:
            text += f"; {self.dropped_seconds:.0f} s were dropped"
        return text
