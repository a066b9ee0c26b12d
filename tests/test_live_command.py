"""`python -m omni.live` as a process, on the tiny model: files, exit codes, being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from videos import make_video

from omni.audio_io import save_wav

COMMAND = [sys.executable, "-m", "omni.live"]
# Greedy: the same on every machine, but for the rounding of its processor.
QUIET = ["-t", "1", "--temp", "0", "-c", "2048", "--kv-type", "f32"]


def environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OMNI_")}
    return kept | {"PYTHONUNBUFFERED": "1"} | extra


def live(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env=environment(**extra),
        check=False,
    )


@pytest.fixture
def question(golden: Path) -> Path:
    return golden / "inputs" / "w0.wav"  # 2.37 s


@pytest.fixture
def voice(golden: Path) -> list[str]:
    return ["--ref-audio", str(golden / "inputs" / "ref.wav")]


def check_events(lines: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in lines.splitlines()]
    assert events[0]["type"] == "start"
    assert events[-1]["type"] == "end"
    for event in events[1:-1]:
        if event["type"] == "notice":
            assert event["text"]
            continue
        assert event["type"] in {"state", "text", "audio", "turn_end", "unit", "degraded", "input_dropped"}
        assert isinstance(event["unit"], int)
        assert isinstance(event["epoch"], int)
        assert event["time"] >= 0
        if event["type"] == "audio":
            assert event["samples"] > 0
            assert event["at"] >= event["unit"] + 1
    return events


def test_a_file_as_fast_as_it_goes(
    tiny_model_dir: Path, question: Path, voice: list[str], tmp_path: Path
) -> None:
    reply, record = tmp_path / "答复 é.wav", tmp_path / "rec"
    asked = tmp_path / "问题.wav"
    asked.write_bytes(question.read_bytes())
    run = live(
        "-m", tiny_model_dir, *QUIET, *voice, "--input", asked, "--output", reply, "--fast", "--json",
        "--record", record, "--record-video",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    first = run.stderr.splitlines()[0]
    for part in ("MiniCPM-o-4_5-F32.gguf", "F32", "MB", "CPU (1 thread)", asked.name, reply.name):
        assert part in first
    events = check_events(run.stdout)
    assert events[-1]["complete"]
    units = [event for event in events if event["type"] == "unit"]
    assert [event["unit"] for event in units] == list(range(len(units)))
    assert 5 <= len(units) <= 13  # 2.37 s fill three seconds; two to ten of silence
    if len(units) < 13:
        assert [event["is_listen"] for event in units[-2:]] == [True, True]
    samples, rate = soundfile.read(reply)
    assert rate == 24000
    said = sum(event["samples"] for event in events if event["type"] == "audio")
    assert np.count_nonzero(samples) <= said
    for event in events:
        if event["type"] == "audio":
            first_sample = round(event["at"] * 24000)
            assert np.any(samples[first_sample : first_sample + event["samples"]])
    assert len(samples) >= len(units) * 24000
    both, rate = soundfile.read(record / "conversation.wav")
    assert (rate, both.shape) == (24000, (len(samples), 2))
    np.testing.assert_array_equal(both[:, 1], samples)
    assert np.abs(both[:48000, 0]).max() > 0.01
    timeline = check_events((record / "timeline.jsonl").read_text(encoding="utf-8"))
    assert [e["type"] for e in timeline] == [e["type"] for e in events]
    assert (record / "conversation.mp4").stat().st_size > 1000
    again = live("-m", tiny_model_dir, *QUIET, *voice, "--input", asked, "--fast", "--record", record)
    assert again.returncode == 2
    assert "another directory" in again.stderr


def test_a_file_at_its_own_pace(
    tiny_model_dir: Path, question: Path, voice: list[str], tmp_path: Path
) -> None:
    reply = tmp_path / "reply.wav"
    start = time.monotonic()
    run = live(
        "-m", tiny_model_dir, *QUIET, *voice, "--input", question, "--output", reply, "--json",
        "--no-warmup", "--steps", "1",
    )  # fmt: skip
    taken = time.monotonic() - start
    assert run.returncode == 0, run.stderr
    units = [event for event in check_events(run.stdout) if event["type"] == "unit"]
    assert taken >= len(units) - 0.1
    with wave.open(str(reply)) as file:
        assert file.getnframes() / 24000 >= len(units) - 0.1


def test_a_video_and_text_only(tiny_model_dir: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mkv", 15, 10, sound_seconds=1.5, size=(64, 64))
    run = live("-m", tiny_model_dir, *QUIET, "--video", video, "--no-tts", "--fast", "-v", "--max-speak", "4")
    assert run.returncode == 0, run.stderr
    assert "with vision, audio" in run.stderr.splitlines()[0]
    assert "unit 0: " in run.stderr
    assert "s heard" in run.stderr.splitlines()[-1]
    assert run.stdout == ""


def test_a_file_with_a_camera_keeps_its_pace(
    tiny_model_dir: Path, question: Path, voice: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    camera = make_video(tmp_path / "camera.mkv", 60, 10, size=(64, 64), codec="mpeg4")
    start = time.monotonic()
    run = live(
        "-m", tiny_model_dir, *QUIET, *voice, "--input", question, "--camera", camera, "--json",
        "--output", tmp_path / "reply.wav", "--no-warmup", "--steps", "1",
    )  # fmt: skip
    taken = time.monotonic() - start
    assert run.returncode == 0, run.stderr
    events = check_events(run.stdout)
    units = [event for event in events if event["type"] == "unit"]
    assert taken >= len(units) - 0.1
    assert "with vision, audio" in events[0]["model"]
    seen = units[1]["cache_length"] - units[0]["cache_length"]
    assert seen > 60 or not units[1]["is_listen"]  # 13 rows without a picture, 79 with one


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "{question}", "--fast"], 2, "which model"),
        (["-m", "{model}", "--input", "{none}", "--fast"], 1, "none.wav"),
        (["-m", "{model}", "--input", "{empty}", "--fast"], 1, "empty.wav is empty"),
        (["-m", "{model}", "--input", "{model}", "--fast"], 1, "can't read"),
        (["-m", "{model}", "--video", "{question}", "--fast"], 1, "holds no pictures"),
        (["-m", "{none}", "--input", "{question}", "--fast"], 1, "none.wav"),
        (["-m", "{model}", "--fast"], 2, "--fast reads a file"),
        (["-m", "{model}", "--input", "{question}", "--video", "x.mp4"], 2, "exclude each other"),
        (["-m", "{model}", "--input", "{question}", "--record-video"], 2, "--record DIR"),
        (["-m", "{model}", "--input", "{question}", "--output", "r.wav", "--no-tts"], 2, "--no-tts"),
        (["-m", "{model}", "--input", "{question}", "--fast", "--output", "no/r.wav"], 1, "directory"),
        (["-m", "{model}", "--input", "{question}", "--fast", "--preset", "nobody"], 2, "watcher-en"),
        (["-m", "{model}", "--input", "{question}", "--fast", "--voice", "{empty}"], 1, "empty.wav"),
        (["-m", "{model}", "--input", "{question}", "--fast"], 2, "no voice to speak with"),
        (["--aec", "perhaps"], 2, "--aec"),
        (["--force-listen", "-1"], 2, "--force-listen"),
    ],
)
def test_errors(
    tiny_model_dir: Path, question: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    names = {"model": tiny_model_dir, "question": question, "none": tmp_path / "none.wav", "empty": empty}
    run = live(*[text.format(**names) for text in arguments], "-t", "1")
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_what_fails_early_leaves_files_alone(tiny_model_dir: Path, question: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    reply.write_bytes(b"an older answer")
    run = live("-m", tiny_model_dir, "-t", "1", "--input", question, "--fast", "--output", reply)
    assert run.returncode == 2
    assert "no voice to speak with" in run.stderr
    assert reply.read_bytes() == b"an older answer"


def test_lists() -> None:
    run = live("--list-presets")
    assert (run.returncode, run.stderr) == (0, "")
    assert "watcher-zh" in run.stdout
    names = [json.loads(line)["name"] for line in live("--list-presets", "--json").stdout.splitlines()]
    assert "assistant-en" in names


def test_a_missing_package_is_named(tiny_model_dir: Path, question: Path, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('not here')")
    run = live(
        "-m", tiny_model_dir, "--input", question, "--fast", "--preset", "assistant-en",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]),
    )  # fmt: skip
    assert run.returncode == 1
    assert "omni[cli]" in run.stderr


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@pytest.fixture
def running(tiny_model_dir: Path, voice: list[str], tmp_path: Path) -> Any:
    """A conversation at real-time pace that has just answered its second second."""
    asked = tmp_path / "long.wav"
    save_wav(asked, np.random.default_rng(0).uniform(-0.3, 0.3, 60 * 16000).astype(np.float32), 16000)
    process = start(
        "-m", tiny_model_dir, *QUIET, *voice, "--input", asked, "--output", tmp_path / "reply.wav", "--json",
        "--record", tmp_path / "rec", "--record-video", "--no-warmup", "--steps", "1",
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["type"] == "unit" and event["unit"] >= 2:
            break
    yield process
    process.kill()
    process.wait()


def check_files(directory: Path) -> None:
    reply, rate = soundfile.read(directory / "reply.wav")
    both, _ = soundfile.read(directory / "rec" / "conversation.wav")
    assert rate == 24000
    assert len(reply) >= 2 * rate
    assert both.shape[0] >= 2 * rate
    assert abs(len(both) - len(reply)) <= rate
    lines = (directory / "rec" / "timeline.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["type"] == "start"
    assert any(json.loads(line)["type"] == "unit" for line in lines)
    import av

    with av.open(str(directory / "rec" / "conversation.mp4")) as container:
        assert len(list(container.decode(video=0))) >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_it_leaves_recordings_that_can_be_played(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    running.kill()
    running.wait()
    check_files(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_it_quietly(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None
    assert running.stdout is not None
    assert running.wait(timeout=30) == 130
    errors = running.stderr.read()
    assert "Traceback" not in errors
    assert "s heard" in errors
    assert json.loads(running.stdout.read().splitlines()[-1]) == {"type": "end", "complete": False}
    check_files(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
def test_a_terminal_has_a_picture_and_keys(
    tiny_model_dir: Path, voice: list[str], golden: Path, tmp_path: Path
) -> None:
    import pty
    import select

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [
            *COMMAND, "-m", str(tiny_model_dir), *QUIET, *voice, "--no-warmup", "--steps", "1",
            "--input", str(golden / "inputs" / "long.wav"), "--output", str(tmp_path / "reply.wav"),
        ],
        stdin=slave, stderr=slave, stdout=subprocess.DEVNULL, env=environment(TERM="xterm"),
    )  # fmt: skip
    os.close(slave)
    shown, sent, deadline = b"", False, time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(master, 4096)
            except OSError:  # the program has closed its side
                break
            if not data:
                break
            shown += data
            if not sent and b"of 1000 ms" in shown:
                os.write(master, b" q")  # interrupt, and leave
                sent = True
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(master)
    assert b"interrupt" in shown
    assert b"listening" in shown
