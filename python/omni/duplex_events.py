"""What comes out of a `DuplexSession`. Every event says to which second of the input it belongs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AudioEvent",
    "DegradedEvent",
    "Event",
    "InputDroppedEvent",
    "StateEvent",
    "TextEvent",
    "TurnEndEvent",
    "UnitEvent",
]


@dataclass(frozen=True, eq=False)
class Event:
    """What all events have."""

    type: ClassVar[str] = ""
    unit: int
    """Which second of the input, from 0; seconds that were dropped count."""
    epoch: int
    """How often the session had been interrupted. Text and sound of an older epoch are stale."""
    time: float
    """Seconds since the session's start."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with "type"; sound as a list of numbers."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        return {"type": self.type, **plain}


@dataclass(frozen=True, eq=False)
class StateEvent(Event):
    """The model began or ended a turn. A session begins listening."""

    type: ClassVar[str] = "state"
    state: Literal["listening", "speaking"]


@dataclass(frozen=True, eq=False)
class TextEvent(Event):
    """New text, one event for each unit that speaks; it may be empty. Comes before the unit's sound."""

    type: ClassVar[str] = "text"
    text: str
    end_of_turn: bool


@dataclass(frozen=True, eq=False)
class AudioEvent(Event):
    """New sound, float32 [n] with n > 0; the sounds of a turn follow each other without gap or overlap."""

    type: ClassVar[str] = "audio"
    samples: NDArray[np.float32]
    sample_rate: int
    first: bool
    """The first of its turn."""
    last: bool
    """The last of its turn; a turn may also end without a last sound."""


@dataclass(frozen=True, eq=False)
class TurnEndEvent(Event):
    """After everything else of a turn, once for each."""

    type: ClassVar[str] = "turn_end"
    interrupted: bool
    """By `interrupt()`, or because the input ended."""


@dataclass(frozen=True, eq=False)
class UnitEvent(Event):
    """Measurements, one event for each unit that was decided, in their order."""

    type: ClassVar[str] = "unit"
    encode_ms: float
    decide_ms: float
    speak_ms: float
    render_ms: float
    latency_ms: float
    """From the unit's last sample to its decision, or to its sound if it speaks."""
    queued_units: int
    """Units that waited for their decision when this one was done."""
    cache_length: int
    """Rows in the language model's cache ..."""
    cache_capacity: int
    """... and how many it has room for."""
    is_listen: bool
    dropped_frames: int
    """Pictures of this unit that were not shown to the model, to save time."""
    text_tokens: int
    speech_tokens: int


@dataclass(frozen=True, eq=False)
class DegradedEvent(Event):
    """The session does less to keep up, or does more again: 0 full, 1 frames dropped, 2 fewer flow steps,
    3 half duplex, 4 text only."""

    type: ClassVar[str] = "degraded"
    level: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class InputDroppedEvent(Event):
    """Input that was not heard, from this unit on."""

    type: ClassVar[str] = "input_dropped"
    seconds: float


EVENTS: dict[str, type[Event]] = {
    cls.type: cls
    for cls in (StateEvent, TextEvent, AudioEvent, TurnEndEvent, UnitEvent, DegradedEvent, InputDroppedEvent)
}
