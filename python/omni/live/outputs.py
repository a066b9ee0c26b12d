"""Where a conversation goes: loudspeaker, sound file, recordings. Views are in `omni.live.view`."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from omni.audio_io import MODEL_RATE
from omni.duplex_events import AudioEvent, Event, TextEvent
from omni.errors import InvalidArgumentError, ModelFileError
from omni.live.mp4 import Mp4Writer
from omni.live.subtitles import draw_subtitle
from omni.live.timeline import RATE
from omni.live.wav import GrowingWav

Samples = NDArray[np.float32]
Picture = NDArray[np.uint8]

_SUBTITLE_SECONDS = 1.5  # at most, unless another follows


class Output:
    """Hears of everything that happens, all on one thread. This one does nothing with it."""

    def heard(self, samples: Samples, picture: Picture | None) -> None:
        """Sound [n] at 16 kHz went to the model, and a picture."""

    def event(self, event: Event, at: float | None) -> None:
        """The session said something. `at`: where its sound begins on the time line, in seconds."""

    def settled(self, sound: Samples) -> None:
        """Both sides [n, 2] at 24 kHz, following what was settled before."""

    def flush(self) -> None:
        """What was said and not heard yet must not be heard."""

    def notice(self, text: str) -> None:
        """Something that a person should know."""

    def close(self, complete: bool) -> None:
        """The conversation is over; or was broken off."""


class Playing(Protocol):
    """What is used of `omni.devices.Speaker`."""

    def write(self, samples: Samples, *, last: bool = False) -> None:
        """Queues sound at 24 kHz."""
        ...

    def flush(self) -> float:
        """Drops what is queued."""
        ...

    def drain(self, timeout: float | None = None) -> bool:
        """Waits until all was played."""
        ...

    @property
    def queued_seconds(self) -> float:
        """What is not played yet."""
        ...


class Loudspeaker(Output):
    """Plays the model's sound as it comes."""

    def __init__(self, speaker: Playing) -> None:
        self._speaker = speaker

    def event(self, event: Event, at: float | None) -> None:
        """Queues its sound."""
        if isinstance(event, AudioEvent):
            self._speaker.write(event.samples, last=event.last)

    def flush(self) -> None:
        """Silence, within a block of the device."""
        self._speaker.flush()

    def close(self, complete: bool) -> None:
        """Plays what is left, or drops it."""
        if complete:
            self._speaker.drain(self._speaker.queued_seconds + 2)
        else:
            self._speaker.flush()


class SoundFile(Output):
    """The model's side in a WAV file that lasts as long as the input: silence where it said nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = GrowingWav(path, RATE)

    def settled(self, sound: Samples) -> None:
        """Appends it."""
        self._file.write(sound[:, 1])

    def close(self, complete: bool) -> None:
        """Closes the file."""
        self._file.close()


def plain_event(event: Event, at: float | None) -> dict[str, Any]:
    """An event for JSON: of sound only the number of samples, and where it begins on the time line."""
    values: dict[str, Any] = {"type": event.type}
    for name, value in vars(event).items():
        values[name] = len(value) if isinstance(value, np.ndarray) else value
    return values if at is None else values | {"at": round(at, 6)}


class JsonLines(Output):
    """One JSON object a line for each event."""

    def __init__(self, file: TextIO, *, owned: bool = False) -> None:
        self._file, self._owned = file, owned

    def write(self, values: dict[str, Any]) -> None:
        """Writes an object, at once."""
        self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
        self._file.flush()

    def event(self, event: Event, at: float | None) -> None:
        """Writes the event."""
        self.write(plain_event(event, at))

    def notice(self, text: str) -> None:
        """Writes it as an object of type "notice"."""
        self.write({"type": "notice", "text": text})

    def close(self, complete: bool) -> None:
        """Writes how it ended."""
        self.write({"type": "end", "complete": complete})
        if self._owned:
            self._file.close()


SOUND_NAME, EVENTS_NAME, VIDEO_NAME = "conversation.wav", "timeline.jsonl", "conversation.mp4"


def refuse_recordings(directory: Path) -> None:
    """Raises InvalidArgumentError if a directory has recordings: they are not to be lost."""
    for name in (SOUND_NAME, EVENTS_NAME, VIDEO_NAME):
        if (directory / name).exists():
            raise InvalidArgumentError(f"{directory / name} is there already; record to another directory")


class Recording(Output):
    """A directory with `conversation.wav` (left the user, right the model) and `timeline.jsonl`.

    Both are whole whenever the program is killed.
    """

    def __init__(self, directory: str | os.PathLike[str], about: dict[str, Any]) -> None:
        self.directory = Path(directory)
        refuse_recordings(self.directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lines = JsonLines((self.directory / EVENTS_NAME).open("w", encoding="utf-8"), owned=True)
        except OSError as error:
            raise ModelFileError(
                f"can't record to {os.fspath(directory)!r}: {error.strerror or error}"
            ) from error
        self._wav = GrowingWav(self.directory / SOUND_NAME, RATE, channels=2)
        self._lines.write({"type": "start", **about})

    def event(self, event: Event, at: float | None) -> None:
        """A line of the timeline."""
        self._lines.event(event, at)

    def notice(self, text: str) -> None:
        """Another line."""
        self._lines.notice(text)

    def settled(self, sound: Samples) -> None:
        """Appends the sound."""
        self._wav.write(sound)

    def close(self, complete: bool) -> None:
        """Closes both files."""
        self._wav.close()
        self._lines.close(complete)


class VideoRecording(Output):
    """`conversation.mp4`: what was seen, what was said as subtitles, both sides mixed; two pictures a second.

    It grows by parts of a second that can be played if the program is killed.
    """

    _STEP = RATE // 2
    _MAX_WIDTH, _MAX_HEIGHT = 1280, 720
    _BLACK = (640, 360)

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = Path(directory) / VIDEO_NAME
        self._writer: Mp4Writer | None = None
        self._size = self._BLACK
        self._seen: list[tuple[float, Picture]] = []  # when, ascending
        self._said: list[tuple[float, str]] = []
        self._heard = 0.0  # seconds
        self._sound: Samples = np.zeros((0, 2), np.float32)
        self._steps = 0

    def heard(self, samples: Samples, picture: Picture | None) -> None:
        """Keeps the picture."""
        if picture is not None:
            self._seen.append((self._heard, picture))
        self._heard += len(samples) / MODEL_RATE

    def event(self, event: Event, at: float | None) -> None:
        """Keeps what is said: a unit's text is shown while it is heard, a second and a half at most."""
        text = event.text.strip() if isinstance(event, TextEvent) else ""
        if text:
            self._said.append((max(event.unit + 1.0, self._steps * 0.5), text))

    def settled(self, sound: Samples) -> None:
        """Writes whole half seconds."""
        self._sound = np.concatenate([self._sound, sound])
        while len(self._sound) >= self._STEP:
            self._write(self._sound[: self._STEP])
            self._sound = self._sound[self._STEP :]

    def close(self, complete: bool) -> None:
        """Writes the rest and the end of the file."""
        if len(self._sound):
            self._write(self._sound)
        if self._writer is not None:
            self._writer.close()

    def _write(self, sound: Samples) -> None:
        time = self._steps * 0.5
        self._steps += 1
        while len(self._seen) > 1 and self._seen[1][0] <= time:
            self._seen.pop(0)
        picture = self._seen[0][1] if self._seen and self._seen[0][0] <= time else None
        if self._writer is None:
            if picture is not None:
                height, width = picture.shape[:2]
                scale = min(1.0, self._MAX_WIDTH / width, self._MAX_HEIGHT / height)
                self._size = (max(2, int(width * scale)), max(2, int(height * scale)))
            self._writer = Mp4Writer(
                self._path, self._size, sound_rate=RATE, growing=True, frame_rate=Fraction(2)
            )
        while len(self._said) > 1 and self._said[1][0] <= time:
            self._said.pop(0)
        shown = bool(self._said) and self._said[0][0] <= time < self._said[0][0] + _SUBTITLE_SECONDS
        text = self._said[0][1] if shown else ""
        self._writer.picture(draw_subtitle(self._fitted(picture), text), time)
        self._writer.sound(sound.mean(axis=1))

    def _fitted(self, picture: Picture | None) -> Picture:
        """In the size of the file, black around it."""
        from PIL import Image

        width, height = self._size
        canvas = np.zeros((height, width, 3), np.uint8)
        if picture is None:
            return canvas
        scale = min(width / picture.shape[1], height / picture.shape[0])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        top, left = (height - size[1]) // 2, (width - size[0]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small[: height - top, : width - left]
        return canvas
