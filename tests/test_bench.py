"""`python -m omni.bench`: rows, shares and bad arguments. Times themselves are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from omni import VisionEncoder, _ext
from omni.bench import Work, measure, vision


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omni.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("source", ["synthetic", "file"])
def test_rows(source: str, tiny_model_dir: Path) -> None:
    if source == "synthetic":
        arguments = ["--synthetic", "minicpm-o-4.5", "--llm", "Q4_0", "--layers", "1"]
    else:
        arguments = ["-m", str(tiny_model_dir)]
    result = bench("llm", *arguments, "-c", "1024", "--repeats", "1", "--seconds", "0.2", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["machine"]["peaks"]["memory_read"] > 0
    rows = {row["what"]: row for row in report["rows"]}
    assert list(rows) == ["prefill 1", "prefill 16", "prefill 64", "prefill 128", "prefill 512", "decode"]
    for row in rows.values():
        assert row["ms"] >= row["ms_min"] > 0
        assert row["gflops"] > 0
        assert row["gbytes"] > 0


@pytest.mark.parametrize("source", ["synthetic", "file"])
def test_rows_of_speech(source: str, tiny_model_dir: Path) -> None:
    model = ["-m", str(tiny_model_dir)]
    if source == "synthetic":
        model = ["--synthetic", "minicpm-o-4.5", "--layers", "1"]
    result = bench("speech", *model, "--threads", "1", "--repeats", "1", "--seconds", "0.2", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["what"] for row in rows] == ["1 s, 0 text", "1 s, 5 text", "1 s, 18 text"]
    for row in rows:
        assert row["items_per_second"] == pytest.approx(1000 / row["ms"])  # seconds of sound


@pytest.mark.parametrize("source", ["synthetic", "file"])
def test_vision_rows(source: str, tiny_model_dir: Path) -> None:
    arguments = ["-m", str(tiny_model_dir)]
    if source == "synthetic":
        arguments = ["--synthetic", "minicpm-o-4.5", "--layers", "1", "--weight-format", "stored"]
    result = bench("vision", *arguments, "--threads", "1", "--repeats", "1", "--seconds", "0.1", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["what"] for row in rows] == ["448x448 (1)", "1344x896 (7)"]
    for row in rows:
        assert row["gflops"] > 0
        assert row["items_per_second"] == pytest.approx(1e3 / row["ms"])


def test_vision_operations() -> None:
    """Counted by hand for one slice of 1024 patches at the published sizes: 1.06 * 10^12."""
    info = VisionEncoder.synthetic(layers=1).info
    one = vision.operations(info, 1024)
    layer = 8 * 1024 * 1152**2 + 4 * 1024**2 * 1152 + 4 * 1024 * 1152 * 4304
    assert one + 26 * layer == pytest.approx(1057.5e9, rel=1e-3)


def test_figures_follow_from_the_work() -> None:
    peaks = _ext.measure_peaks(1, 0.02)
    ticks = iter(range(100))
    work = Work("llm", "x", lambda: next(ticks), items=4, operations=2e9, bytes=1e9, peak=100.0)
    row = measure(work, peaks, repeats=3, seconds=10)
    seconds = row.ms / 1e3
    assert row.items_per_second == pytest.approx(4 / seconds)
    assert row.gflops == pytest.approx(2 / seconds)
    assert row.arithmetic_share == pytest.approx(2 / seconds / 100)
    assert row.memory_share == pytest.approx(1 / seconds / peaks.memory_read)
    assert next(ticks) == 4  # one run to warm up, three that count


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give a model"),
        (["nothing", "--synthetic", "minicpm-o-4.5"], "no stage"),
        (["--synthetic", "gpt-2"], "invalid choice"),
        (["--synthetic", "minicpm-o-4.5", "--llm", "Q1", "--layers", "1"], "Q1"),
    ],
)
def test_wrong_usage(arguments: list[str], reason: str) -> None:
    result = bench(*arguments)
    assert result.returncode == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
