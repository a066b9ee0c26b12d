"""A PulseAudio of a test's own: a null sink is the loudspeaker, and what it plays is the microphone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

RATE = 44100


def missing() -> str | None:
    """Why no sound server can be started here; None: it can."""
    for program in ("pulseaudio", "pactl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


class Pulse:
    """A server in a directory. It is the default device of programs run with `environment`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "native"
        self.environment = {
            **os.environ,
            "HOME": str(directory),
            "PULSE_RUNTIME_PATH": str(directory / "run"),
            "PULSE_STATE_PATH": str(directory / "state"),
            "PULSE_SERVER": f"unix:{self.socket}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with its log if it does not."""
        self.socket.unlink(missing_ok=True)
        modules = (
            f"module-native-protocol-unix socket={self.socket} auth-anonymous=1",
            f"module-null-sink sink_name=room rate={RATE} channels=2",
        )
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        with (self.directory / "pulseaudio.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--disable-shm=yes", *(f"--load={module}" for module in modules)],
                env={name: text for name, text in self.environment.items() if name != "PULSE_SERVER"},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            asked = subprocess.run(["pactl", "info"], env=self.environment, capture_output=True, check=False)
            if asked.returncode == 0:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.kill()
        raise RuntimeError((self.directory / "pulseaudio.log").read_text(errors="replace"))

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Pulse:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
