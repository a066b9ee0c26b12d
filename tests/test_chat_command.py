"""`python -m omni.chat` as a process: output, errors, exit codes, the dialogue."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from videos import make_video

pty = pytest.importorskip("pty")  # a dialogue needs a terminal
COMMAND = [sys.executable, "-m", "omni.chat"]
# Greedy and without a penalty, the tiny model's answer to "hello" never ends.
ENDLESS = ["-t", "1", "--temp", "0", "--repeat-penalty", "1", "-n", "100000", "-c", "30000"]
SHORT = ["-t", "1", "--temp", "0", "-n", "6", "-c", "256", "--kv-type", "f32"]


def environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OMNI_")}
    return kept | extra


def chat(
    *arguments: str | Path, stdin: str = "", timeout: float = 60, **extra: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**extra),
        check=False,
    )


def test_one_question(tiny_model_dir: Path) -> None:
    run = chat("-m", tiny_model_dir, *SHORT, "-p", "hello")
    assert run.returncode == 0
    assert run.stdout.endswith("\n")
    assert len(run.stdout) > 1
    [first] = run.stderr.splitlines()
    for part in ("MiniCPM-o-4_5-F32.gguf", "F32", "MB", "CPU (1 thread)", "context 256"):
        assert part in first


def test_json(tiny_model_dir: Path) -> None:
    plain = chat("-m", tiny_model_dir, *SHORT, "-p", "hello").stdout
    run = chat("-m", tiny_model_dir, *SHORT, "-p", "hello", "--json")
    answer = json.loads(run.stdout)
    assert answer["answer"] + "\n" == plain
    assert answer["finish"] in ("stop", "length")
    assert 1 <= answer["tokens"] <= 6
    assert answer["prompt_tokens"] > 10


def test_question_from_standard_input_and_options_from_the_environment(tiny_model_dir: Path) -> None:
    asked = chat("-m", tiny_model_dir, *SHORT, "-p", "two\nlines").stdout
    variables = {"OMNI_TEMP": "0", "OMNI_N_PREDICT": "6", "OMNI_CTX_SIZE": "256", "OMNI_KV_TYPE": "f32"}
    run = chat(stdin="two\nlines\n", OMNI_MODEL=str(tiny_model_dir), **variables)
    assert (run.returncode, run.stdout) == (0, asked)


def test_system_prompt_and_verbosity(tiny_model_dir: Path) -> None:
    llm = next(tiny_model_dir.glob("*.gguf"))
    run = chat("-m", llm, *SHORT, "-sys", "Be brief.", "-p", "hello", "--json", "-v")
    plain = chat("-m", llm, *SHORT, "-p", "hello", "--json")
    assert json.loads(run.stdout)["prompt_tokens"] > json.loads(plain.stdout)["prompt_tokens"]
    assert "answer: " in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "hello"], "give -m"),
        (["--wrong"], "--wrong"),
        (["-m", "{model}", "--temp", "hot"], "'hot' is not a number"),
        (["-m", "{model}", "-p", ""], "question is empty"),
        (["-m", "{model}", "-p", "word " * 400, "-c", "64"], "max_inp_length = 64"),
        (["-m", "{model}", "-dev", "gpu", "-ngl", "0", "-p", "x"], "give one"),
    ],
)
def test_usage_errors(tiny_model_dir: Path, arguments: list[str], message: str) -> None:
    run = chat(*[text.format(model=tiny_model_dir) for text in arguments])
    assert run.returncode == 2
    assert run.stdout == ""
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.fixture
def damaged(tiny_model_dir: Path, tmp_path: Path) -> dict[str, Path]:
    llm = next(tiny_model_dir.glob("*.gguf")).read_bytes()
    files = {"cut": llm[: len(llm) // 2], "rubbish": b"GGUF" + bytes(range(256)), "empty": b""}
    for name, data in files.items():
        (tmp_path / f"{name}.gguf").write_bytes(data)
    return {name: tmp_path / f"{name}.gguf" for name in files}


@pytest.mark.parametrize("name", ["cut", "rubbish", "empty"])
def test_damaged_models(damaged: dict[str, Path], name: str) -> None:
    run = chat("-m", damaged[name], "-p", "hello")
    assert (run.returncode, run.stdout) == (1, "")
    [line] = run.stderr.splitlines()
    assert line.startswith("python -m omni.chat: ")
    assert damaged[name].name in line
    traced = chat("-m", damaged[name], "-p", "hello", "-v")
    assert traced.returncode == 1
    assert "Traceback" in traced.stderr


def test_missing_and_wrong_models(tiny_model_dir: Path, tmp_path: Path) -> None:
    for model in (
        tmp_path / "nothing",
        tmp_path,
        tiny_model_dir / "vision" / "MiniCPM-o-4_5-vision-F16.gguf",
    ):
        run = chat("-m", model, "-p", "hello")
        assert run.returncode == 1, model
        [line] = run.stderr.splitlines()
        assert str(model) in line


def test_unreadable_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = chat("-m", tiny_model_dir, *SHORT, "--image", tmp_path / "nothing.png", "-p", "what is this")
    assert run.returncode == 1
    assert "nothing.png" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_reader_that_goes_away(tiny_model_dir: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "-m", str(tiny_model_dir), *ENDLESS, "-p", "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert len(process.stderr.read().splitlines()) == 1  # the line about the model
    assert process.wait(30) == 1


def test_pictures_sound_and_video(tiny_model_dir: Path, golden: Path, tmp_path: Path) -> None:
    inputs, video = golden / "inputs", make_video(tmp_path / "v.mkv", 20, 10, sound_seconds=2)
    files = ["--image", inputs / "small.png", "--image", inputs / "wide.png", "--audio", inputs / "w0.wav"]
    options = ["-m", tiny_model_dir, *SHORT, "-c", "2000", "--json", "-p", "what is this"]
    counts = [
        json.loads(chat(*options, *more).stdout)["prompt_tokens"]
        for more in (
            [],
            files[:2],
            files[:4],
            files,
            ["--video", video],
            ["--video", video, "--stack-frames", "2"],
        )
    ]
    text, image, images, audio, moving, stacked = counts
    # 64 rows, <image>, its end, an id of 3 tokens and a line break
    assert image - text == 70
    assert images - image > 70  # the wide one has slices
    assert audio - images == 23 + 3 + 1  # and <|tts_bos|>
    assert moving - text == 2 * (66 + 1 + 12 + 1) + 1
    assert stacked - moving == 2 * 67


def test_files_in_a_dialogue(tiny_model_dir: Path, golden: Path) -> None:
    terminal = Terminal("-m", tiny_model_dir, *SHORT, "-c", "1000", "-v")
    terminal.until("> ")
    terminal.type("/image nothing.png\n")
    terminal.until("nothing.png can't be read")
    terminal.until("> ")
    terminal.type(f"/image {golden / 'inputs' / 'small.png'}\n")
    terminal.until("> ")
    terminal.type(f"/audio {golden / 'inputs' / 'w0.wav'}\n")
    terminal.until("> ")
    terminal.type("what is this\n")
    terminal.until("prompt: ")
    assert int(terminal.until(" tokens")) > 90
    terminal.until("> ")
    terminal.type("and now\n")
    terminal.until("prompt: ")
    assert int(terminal.until(" tokens")) < 90  # picture and sound are in the context
    terminal.until("> ")
    terminal.type("/exit\n")
    assert terminal.close() == 0


class Terminal:
    """A process at a terminal of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self._fd, child = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=child, stdout=child, stderr=child, env=environment(TERM="dumb"), start_new_session=True,
        )  # fmt: skip
        os.close(child)
        self.seen = ""

    def until(self, text: str, timeout: float = 30) -> str:
        """What came up to and with `text`."""
        end = time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self.seen += os.read(self._fd, 65536).decode(errors="replace")
        found, _, self.seen = self.seen.partition(text)
        return found

    def type(self, line: str) -> None:
        os.write(self._fd, line.encode())

    def close(self) -> int:
        code = self.process.wait(30)
        os.close(self._fd)
        return code


def test_dialogue(tiny_model_dir: Path, tmp_path: Path) -> None:
    terminal = Terminal("-m", tiny_model_dir, *SHORT, "-v")
    terminal.until("/help")
    terminal.until("> ")
    counts = []
    for question in ("hello", "and now", "hello"):
        terminal.type(question + "\n")
        terminal.until("prompt: ")
        tokens, _, rest = terminal.until("> ").partition(" tokens")
        counts.append((int(tokens), int(rest.partition("), ")[2].partition(" reused")[0])))
    # later prompts are longer, and most of them is in the context already
    assert counts[0][1] == 0
    assert counts[1][1] > 0
    assert counts[2][1] > counts[1][1]
    terminal.type("/clear\n")
    terminal.until("> ")
    terminal.type("hello\n")
    terminal.until("prompt: ")
    tokens, _, rest = terminal.until("> ").partition(" tokens")
    assert int(tokens) + int(rest.partition("), ")[2].partition(" reused")[0]) == sum(counts[0])
    terminal.type("/what\n")
    terminal.until("/clear")
    terminal.until("> ")
    terminal.type("/exit\n")
    assert terminal.close() == 0


def test_end_of_input_ends_the_dialogue(tiny_model_dir: Path) -> None:
    terminal = Terminal("-m", tiny_model_dir, *SHORT)
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_interrupt_stops_the_answer_and_then_the_program(tiny_model_dir: Path) -> None:
    terminal = Terminal("-m", tiny_model_dir, *ENDLESS)
    terminal.until("> ")
    terminal.type("hello\n")
    terminal.until("hello")
    time.sleep(1)
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.until("(stopped)")
    terminal.until("> ")
    # A signal between the prompt and the wait for a key is noticed with the next.
    for _ in range(10):
        os.kill(terminal.process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            terminal.process.wait(3)
            break
    assert terminal.close() == 130


def test_interrupt_of_one_question(tiny_model_dir: Path) -> None:
    arguments = ["-m", str(tiny_model_dir), *ENDLESS, "-p", "hello"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b""
