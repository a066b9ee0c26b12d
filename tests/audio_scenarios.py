"""Programs that use the sound devices for real; test_audio_hardware.py runs each in a process of its own.

`python audio_scenarios.py NAME [WAV]` prints a line of JSON for each thing that happened.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from omni.audio_io import load_audio
from omni.devices import Microphone, Speaker, list_audio_devices

PATIENCE = 60.0


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


class Recorder:
    """Keeps what the microphone gives, and when."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []
        self.times: list[float] = []

    def __call__(self, block: np.ndarray, at: float) -> None:
        self.times.append(at)
        self.blocks.append(block)

    def is_loud(self, last: int = 5) -> bool:
        recent = self.blocks[-last:]
        return len(recent) == last and all(np.abs(block).max() > 0.05 for block in recent)

    def is_quiet(self, last: int = 25) -> bool:
        recent = self.blocks[-last:]
        return len(recent) == last and all(np.abs(block).max() < 1e-3 for block in recent)


def similarity(sent: np.ndarray, heard: np.ndarray, rate: int = 16000) -> tuple[list[float], list[float]]:
    """How like each other 0.3 s pieces are at their best lag, and these lags in seconds."""
    found, lags = [], []
    n = int(0.3 * rate)
    for start in range(0, len(sent) - n, n):
        piece = sent[start : start + n]
        if np.sqrt(np.mean(piece**2)) < 0.02:
            continue
        scores = np.correlate(heard, piece, mode="valid")
        power = np.convolve(heard**2, np.ones(n, np.float32), mode="valid")
        scores /= np.sqrt(np.maximum(power, 1e-6) * np.sum(piece**2))
        at = int(np.argmax(scores))
        found.append(float(scores[at]))
        lags.append((at - start) / rate)
    return found, lags


def loop(wav: str) -> None:
    """Speech out of the loudspeaker, and into the microphone."""
    say(devices=[device.as_dict() for device in list_audio_devices()])
    recorder = Recorder()
    with Microphone(on_block=recorder) as microphone, Speaker() as speaker:
        wait(lambda: len(recorder.blocks) > 10, "the microphone gives nothing")
        start = len(recorder.blocks)
        speech = load_audio(wav, 24000)
        speaker.write(speech, last=True)
        say(drained=speaker.drain(PATIENCE), played=speaker.played_seconds, written=len(speech) / 24000)
        time.sleep(1)
        heard = np.concatenate(recorder.blocks[start:])
        scores, lags = similarity(load_audio(wav, 16000), heard)
        say(
            scores=scores,
            lags=lags,
            steps=np.diff(recorder.times).tolist(),
            overflows=microphone.overflows,
            underruns=speaker.device_underruns,
            restarts=microphone.restarts + speaker.restarts,
        )


def flush() -> None:
    """How long sound goes on after it was flushed; more than one attempt, as the machine may be busy."""
    recorder = Recorder()
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(24000 * 20) / 24000).astype(np.float32)
    with Microphone(on_block=recorder), Speaker() as speaker:
        for _ in range(8):
            wait(recorder.is_quiet, "it does not become quiet")
            speaker.write(tone)
            wait(recorder.is_loud, "nothing is heard")
            flushed = time.monotonic()
            dropped = speaker.flush()
            wait(recorder.is_quiet, "it goes on after a flush")
            last = max(at for at, block in zip(recorder.times, recorder.blocks, strict=False) if block.any())
            say(seconds=last + 0.02 - flushed, dropped=dropped)
            if last + 0.02 - flushed < 0.25:
                break


def loss() -> None:
    """The sound server goes away and comes back; standard input says when to go on."""
    recorder = Recorder()
    lines = threading.Semaphore(0)
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(24000 * 60) / 24000).astype(np.float32)
    microphone = Microphone(on_block=recorder, on_status=lambda status, _: say(microphone=status))
    speaker = Speaker(on_status=lambda status, _: say(speaker=status))

    def read() -> None:
        for _ in sys.stdin:
            lines.release()

    threading.Thread(target=read, daemon=True).start()
    with microphone, speaker:
        speaker.write(tone)
        wait(recorder.is_loud, "nothing is heard")
        say(event="loud")
        wait(lambda: microphone.status == speaker.status == "lost", "the loss is not noticed")
        before = len(recorder.blocks)
        wait(lambda: len(recorder.blocks) > before + 100, "there is no silence while it is lost")
        say(event="lost", silent=recorder.is_quiet())
        lines.acquire(timeout=PATIENCE)
        speaker.flush()
        wait(lambda: microphone.status == speaker.status == "ok", "the return is not noticed")
        speaker.write(tone)
        wait(recorder.is_loud, "nothing is heard after the return")
        say(event="loud again")


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    {"loop": loop, "flush": flush, "loss": loss}[name](*arguments)
