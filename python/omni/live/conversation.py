"""The loop between a source, a session and the outputs.

Three threads: one feeds the session, one reads its events, and the caller's does everything else, so that
outputs need no locks. What happens goes through one mailbox.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from omni.audio_io import MODEL_RATE
from omni.duplex_events import AudioEvent, Event, UnitEvent
from omni.errors import CancelledError, InvalidArgumentError, OmniError
from omni.live.outputs import Output
from omni.live.sources import BLOCK, Block, Paced, Picture, Samples, Source
from omni.live.timeline import Timeline

Command: TypeAlias = Literal["interrupt", "quit"]

QUIET_UNITS = 2
"""Units of silence in a row that the model must listen to after the input's end, before all ends."""

TAIL_SECONDS = 10
"""Silence that is fed after the input's end at most."""

_MAILBOX = 256
_LOOK_SECONDS = 0.2  # without a look at Ctrl-C, on systems where waiting can't be interrupted


class Session(Protocol):
    """What is used of `omni.DuplexSession`."""

    @property
    def epoch(self) -> int:
        """How often it was interrupted."""
        ...

    def push_audio(self, samples: Samples) -> None:
        """Takes sound at 16 kHz."""
        ...

    def push_frame(self, image: Picture) -> None:
        """Takes a picture."""
        ...

    def end_input(self) -> None:
        """Nothing more comes."""
        ...

    def interrupt(self) -> None:
        """Ends the turn."""
        ...

    def close(self) -> None:
        """Ends everything."""
        ...

    def __iter__(self) -> Iterator[Event]:
        """Events until the end."""
        ...


@dataclass(frozen=True)
class _Ended:
    """A thread is done, with its error if it failed."""

    who: Literal["feeder", "reader"]
    error: BaseException | None


@dataclass(frozen=True)
class _Notice:
    text: str


_Message: TypeAlias = Block | Event | Command | _Ended | _Notice


class _Answers:
    """Which units were answered; the main thread tells, the feeder asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._last = -1
        self._listening_since: int | None = None  # first unit of the listening ones in a row at the end
        self._ended = False

    def tell(self, unit: int, is_listen: bool) -> None:
        with self._changed:
            self._last = unit
            if not is_listen:
                self._listening_since = None
            elif self._listening_since is None:
                self._listening_since = unit
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def quiet_since(self, first: int) -> bool:
        """Whether QUIET_UNITS units from `first` on, the latest, were listened to."""
        with self._changed:
            if self._listening_since is None:
                return False
            return self._last - max(first, self._listening_since) + 1 >= QUIET_UNITS

    def wait_for(self, unit: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._last >= unit)


class Conversation:
    """One conversation, from the source's first block to the last answer.

    After a source that ends, silence is fed until QUIET_UNITS units of it in a row were listened to, at most
    TAIL_SECONDS.

    Args:
        session: the session; it is closed at the end.
        source: what it hears; closed, too. In real time a `Paced` one, or one that is live.
        outputs: who is told; closed, too.
        real_time: whether the clock of the time line is a real one.
    """

    def __init__(
        self, session: Session, source: Source, outputs: Sequence[Output], *, real_time: bool
    ) -> None:
        if real_time and not (source.is_live or isinstance(source, Paced)):
            raise InvalidArgumentError("in real time a source is live, or has a pace: Paced(source)")
        self._session = session
        self._source = source
        self._outputs = outputs
        self._real_time = real_time
        self.timeline = Timeline(real_time=real_time)
        self._mailbox: queue.Queue[_Message] = queue.Queue(_MAILBOX)
        self._answers = _Answers()
        self._stop = threading.Event()
        self._epoch = session.epoch
        self._n_fed = 0  # samples

    # ---- from any thread ----

    def command(self, command: Command) -> None:
        """Interrupts the model, or ends the conversation. Sound that was said and not heard is dropped."""
        if command == "interrupt":
            self._session.interrupt()
        self._post(command)

    def notice(self, text: str) -> None:
        """Tells the outputs something."""
        self._post(_Notice(text))

    def _post(self, message: _Message) -> None:
        # Never blocks for long: the main thread empties the mailbox until both others are done.
        while not self._stop.is_set():
            try:
                self._mailbox.put(message, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue

    # ---- the caller's thread ----

    def run(self) -> None:
        """Runs it to its end.

        Raises:
            OmniError: the session failed, the source is damaged, or an output can't be written.
            KeyboardInterrupt: Ctrl-C; outputs were closed as far as they had come.
        """
        feeder = threading.Thread(target=self._feed, name="omni feeder", daemon=True)
        reader = threading.Thread(target=self._read, name="omni reader", daemon=True)
        complete = False
        try:
            feeder.start()
            reader.start()
            complete = self._handle()
        finally:
            self._stop.set()
            self._answers.end()
            self._session.close()
            self._finish(complete)
            feeder.join()
            reader.join()
            self._source.close()

    def _handle(self) -> bool:
        """Handles messages until the last answer. False: the user ended it."""
        failure: BaseException | None = None
        while True:
            try:
                message = self._mailbox.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            match message:
                case Block():
                    self._heard(message)
                case Event():
                    self._happened(message)
                case _Ended("feeder", error):
                    failure = error
                case _Ended(_, error):
                    failure = error or failure
                    if failure is not None:
                        raise failure
                    return True
                case _Notice(text):
                    for output in self._outputs:
                        output.notice(text)
                case "interrupt":
                    self._new_epoch()
                case "quit":
                    return False

    def _heard(self, block: Block) -> None:
        self.timeline.heard(block.samples)
        for output in self._outputs:
            output.heard(block.samples, block.picture)
        self._settle()

    def _happened(self, event: Event) -> None:
        if not isinstance(event, UnitEvent) and event.epoch > self._epoch:
            self._new_epoch()
        at = None
        if isinstance(event, AudioEvent):
            if event.epoch < self._epoch:
                return
            at = self.timeline.said(event.samples, event.unit)
        for output in self._outputs:
            output.event(event, at)
        if isinstance(event, UnitEvent):
            self.timeline.answered(event.unit)
            self._settle()
            self._answers.tell(event.unit, event.is_listen)

    def _new_epoch(self) -> None:
        epoch = self._session.epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self.timeline.interrupt()
        for output in self._outputs:
            output.flush()

    def _settle(self) -> None:
        self._give(self.timeline.settle())

    def _give(self, sound: Samples) -> None:
        if len(sound):
            for output in self._outputs:
                output.settled(sound)

    def _finish(self, complete: bool) -> None:
        """Closes all outputs, whatever happens; the first error is raised."""
        failure: BaseException | None = None
        if not complete:
            self.timeline.interrupt()
        rest = self.timeline.finish()
        for output in self._outputs:
            try:
                if len(rest):
                    output.settled(rest)
            except BaseException as error:
                failure = failure or error
            try:
                output.close(complete)
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure

    # ---- the other threads ----

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for event in self._session:
                self._post(event)
        except BaseException as e:
            error = e
        self._answers.end()
        self._post(_Ended("reader", error))

    def _feed(self) -> None:
        error: BaseException | None = None
        try:
            for block in self._source.blocks(self._stop):
                self._push(block)
            if not self._stop.is_set():
                self._feed_silence()
        except CancelledError:
            pass  # the session was closed
        except BaseException as e:
            error = e
        self._post(_Ended("feeder", error))
        if not self._stop.is_set():
            with contextlib.suppress(OmniError):  # it has failed: the reader knows
                self._session.end_input()

    def _push(self, block: Block) -> None:
        self._post(block)
        if block.picture is not None:
            self._session.push_frame(block.picture)
        self._session.push_audio(block.samples)
        self._n_fed += len(block.samples)

    def _feed_silence(self) -> None:
        first = -(-self._n_fed // MODEL_RATE)  # the first unit that is silent as a whole
        last = first + TAIL_SECONDS
        step = BLOCK if self._real_time else MODEL_RATE
        while self._n_fed < last * MODEL_RATE and not self._answers.quiet_since(first):
            if not self._real_time:  # no unit more than it takes
                self._answers.wait_for(self._n_fed // MODEL_RATE - 1)
                if self._answers.quiet_since(first):
                    return
            n = step - self._n_fed % step
            if self._stop.is_set():
                return
            if isinstance(self._source, Paced) and not self._source.wait(n, self._stop):
                return
            self._push(Block(np.zeros(n, np.float32)))
