"""Sound through PortAudio, ALSA and PulseAudio for real: a loudspeaker whose sound its microphone hears.

Skipped where PulseAudio, its ALSA plugin, PortAudio or espeak-ng are missing (`tools/test.sh packages` names
them). The machine may be busy: nothing here depends on exact times.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulse
import pytest

from omni.audio_io import load_recording

SCENARIOS = Path(__file__).with_name("audio_scenarios.py")
LIMIT = 150  # seconds for a scenario


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pulse.Pulse]:
    reason = pulse.missing()
    if reason:
        pytest.skip(reason)
    server = pulse.Pulse(tmp_path_factory.mktemp("pulse"))
    try:
        server.start()
    except RuntimeError as error:  # some containers forbid what it needs
        pytest.skip(f"PulseAudio does not start: {error}")
    with server:
        listed = subprocess.run(
            [sys.executable, "-m", "omni.devices", "--json"],
            env=server.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode != 0:
            pytest.skip(listed.stderr.strip())
        if not listed.stdout:
            pytest.skip("ALSA has no PulseAudio plugin (libasound2-plugins)")
        yield server


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spoken sentence."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    path = tmp_path_factory.mktemp("speech") / "question.wav"
    subprocess.run(["espeak-ng", "-w", str(path), "What do you see in front of the window?"], check=True)
    return path


def run(server: pulse.Pulse, *arguments: str) -> list[dict[str, Any]]:
    """What a scenario says."""
    done = subprocess.run(
        [sys.executable, str(SCENARIOS), *arguments],
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_played_is_heard(server: pulse.Pulse, speech: Path) -> None:
    for _ in range(3):
        listed, played, heard = run(server, "loop", str(speech))
        if not heard["restarts"]:  # a busy machine let the stream stall for more than a second
            break
    (default,) = (device for device in listed["devices"] if device["default_input"])
    assert default["default_output"]
    assert default["inputs"] > 0
    assert played["drained"]
    assert played["played"] == pytest.approx(played["written"], abs=0.02)
    assert len(heard["scores"]) >= 3
    # A gap where the machine was too slow spoils the piece that it is in.
    assert statistics.median(heard["scores"]) > 0.9
    assert 0 < statistics.median(heard["lags"]) < 2
    assert statistics.median(heard["steps"]) == pytest.approx(0.02, abs=0.005)


def test_flush_is_heard_within_a_quarter_of_a_second(server: pulse.Pulse) -> None:
    attempts = run(server, "flush")
    assert attempts[-1]["seconds"] < 0.25
    assert all(each["dropped"] > 1 for each in attempts)


def test_a_session_survives_the_sound_server(server: pulse.Pulse) -> None:
    with subprocess.Popen(
        [sys.executable, str(SCENARIOS), "loss"],
        env=server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        said = []
        try:
            for line in child.stdout:
                said.append(json.loads(line))
                if said[-1].get("event") == "loud":
                    server.kill()
                if said[-1].get("event") == "lost":
                    server.start()
                    child.stdin.write("\n")
                    child.stdin.flush()
            _, errors = child.communicate(timeout=LIMIT)
        finally:
            child.kill()
    assert child.returncode == 0, errors
    for kind in ("microphone", "speaker"):
        statuses = [each[kind] for each in said if kind in each]
        assert statuses[:2] == ["ok", "lost"]
        assert statuses[-1] == "ok"
    (lost,) = (each for each in said if each.get("event") == "lost")
    assert lost["silent"]
    assert said[-1] == {"event": "loud again"}


def test_doctor_measures_the_echo_of_the_loop(server: pulse.Pulse) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "omni.doctor", "--no-measure", "--echo", "--json", "--threads", "1"],
        env=server.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    audio = json.loads(done.stdout)["audio"]
    assert audio["devices"]
    assert audio["echo"]["heard"]
    assert 0 < audio["echo"]["delay_ms"] < 1000
    assert audio["echo"]["coupling_db"] == pytest.approx(0, abs=6)
    assert audio["echo"]["recommended"] in ("aec", "gate")
    assert "echo after" in done.stderr


def test_a_conversation_through_microphone_and_loudspeaker(
    server: pulse.Pulse, speech: Path, tiny_model_dir: Path, golden: Path, tmp_path: Path
) -> None:
    voice = golden / "inputs" / "ref.wav"
    with subprocess.Popen(
        [
            sys.executable, "-m", "omni.live", "-m", str(tiny_model_dir), "-t", "1", "-c", "2048", "--json",
            "--ref-audio", str(voice), "--steps", "1", "--record", str(tmp_path / "rec"),
            "--force-listen", "1",
        ],
        env=server.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as child:  # fmt: skip
        assert child.stdout
        try:
            for line in child.stdout:
                event = json.loads(line)
                if event["type"] == "start":  # the room hears a question
                    player = subprocess.Popen(["paplay", str(speech)], env=server.environment)
                if event["type"] == "unit" and event["unit"] >= 4:
                    break
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=LIMIT)
            player.wait(timeout=LIMIT)
        finally:
            child.kill()
    assert child.returncode == 130, errors
    assert "echo control: " in errors
    assert "s heard" in errors
    samples, rate = load_recording(tmp_path / "rec" / "conversation.wav")
    assert len(samples) >= 4 * rate
    assert abs(samples).max() > 0.01  # it heard the question, itself, or both
