"""`omni.bench live`: the times of a conversation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import omni
from omni.bench.live import LiveReport, Meter, Quantiles, end_of_speech, sample_sound

HEARD, RATE = 16000, 24000


def sound_event(unit: int, seconds: float, *, first: bool = False) -> omni.AudioEvent:
    return omni.AudioEvent(
        unit=unit, epoch=0, time=0.0, samples=np.zeros(int(seconds * RATE), np.float32), sample_rate=RATE,
        first=first, last=False,
    )  # fmt: skip


def test_the_end_of_speech() -> None:
    sound = np.concatenate([sample_sound(1.0), np.zeros(HEARD, np.float32)])
    assert end_of_speech(sound) == pytest.approx(1.0, abs=0.03)
    quiet = np.full(HEARD, 1e-4, np.float32)
    assert end_of_speech(np.concatenate([sound, quiet])) == pytest.approx(1.0, abs=0.03)
    assert end_of_speech(np.zeros(HEARD, np.float32)) == 1.0


def test_quantiles() -> None:
    assert Quantiles.of([]) is None
    found = Quantiles.of([float(i) for i in range(101)])
    assert found == Quantiles(101, 50.0, 95.0, 99.0, 100.0)


def test_times_of_a_turn() -> None:
    now = [0.0]
    meter = Meter(1.25, now=lambda: now[0])
    for block in range(20):  # speech ends at 1.25 s, in the block that comes at 1.3 s
        now[0] = (block + 1) / 10
        meter.heard(np.zeros(HEARD // 10, np.float32), None)
    now[0] = 2.3
    meter.event(sound_event(1, 0.5, first=True), None)
    now[0] = 2.7
    meter.event(sound_event(1, 0.5), None)  # in time: it plays until 3.3
    now[0] = 3.5
    meter.event(sound_event(2, 0.5), None)
    assert meter.from_boundary == pytest.approx([300])
    assert meter.from_speech == pytest.approx([1050])
    assert meter.gaps == pytest.approx([200])
    meter.ask()
    now[0] = 3.52
    meter.flush()
    meter.flush()
    assert meter.stops == pytest.approx([20])
    now[0] = 9.0
    meter.event(sound_event(8, 0.5, first=True), None)  # a pause between turns is no gap
    assert len(meter.gaps) == 1


def test_a_report_for_people() -> None:
    report = LiveReport("tiny", 10, units=Quantiles.of([100.0, 200.0]), notes=["noise was heard"])
    text = "\n".join(report.lines())
    assert "tiny; 10 flow steps" in text
    assert "p50 150.0" in text
    assert "noise was heard" in text
    assert json.loads(json.dumps(report.as_dict()))["units"]["count"] == 2


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omni.bench", "live", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_on_a_model(tiny_model_dir: Path, golden: Path) -> None:
    run = bench(
        "-m", tiny_model_dir, "-t", "1", "--ref-audio", golden / "inputs" / "ref.wav", "--flow-steps", "1",
        "--input", golden / "inputs" / "w0.wav", "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["machine"]["processor"]
    live = report["live"]
    assert live["steps"] == 1
    assert live["units"]["count"] >= 5
    assert live["context"] > 0
    assert "F32" in live["model"]


def test_usage(tiny_model_dir: Path) -> None:
    for arguments in (["--synthetic", "minicpm-o-4.5"], ["llm", "-m", str(tiny_model_dir)]):
        run = bench(*arguments)
        assert run.returncode == 2
        assert "measured alone" in run.stderr
