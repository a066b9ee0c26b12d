"""A window around a full-duplex session: start, stop, interrupt, subtitles, level, state.

    pip install 'omni[all]' PySide6
    python window.py MODEL_DIR --ref-audio voice.wav

With --input talk.wav a file is the microphone, nothing is played, and the window closes at its end.

What an application needs is in `Talk`: it loads the model, opens the session, the microphone and the
loudspeaker, and turns the session's events into Qt signals. Events come on a thread of the session; Qt
delivers signals on the thread of the window.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

import omni
from omni.devices import Microphone, Speaker
from omni.live.sources import AudioFile, Paced

QUIET_DB = -60


class Talk(QObject):
    """One conversation at a time. `make_session(on_event)` opens the session; it may take long."""

    happened = Signal(object)  # omni.Event
    status = Signal(str)
    ended = Signal(str)  # why, or "" if nothing was wrong

    def __init__(self, make_session: Callable[[Callable[[omni.Event], None]], Any], path: str | None) -> None:
        super().__init__()
        self._make_session, self._path = make_session, path
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._session: Any = None
        self._speaker: Speaker | None = None
        self.level = float(QUIET_DB)  # of what is heard, in dB

    def start(self) -> None:
        """Begins; the model is loaded meanwhile."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="talk")
            self._thread.start()

    def stop(self) -> None:
        """Ends the conversation and waits for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def interrupt(self) -> None:
        """Makes the model stop speaking."""
        session, speaker = self._session, self._speaker
        if session is not None:
            session.interrupt()
        if speaker is not None:
            speaker.flush()

    def _run(self) -> None:
        try:
            self.status.emit("loading the model")
            with self._make_session(self._on_event) as session:
                self._session = session
                if self._path is None:
                    self._converse(session)
                else:
                    self._play(session, self._path)
            self.ended.emit("")
        except omni.OmniError as error:
            self.ended.emit(str(error))
        finally:
            self._session = None

    def _converse(self, session: Any) -> None:
        microphone = Microphone(on_block=lambda block, _: session.push_audio(block))
        with Speaker() as speaker, microphone:
            self._speaker = speaker
            self.status.emit(f"{microphone.device.name}, {speaker.device.name}")
            try:
                while not self._stop.wait(0.1):
                    self.level = microphone.level
                    if session.wait(0):  # it ended by itself; raises its error
                        break
            finally:
                self._speaker = None

    def _play(self, session: Any, path: str) -> None:
        source = Paced(AudioFile(path))
        self.status.emit(source.name)
        for block in source.blocks(self._stop):
            session.push_audio(block.samples)
        if not self._stop.is_set():
            session.end_input()
        while not self._stop.is_set() and not session.wait(0.1):
            pass

    def _on_event(self, event: omni.Event) -> None:
        speaker = self._speaker
        if speaker is not None and isinstance(event, omni.AudioEvent):
            speaker.write(event.samples, last=event.last)
        self.happened.emit(event)


class Window(QWidget):
    """What one sees."""

    def __init__(self, talk: Talk, *, close_at_end: bool = False) -> None:
        super().__init__()
        self.setWindowTitle("omni")
        self.resize(560, 360)
        self._talk, self._close_at_end = talk, close_at_end
        self._turn_is_open = False
        self.state, self.times = QLabel("ready"), QLabel()
        self.level = QProgressBar(minimum=QUIET_DB, maximum=0, value=QUIET_DB, textVisible=False)
        self.subtitles = QPlainTextEdit(readOnly=True, maximumBlockCount=500)
        self.button, self.interrupt = QPushButton("Start"), QPushButton("Interrupt", enabled=False)
        self.button.clicked.connect(self._start_or_stop)
        self.interrupt.clicked.connect(talk.interrupt)
        head, foot, column = QHBoxLayout(), QHBoxLayout(), QVBoxLayout(self)
        for part in (self.button, self.interrupt, self.level):
            head.addWidget(part)
        foot.addWidget(self.state)
        foot.addWidget(self.times, alignment=Qt.AlignmentFlag.AlignRight)
        column.addLayout(head)
        column.addWidget(self.subtitles)
        column.addLayout(foot)
        talk.happened.connect(self._show)
        talk.status.connect(self.state.setText)
        talk.ended.connect(self._ended)
        self._timer = QTimer(self, interval=50)
        self._timer.timeout.connect(lambda: self.level.setValue(int(max(QUIET_DB, talk.level))))
        self._timer.start()

    def _start_or_stop(self) -> None:
        if self.interrupt.isEnabled():
            self._talk.stop()
            return
        self.button.setText("Stop")
        self.interrupt.setEnabled(True)
        self._talk.start()

    def _show(self, event: omni.Event) -> None:
        if isinstance(event, omni.StateEvent):
            self.state.setText(event.state)
        elif isinstance(event, omni.TextEvent):
            self._say(event.text)
        elif isinstance(event, omni.TurnEndEvent):
            self._turn_is_open = False
        elif isinstance(event, omni.UnitEvent):
            slowest = max(event.encode_ms, event.decide_ms, event.speak_ms, event.render_ms)
            used = f"{event.cache_length} of {event.cache_capacity}"
            self.times.setText(f"{slowest:.0f} of 1000 ms, context {used}")
        elif isinstance(event, omni.DegradedEvent):
            self.state.setText(event.reason)

    def _say(self, text: str) -> None:
        if self._turn_is_open:
            cursor = self.subtitles.textCursor()
            cursor.movePosition(cursor.MoveOperation.End)
            cursor.insertText(text)
        else:
            self.subtitles.appendPlainText(text)
            self._turn_is_open = True

    def _ended(self, why: str) -> None:
        self._talk.stop()
        self.button.setText("Start")
        self.interrupt.setEnabled(False)
        self.state.setText(why or "ended")
        if self._close_at_end:
            QApplication.exit(1 if why else 0)

    def closeEvent(self, event: QCloseEvent) -> None:
        """Ends the conversation first."""
        self._talk.stop()
        event.accept()


def main() -> int:
    """Shows the window."""
    parser = argparse.ArgumentParser(description="A window around a full-duplex session.")
    parser.add_argument("model", help="model directory")
    parser.add_argument("--ref-audio", help="recording of the voice to speak with")
    parser.add_argument("--input", help="sound file instead of a microphone; the window closes at its end")
    parser.add_argument("--threads", type=int, help="threads on the processor")
    args = parser.parse_args()

    def make_session(on_event: Callable[[omni.Event], None]) -> omni.DuplexSession:
        model = omni.MiniCPMO.from_pretrained(args.model, init_vision=False, n_threads=args.threads)
        return omni.DuplexSession(model, ref_audio=args.ref_audio, on_event=on_event)

    application = QApplication(sys.argv[:1])
    window = Window(Talk(make_session, args.input), close_at_end=args.input is not None)
    window.show()
    if args.input is not None:
        window.button.click()
    return application.exec()


if __name__ == "__main__":
    sys.exit(main())
