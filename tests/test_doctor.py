"""`python -m omni.doctor`: the estimate's arithmetic, the verdict's words, the command."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from omni import AudioEncoder, LanguageModel, Token2Wav, memory
from omni.bench import audio
from omni.doctor import estimate as module
from omni.doctor import machine
from omni.doctor.estimate import Estimate, time_language_model, time_token2wav
from omni.doctor.verdict import LLM_BYTES, Needs, judge

FAST = Estimate(
    hear=50,
    see=200,
    read_sound=60,
    read_both=210,
    listen=40,
    speak=160,
    speech=100,
    sound={10: 200, 5: 120},
)
NEEDS = Needs.of("Q4_K_M")
PLENTY = 10**12


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "omni.doctor", "--threads", "1", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )


# ---- units ----


def test_units_are_sums_of_their_parts():
    assert FAST.listening() == 50 + 60 + 40
    assert FAST.listening(picture=True) == FAST.listening() + 200 + 150
    assert FAST.speaking(steps=None) == FAST.listening() + 120
    assert FAST.speaking() == FAST.speaking(steps=None) + 100 + 200
    assert FAST.speaking(steps=5, picture=True) == FAST.speaking(steps=None) + 100 + 120 + 350
    units = FAST.as_dict()["units"]
    assert units["speaking_10_steps_picture"] == FAST.speaking(steps=10, picture=True)
    assert json.loads(json.dumps(FAST.as_dict()))["parts"]["sound"] == {"10": 200, "5": 120}


@pytest.mark.parametrize(
    ("changes", "full_duplex", "video", "steps", "words"),
    [
        ({}, True, True, 10, ["Full duplex works: a listening unit takes 0.15 s of 1.00 s", "works, too"]),
        ({"see": 400}, True, False, 10, ["with video listening works", "left out"]),
        ({"see": 290}, True, True, 10, ["with video with 5 flow steps"]),
        ({"see": 900}, True, False, 10, ["with video it doesn't (1.20 s"]),
        ({"sound": {10: 700, 5: 400}}, True, False, 5, ["with 5 flow steps instead of 10 (--flow-steps 5)"]),
        ({"sound": {10: 2000, 5: 1100}}, False, False, None, ["not speak meanwhile", "as text only"]),
        ({"speak": 860, "speech": 900}, False, False, None, ["even as text"]),
        ({"hear": 1200}, False, False, None, ["can't keep up", "1.30 s of 1.00 s", "omni.chat"]),
    ],
)
def test_verdict(changes, full_duplex, video, steps, words):
    verdict = judge(dataclasses.replace(FAST, **changes), NEEDS, PLENTY)
    for word in words:
        assert word in verdict.text
    assert (verdict.full_duplex, verdict.video, verdict.flow_steps) == (full_duplex, video, steps)


def test_verdict_about_memory():
    verdict = judge(FAST, NEEDS, 8 * 10**9)
    assert not verdict.full_duplex
    assert "not enough memory" in verdict.text
    assert "8 GB" in verdict.text
    assert judge(FAST, NEEDS, None).full_duplex


def test_needs_follow_the_type():
    assert Needs.of("q4_k_m").download == 8_872_297_088  # as published
    assert Needs.of("F16").memory > Needs.of("Q8_0").memory > Needs.of("Q4_0").memory
    assert Needs.of("BF16") == Needs.of("F16")
    assert set(LLM_BYTES) >= {"Q4_K_M", "Q5_K_M", "Q8_0"}


# ---- measuring ----


def scripted(monkeypatch, times: list[float]) -> None:
    """The runs take these times, in milliseconds, instead of their own."""
    left = list(times)

    def take(run, prepare=None) -> float:
        if prepare:
            prepare()
        run()
        return left.pop(0)

    monkeypatch.setattr(module, "_time", take)


def test_language_model_is_extrapolated_by_layers(monkeypatch, tiny_model_dir: Path):
    (path,) = tiny_model_dir.glob("*.gguf")
    model = LanguageModel(path, n_ctx=512, n_threads=1)
    layers = model.info.n_layers
    # With and without the output matrix: a second's sound, sound and picture, listening, speaking.
    scripted(monkeypatch, [14, 10, 44, 40, 7, 7, 50, 40])
    assert time_language_model(model, 3 * layers) == pytest.approx(
        {"read_sound": 34, "read_both": 124, "listen": 21, "speak": 130}
    )


def test_audio_encoder_is_extrapolated_by_operations(monkeypatch):
    encoder = AudioEncoder.synthetic(layers=1, n_threads=1, weight_format="stored")
    scripted(monkeypatch, [10])
    one = audio.operations(encoder.info, 50, 50)
    layer = 50 * (8 * 1024**2 + 4 * 550 * 1024 + 4 * 1024 * 4096)
    first = 50 * (8 * 1024**2 + 4 * 50 * 1024 + 4 * 1024 * 4096)
    expected = 10 * (one - first + 24 * layer) / one
    assert module.time_audio_encoder(encoder, 24) == pytest.approx(expected)


def test_vision_encoder_is_extrapolated_by_operations(monkeypatch):
    info = SimpleNamespace(n_layers=1, width=8, ffn_width=16, embed_width=8, patch_size=2, n_queries=4)
    encoder = SimpleNamespace(
        info=info, slices=lambda picture, n: ([(None, (4, 4))], None), encode=lambda picture, n: None
    )
    scripted(monkeypatch, [10])
    layer = 8 * 16 * 64 + 4 * 256 * 8 + 4 * 16 * 8 * 16
    others = 2 * 16 * 12 * 8 + 2 * 16 * 64 + 4 * 16 * 64 + 4 * 4 * 64 + 4 * 4 * 16 * 8
    expected = 10 * (27 * layer + others) / (layer + others)
    assert module.time_vision_encoder(encoder, 27) == pytest.approx(expected)


def test_token2wav_is_extrapolated_by_steps(monkeypatch, tiny_model_dir: Path):
    model = Token2Wav(tiny_model_dir, n_threads=1)
    scripted(monkeypatch, [30, 50])  # the vocoder, and a second with one step
    sound = time_token2wav(model)
    assert set(sound) == {10, 5}
    step = (sound[10] - sound[5]) / 5
    # The flow took 20 ms behind 100 frames; 350 frames cost more than that.
    assert 30 + 5 * step < sound[5]
    expected = 20 * model.flow_cost(10, 350).operations / model.flow_cost(1, 100).operations + 30
    assert sound[10] == pytest.approx(expected)


# ---- the machine, the command ----


def test_facts(tmp_path: Path, monkeypatch):
    assert memory.available_memory() > 10**8
    assert machine.free_disk(tmp_path / "not" / "there") > 0
    assert any(device["kind"] == "cpu" for device in machine.compute_devices())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert machine.download_folder() == tmp_path / "hub"


def test_report_without_measuring():
    done = doctor("--no-measure", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["peaks"]["memory_read"] > 0
    assert report["memory"]["needed"] == NEEDS.memory
    assert report["disk"]["needed"] == NEEDS.download
    assert "verdict" not in report
    assert "sound devices" in done.stderr
    people = doctor("--no-measure")
    assert people.returncode == 0
    assert "memory:" in people.stdout
    assert "disk:" in people.stdout


def test_whole_report():
    """The real thing, at the real sizes; times themselves are not judged, but the exit code follows them."""
    done = doctor("--json", "--llm", "Q4_0", "--weight-format", "stored")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["verdict"]["full_duplex"] else 1), done.stderr
    assert report["verdict"]["text"] in done.stderr
    assert "2 of 36 layers" in done.stderr
    for part, value in report["times"]["parts"].items():
        for ms in value.values() if isinstance(value, dict) else [value]:
            assert ms > 0, part
    units = report["times"]["units"]
    assert units["listening"] < units["text"] < units["speaking_5_steps"] <= units["speaking_10_steps"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--llm", "Q1"], "Q1"), (["--device", "banjo"], "banjo"), (["--threads", "0"], "must be 1 to")],
)
def test_wrong_usage(arguments, reason):
    done = doctor(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
