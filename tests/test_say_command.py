"""`python -m omni.say` and `python -m omni.chat --speak` as processes: files, output, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from omni.chat import Dialogue, build_parser, load_model
from omni.prompts import mimic_messages, read_aloud_messages, voice_prompt

# One flow step: what the tiny model says is noise anyway.
SHORT = ["-t", "1", "-n", "6", "-c", "512", "--kv-type", "f32", "--seed", "3", "--flow-steps", "1"]


def command(
    name: str, *arguments: str | Path, stdin: str = "", **extra: str
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OMNI_")}
    return subprocess.run(
        [sys.executable, "-m", f"omni.{name}", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=kept | extra,
        check=False,
    )


def samples_of(path: Path) -> int:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
        return file.getnframes()


@pytest.fixture(scope="module")
def recording(golden: Path) -> Path:
    return golden / "inputs" / "ref.wav"


def test_say(tiny_model_dir: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    run = command("say", "hello there", "-m", tiny_model_dir, "--ref-audio", recording, "-o", out, *SHORT)
    assert (run.returncode, run.stdout) == (0, "")
    assert f"{out}: " in run.stderr.splitlines()[-1]
    assert samples_of(out) % 960 == 0


def test_say_from_standard_input_with_json(tiny_model_dir: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    variables = {"OMNI_REF_AUDIO": str(recording), "OMNI_OUTPUT": str(out), "OMNI_MODEL": str(tiny_model_dir)}
    run = command("say", *SHORT, "--json", stdin="hello there\n", **variables)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["audio"] == str(out)
    assert samples_of(out) == round(result["seconds"] * 24000)
    assert result["seconds"] >= 2


def test_mimic(tiny_model_dir: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    run = command("say", "-m", tiny_model_dir, "--mimic", recording, "-o", out, *SHORT)
    assert run.returncode == 0, run.stderr
    assert samples_of(out) >= 48000


def test_spoken_dialogue(tiny_model_dir: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    arguments = ["-m", tiny_model_dir, "--speak", out, "--ref-audio", recording, "--temp", "0", *SHORT]
    run = command("chat", *arguments, "-p", "hello", "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["audio"] == str(out)
    assert samples_of(out) == 960 * result["speech_tokens"]
    assert result["speech_seconds"] > 0


def test_each_answer_has_its_file(tiny_model_dir: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    arguments = ["-m", tiny_model_dir, "--speak", out, "--ref-audio", recording, "-sys", "Be brief.", *SHORT]
    args = build_parser().parse_args([str(argument) for argument in arguments])
    dialogue = Dialogue(load_model(args), args)
    counts = [dialogue.ask("hello", str)[1].speech_tokens for _ in range(2)]
    assert [samples_of(tmp_path / name) for name in ("out.wav", "out-2.wav")] == [960 * n for n in counts]


def test_prompts() -> None:
    voice = np.zeros(1600, np.float32)
    system, user = read_aloud_messages("good day", voice)
    assert system["content"][1] is voice
    assert user["content"] == ["请朗读以下内容。 good day"]
    assert len(read_aloud_messages("good day")[0]["content"]) == 1
    assert mimic_messages(voice)[1]["content"][1] is voice
    for language in ("en", "zh"):
        plain, persona = (voice_prompt(voice, language, text)["content"] for text in (None, "You are X."))
        assert plain[1] is voice
        assert plain[0] == persona[0]
        assert persona[2].endswith("You are X.")


@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("say", ["hello", "-o", "x.wav"], 2, "give -m"),
        ("say", ["hello", "-m", "MODEL"], 2, "give -o"),
        ("say", ["", "-m", "MODEL", "-o", "x.wav"], 2, "the text is empty"),
        ("say", ["hello", "-m", "MODEL", "-o", "x.wav"], 2, "no voice to speak with"),
        ("say", ["hello", "-m", "MODEL", "-o", "x.wav", "--ref-audio", "none.wav"], 1, "none.wav"),
        (
            "say",
            ["hello", "-m", "MODEL", "-o", "nowhere/x.wav", "--ref-audio", "REF"],
            1,
            "no such directory",
        ),
        ("say", ["hello", "-m", "MODEL", "-o", "x.wav", "--mimic", "REF"], 2, "not both"),
        ("chat", ["-p", "hello", "-m", "MODEL", "--ref-audio", "REF"], 2, "--speak"),
        ("chat", ["-p", "hello", "-m", "MODEL", "--speak", "x.wav"], 2, "no voice to speak with"),
    ],
)
def test_errors(
    tiny_model_dir: Path, recording: Path, name: str, arguments: list[str], code: int, message: str
) -> None:
    places = {"MODEL": str(tiny_model_dir), "REF": str(recording)}
    run = command(name, *(places.get(argument, argument) for argument in arguments), "-t", "1")
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert message in run.stderr
    assert "Traceback" not in run.stderr
