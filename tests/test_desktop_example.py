"""The desktop example: it compiles everywhere, and runs without a screen where PySide6 is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni.audio_io import save_wav

EXAMPLE = Path(__file__).parents[1] / "examples" / "desktop" / "window.py"


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    probe = [sys.executable, "-c", "import PySide6.QtWidgets"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("PySide6 is not installed")
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_it_compiles() -> None:
    compile(EXAMPLE.read_text(encoding="utf-8"), str(EXAMPLE), "exec")


def test_a_conversation_with_a_file(tiny_model_dir: Path, golden: Path) -> None:
    inputs = golden / "inputs"
    voice, question = inputs / "ref.wav", inputs / "w0.wav"
    done = run(EXAMPLE, tiny_model_dir, "--threads", 1, "--ref-audio", voice, "--input", question)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_ends_it(tmp_path: Path) -> None:
    done = run(EXAMPLE, tmp_path / "none", "--input", "none.wav")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


WHAT_IT_SHOWS = """
import sys, importlib.util, omni
from omni import _ext
from PySide6.QtWidgets import QApplication
spec = importlib.util.spec_from_file_location("window", sys.argv[1])
window = importlib.util.module_from_spec(spec)
spec.loader.exec_module(window)
script = [(False, "", False), (True, "Hello", False), (True, " there.", True), (True, "More", True)]

def make(on_event):
    stages = _ext.scripted_duplex_stages(script, samples_per_unit=100)
    return omni.DuplexSession._over(stages, on_event, real_time=True)

application = QApplication([])
shown = window.Window(window.Talk(make, sys.argv[2]), close_at_end=True)
shown.button.click()
code = application.exec()
print(shown.subtitles.toPlainText().replace(chr(10), "|"), shown.state.text(), shown.button.text(), sep="; ")
sys.exit(code)
"""


def test_what_it_shows(tmp_path: Path) -> None:
    save_wav(tmp_path / "a.wav", np.zeros(4 * 16000, np.float32), 16000)
    done = run("-c", WHAT_IT_SHOWS, EXAMPLE, tmp_path / "a.wav")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Hello there.|More; ended; Start"
