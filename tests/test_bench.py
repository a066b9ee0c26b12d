"""`python -m omni.bench`: rows, shares and bad arguments. Times themselves are not judged."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omni import AudioEncoder, SpeechModel, Token2Wav, VisionEncoder, _ext
from omni.bench import Work, audio, measure, spoken, table, unit, vision
from omni.model_files import find_model_files


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


@pytest.mark.parametrize("source", ["synthetic", "file"])
@pytest.mark.parametrize(
    ("stage", "names", "seconds"),
    [
        (
            "audio",
            [
                "clip of 1 s",
                "clip of 10 s",
                "clip of 30 s",
                "1 s after 0 s",
                "1 s after 10 s",
                "1 s after 28 s",
            ],
            [1, 10, 30, 1, 1, 1],
        ),
        ("speech", ["1 s, 0 text", "1 s, 5 text", "1 s, 18 text"], [1, 1, 1]),
    ],
)
def test_rows_of_sound(
    stage: str, names: list[str], seconds: list[int], source: str, tiny_model_dir: Path
) -> None:
    arguments = ["-m", str(tiny_model_dir)]
    if source == "synthetic":
        arguments = ["--synthetic", "minicpm-o-4.5", "--layers", "1", "--weight-format", "stored"]
    result = bench(stage, *arguments, "--threads", "1", "--repeats", "1", "--seconds", "0.1", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["what"] for row in rows] == names
    for row, length in zip(rows, seconds, strict=True):
        assert row["stage"] == stage
        assert row["gflops"] > 0
        assert row["gbytes"] > 0
        assert row["real_time_factor"] == pytest.approx(row["ms"] / 1e3 / length)
        assert row["items_per_second"] == pytest.approx(1 / row["real_time_factor"])


def test_audio_operations() -> None:
    """Counted by hand for a second of a stream at the published sizes: 31.6 * 10^9."""
    info = AudioEncoder.synthetic(layers=1).info
    layer = 50 * (8 * 1024**2 + 4 * 50 * 1024 + 4 * 1024 * 4096)
    # Two convolutions over three frames each, the first at 100 frames a second; two projections,
    # the second of 10 averages.
    others = 100 * 2 * 3 * 80 * 1024 + 50 * 2 * 3 * 1024**2 + 50 * 2 * 1024 * 4096 + 10 * 2 * 4096**2
    assert audio.operations(info, 50, 50) == layer + others
    assert 24 * layer + others == pytest.approx(31.564e9, rel=1e-4)


def test_token2wav_rows(tiny_model_dir: Path) -> None:
    arguments = ("-m", str(tiny_model_dir), "--threads", "1", "--repeats", "1", "--seconds", "0.1")
    result = bench("token2wav", *arguments, "--weight-format", "stored", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["what"] for row in rows] == ["1 s, 10 steps", "1 s, 5 steps", "1 s, vocoder"]
    for row in rows:
        assert row["gflops"] > 0
        assert row["gbytes"] > 0
        assert row["real_time_factor"] == pytest.approx(row["ms"] / 1e3)


def test_rows_of_speaking(tiny_model_dir: Path) -> None:
    """Both networks together, and how long the first sound takes, which is no factor of real time."""
    arguments = ("-m", str(tiny_model_dir), "--threads", "1", "--repeats", "1", "--seconds", "0.1")
    result = bench("spoken", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["what"] for row in rows] == [
        "1 s, 10 steps", "first sound, 10", "1 s, 5 steps", "first sound, 5"
    ]  # fmt: skip
    for row in rows:
        assert row["gflops"] > 0
        assert (row["real_time_factor"] is None) == row["what"].startswith("first")


def test_first_sound_is_heard(tiny_model_dir: Path) -> None:
    """What is timed ends with samples, and every run starts from silence."""
    files = find_model_files(tiny_model_dir)
    assert files.tts is not None
    speech = SpeechModel(files.tts, files.projector, n_threads=1)
    token2wav = Token2Wav(tiny_model_dir, n_threads=1)
    second, first, *_ = spoken.works(speech, token2wav, _ext.measure_peaks(1, 0.02))
    for work in (second, first):
        assert work.prepare is not None
        for _ in range(2):
            work.prepare()
            assert work.run()


def test_token2wav_costs(tiny_model_dir: Path) -> None:
    """Each step of the flow costs the same, each past frame too; the vocoder takes what its sound takes."""
    model = Token2Wav(tiny_model_dir, n_threads=1)

    def flow(steps: int, past: int) -> float:
        return model.flow_cost(steps, past).operations

    encoder = 2 * flow(5, 100) - flow(10, 100)
    assert 0 < encoder < flow(1, 100)
    assert flow(3, 100) == pytest.approx(encoder + 3 * (flow(1, 100) - encoder))
    assert flow(10, 300) - flow(10, 200) == pytest.approx(flow(10, 200) - flow(10, 100))
    assert model.vocoder_cost(100).operations == pytest.approx(2 * model.vocoder_cost(50).operations)
    assert model.vocoder_cost(100).bytes == model.vocoder_cost(50).bytes > 0


def test_parts_that_are_absent_are_left_out(tiny_model_dir: Path, tmp_path: Path) -> None:
    (llm,) = tiny_model_dir.glob("*.gguf")
    (tmp_path / llm.name).symlink_to(llm)
    short = ("-m", str(tmp_path), "-c", "64", "--threads", "1", "--repeats", "1", "--seconds", "0.01")
    result = bench(*short, "--json")
    assert result.returncode == 0, result.stderr
    assert {row["stage"] for row in json.loads(result.stdout)["rows"]} == {"llm"}
    assert "audio: left out" in result.stderr
    asked = bench("audio", *short)
    assert asked.returncode != 0
    assert "no audio file" in asked.stderr


def test_table_has_a_column_for_each_figure() -> None:
    peaks = _ext.measure_peaks(1, 0.02)
    of_tokens = Work("llm", "y", lambda: time.sleep(0.01), items=2, operations=1, bytes=1, peak=1)
    of_sound = dataclasses.replace(of_tokens, stage="audio", sound=True)
    head, *lines = table([measure(work, peaks, repeats=1, seconds=1) for work in (of_sound, of_tokens)])
    assert [len(line) for line in lines] == [len(head)] * 2
    column = slice(head.index("RTF") - 4, head.index("RTF") + 3)
    assert float(lines[0][column]) >= 0
    assert lines[1][column].strip() == ""


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


def test_units(tiny_model_dir: Path) -> None:
    arguments = ["-m", str(tiny_model_dir), "-t", "1", "--repeats", "1", "--seconds", "0.1", "--past", "7"]
    result = bench("unit", *arguments, "--flow-steps", "2", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["rows"] == []
    rows = {row["unit"]: row for row in report["units"]}
    assert list(rows) == ["listen", "listen, frame", "speak", "speak, frame"]
    stages = ("hear", "see", "prompt", "answer", "speech", "sound")
    for name, row in rows.items():
        assert row["total"] == pytest.approx(sum(row[stage] for stage in stages))
        assert row["share"] == pytest.approx(row["total"] / 1000)
        assert (row["see"] > 0) == ("frame" in name)
        assert (row["speech"] > 0) == (row["sound"] > 0) == ("speak" in name)
        assert min(row["hear"], row["prompt"], row["answer"]) > 0
    lines = list(unit.unit_table([unit.UnitRow("listen", 1, 0, 2, 3, 0, 0)]))
    assert lines[1].split() == ["listen", "1.0", "2.0", "3.0", "6.0", "1%"]


class CountingModel:
    """A language model whose time is a row's for each layer, and 100 for the output matrix."""

    class Info:
        n_layers, n_vocab = 4, 50

    info = Info()

    def __init__(self) -> None:
        self.time = 0
        self.calls: list[tuple[int, str]] = []

    def new_cache(self) -> CountingModel:
        return self

    def truncate(self, past: int) -> None:
        self.calls.clear()

    def forward(self, ids: list[int], cache: object, logits: str, hidden: str) -> None:
        self.calls.append((len(ids), logits))
        self.time += len(ids) * self.info.n_layers + 100 * (logits == "last")


def test_units_of_fewer_layers_are_scaled_up() -> None:
    model = CountingModel()

    def take(run: Callable[[], object], prepare: Callable[[], object] | None) -> float:
        assert prepare is not None
        prepare()
        before = model.time
        run()
        return model.time - before

    whole, scaled = (unit.LanguageModelTimes(model, take, 0, layers) for layers in (None, 36))  # type: ignore[arg-type]
    assert whole.answer(6) == 7 * (4 + 100) + 2 * 4
    # As many calls as a session makes: the token that begins to speak, six more, and two that close the unit.
    assert model.calls == [(1, "last")] * 7 + [(2, "none")]
    assert whole.answer(0) == 2 * 4
    assert scaled.prompt(11) == 11 * 36 + 100
    assert scaled.answer(6) == 7 * (36 + 100) + 2 * 36
