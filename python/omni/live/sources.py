"""What the model hears and sees: files at their own pace or as fast as it goes, a microphone, a camera."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omni import media
from omni.audio_io import MODEL_RATE, iter_audio
from omni.errors import FormatError

Samples = NDArray[np.float32]
Picture = NDArray[np.uint8]

BLOCK = MODEL_RATE // 10
"""Samples of a block at real-time pace."""

_PICTURES_PER_SECOND = 2  # looked for; the session shows the latest of a second to the model


@dataclass(frozen=True, eq=False)
class Block:
    """Sound, float32 [n] at 16 kHz, and what was seen at its beginning: uint8 [height, width, 3]."""

    samples: Samples
    picture: Picture | None = None


class Source(Protocol):
    """Blocks of sound one after another; sound that is not there yet is waited for."""

    name: str
    is_live: bool
    """It goes on until the user ends it; and what it gives can't be had again."""

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        """The blocks, until the end or until `stop` is set."""
        ...

    def close(self) -> None:
        """Lets go of files and devices."""
        ...


def reblock(blocks: Iterator[Samples], size: int) -> Iterator[Samples]:
    """The same samples in blocks of one size; the last may be shorter."""
    rest: Samples = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block]) if len(rest) else block
        whole = len(rest) // size * size
        for start in range(0, whole, size):
            yield rest[start : start + size]
        rest = rest[whole:]
    if len(rest):
        yield rest


class AudioFile:
    """A sound file as the microphone. Opening it reads its beginning: what is no sound fails here."""

    is_live = False

    def __init__(self, path: str | os.PathLike[str], block: int = BLOCK) -> None:
        self.name = os.path.basename(os.fspath(path))  # noqa: PTH119
        self._blocks = reblock(iter_audio(path, MODEL_RATE, block_seconds=1.0), block)
        first = next(self._blocks, None)
        if first is None:
            raise FormatError(f"{os.fspath(path)} holds no sound")
        self._first = first

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        """The file's sound."""
        yield Block(self._first)
        for samples in self._blocks:
            if stop.is_set():
                return
            yield Block(samples)

    def close(self) -> None:
        """Closes the file."""
        self._blocks.close()  # type: ignore[attr-defined]


class VideoFile:
    """A video file as microphone and camera: its sound, and the picture at the beginning of each second.

    A video without sound is silent; sound that is longer than the pictures goes on without them.
    """

    is_live = False

    def __init__(self, path: str | os.PathLike[str], block: int = BLOCK) -> None:
        self.name = os.path.basename(os.fspath(path))  # noqa: PTH119
        self._block = block
        self._video = media.Video(path)
        try:
            timeline = self._video.timeline()
            last = len(timeline.times) - 1
            seconds = range(max(1, int(-(-timeline.duration // 1))))
            indices = [min(int(second * timeline.rate), last) for second in seconds]
            self._n_seconds = len(indices)
            self._pictures = self._video.pictures(indices)
            self._first = next(self._pictures)
            sound = iter_audio(path, MODEL_RATE, block_seconds=1.0) if self._video.has_sound else iter(())
            self._sound = reblock(sound, MODEL_RATE)
        except BaseException:
            self._video.close()
            raise

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        """A second's picture with its first block."""
        second = 0
        while not stop.is_set():
            samples = next(self._sound, np.zeros(0, np.float32))
            if second >= self._n_seconds and not len(samples):
                return
            picture = self._first if second == 0 else next(self._pictures, None)
            if second < self._n_seconds and len(samples) < MODEL_RATE:
                samples = np.concatenate([samples, np.zeros(MODEL_RATE - len(samples), np.float32)])
            for start in range(0, len(samples), self._block):
                yield Block(samples[start : start + self._block], picture)
                picture = None
            second += 1

    def close(self) -> None:
        """Closes the file."""
        self._video.close()


class Paced:
    """Another source at real-time pace: each block comes when a microphone would have it, at its end.

    The clock is monotonic and runs from the first block on; a delay is made up for, so that nothing drifts.
    """

    is_live = False

    def __init__(self, source: Source, now: Callable[[], float] = time.monotonic) -> None:
        self.name = source.name
        self._source = source
        self._now = now
        self._begun: float | None = None
        self._given = 0

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        """The source's blocks."""
        for block in self._source.blocks(stop):
            if not self.wait(len(block.samples), stop):
                return
            yield block

    def wait(self, n: int, stop: threading.Event) -> bool:
        """Waits until n more samples would have been recorded. False: `stop` was set."""
        if self._begun is None:
            self._begun = self._now()
        self._given += n
        return not stop.wait(max(0.0, self._begun + self._given / MODEL_RATE - self._now()))

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


class Pictures(Protocol):
    """A camera or screen: `omni.devices.Camera`, `omni.devices.Screen`."""

    def latest(self) -> Picture | None:
        """The latest picture."""
        ...


class Queued:
    """Blocks that come by themselves, from a microphone: `put()` is its callback.

    `process` takes the echo out.
    """

    is_live = True

    def __init__(self, name: str, process: Callable[[Samples, float], Samples] | None = None) -> None:
        self.name = name
        self._process = process
        self._queue: queue.SimpleQueue[tuple[Samples, float]] = queue.SimpleQueue()

    def put(self, samples: Samples, at: float) -> None:
        """Takes a block and the time of its first sample, from any thread."""
        self._queue.put((samples, at))

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        """Blocks as they come."""
        while not stop.is_set():
            try:
                samples, at = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if self._process is not None:
                samples = self._process(samples, at)
            yield Block(samples)

    def close(self) -> None:
        """Nothing: the microphone belongs to someone else."""


class WithPictures:
    """Another source's sound together with what a camera or screen shows meanwhile, twice a second."""

    def __init__(self, source: Source, pictures: Pictures) -> None:
        self.name, self.is_live = source.name, source.is_live
        self._source, self._pictures = source, pictures

    def blocks(self, stop: threading.Event) -> Iterator[Block]:
        """The source's blocks, every few with the latest picture."""
        until = 0
        for block in self._source.blocks(stop):
            picture = None
            if until <= 0:
                picture = self._pictures.latest()
                until += MODEL_RATE // _PICTURES_PER_SECOND
            until -= len(block.samples)
            yield Block(block.samples, picture)

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
