"""Echo control: the canceller against a simulated room, the gate, and measuring an echo."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from omni.audio_io import load_audio
from omni.devices.line import level_of
from omni.errors import InvalidArgumentError, UnsupportedError
from omni.live.echo import EchoControl, analyse_echo, probe_sound

RATE = 16000


def played_sound() -> np.ndarray:
    """The probe with silence around it, as a loudspeaker's reference gives it."""
    probe = load_audio(probe_sound(), RATE, source_rate=24000)
    return np.concatenate([np.zeros(RATE // 2), probe, np.zeros(RATE)]).astype(np.float32)


def room(played: np.ndarray, delay_ms: float = 100, gain: float = 0.4, noise: float = 1e-3) -> np.ndarray:
    """What a microphone hears of it: direct sound, 0.1 s of reverberation, noise."""
    random = np.random.default_rng(2)
    tail = np.arange(RATE // 5)
    response = 0.12 * random.standard_normal(len(tail)) * np.exp(-tail / 500)
    response[0] = 1
    echo = gain * np.convolve(played, response)[: len(played)]
    shift = int(delay_ms * RATE / 1000)
    echo = np.concatenate([np.zeros(shift), echo[: len(echo) - shift]])
    return (echo + noise * random.standard_normal(len(echo))).astype(np.float32)


def in_blocks(control: EchoControl, microphone: np.ndarray, played: np.ndarray, block: int) -> np.ndarray:
    parts = [
        control.process(microphone[i : i + block], played[i : i + block])
        for i in range(0, len(played), block)
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("delay", [20, 150])
def test_canceller_takes_the_echo_away_and_leaves_the_speaker(delay):
    pytest.importorskip("pywebrtc_audio")
    control = EchoControl.choose("auto")
    assert control.name == "aec"
    played = played_sound()
    echo = room(played, delay)
    clean = in_blocks(control, echo, played, 320)
    late = slice(3 * RATE, 5 * RATE)  # AEC3 knows the room after a second or two
    assert level_of(echo[late]) - level_of(clean[late]) > 20
    # Somebody speaks while nothing is played: passes, after the room is known.
    control.reset()
    voice = (0.1 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)).astype(np.float32)
    passed = in_blocks(control, voice, np.zeros_like(voice), 320)
    assert level_of(passed[RATE // 2 :]) == pytest.approx(level_of(voice), abs=3)


@pytest.mark.parametrize("block", [1, 77, 160, 1000])
def test_canceller_takes_blocks_of_any_length(block):
    pytest.importorskip("pywebrtc_audio")
    played = played_sound()[RATE // 2 : RATE // 2 + 3200]
    echo = room(played, 5)
    whole = EchoControl.choose("aec").process(echo, played)
    assert len(whole) == 3200
    np.testing.assert_array_equal(in_blocks(EchoControl.choose("aec"), echo, played, block), whole)


@pytest.mark.parametrize("block", [100, 320, 50000])
def test_gate_mutes_while_something_is_played_and_half_a_second_more(block):
    played = np.zeros(5 * RATE, np.float32)
    played[RATE : RATE + 1600] = 0.1
    played[3 * RATE] = 0.1
    out = in_blocks(EchoControl.choose("gate"), np.ones_like(played), played, block)
    expected = np.ones_like(played)
    expected[RATE : RATE + 1600 + RATE // 2] = 0
    expected[3 * RATE : 3 * RATE + RATE // 2 + 1] = 0
    np.testing.assert_array_equal(out, expected)


def test_gate_opens_after_reset():
    gate = EchoControl.choose("gate")
    one = np.ones(320, np.float32)
    assert not gate.process(one, one).any()
    assert not gate.process(one, 0 * one).any()
    gate.reset()
    assert gate.process(one, 0 * one).all()


def test_off_changes_nothing():
    control = EchoControl.choose("off")
    one = np.ones(320, np.float32)
    assert control.process(one, one) is one
    assert "headphones" in control.advice


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    assert EchoControl.choose("auto").name == "gate"
    with pytest.raises(UnsupportedError, match=r"omni\[aec\]"):
        EchoControl.choose("aec")
    played = played_sound()
    report = analyse_echo(room(played), played)
    assert (report.heard, report.erle_db, report.recommended) == (True, None, "gate")
    assert "omni[aec]" in str(report)


@pytest.mark.parametrize("shapes", [((320,), (319,)), ((320, 1), (320, 1))])
def test_unequal_blocks_are_refused(shapes):
    with pytest.raises(InvalidArgumentError, match="one length"):
        EchoControl.choose("gate").process(*(np.zeros(shape, np.float32) for shape in shapes))
    with pytest.raises(InvalidArgumentError, match="auto, aec, gate, off"):
        EchoControl.choose("loud")


@pytest.mark.parametrize(("delay", "gain"), [(0, 0.4), (63, 0.4), (400, 0.1)])
def test_report_finds_delay_and_level(delay, gain):
    pytest.importorskip("pywebrtc_audio")
    played = played_sound()
    report = analyse_echo(room(played, delay, gain), played)
    assert report.heard
    assert report.delay_ms == pytest.approx(delay, abs=0.5)
    # The reverberation adds to the direct sound: 1 + 0.12^2 * 250 = 4.6, 6.6 dB.
    assert report.coupling_db == pytest.approx(20 * np.log10(gain) + 6.6, abs=1.5)


def test_report_recommends_the_canceller_when_it_suffices():
    pytest.importorskip("pywebrtc_audio")
    played = played_sound()
    report = analyse_echo(room(played), played)
    assert report.erle_db > 20
    assert report.recommended == "aec"
    faint = analyse_echo(room(played, gain=0.004), played)  # about the noise: nothing much to take away
    assert faint.erle_db < 15
    assert faint.recommended == "aec"
    # Something else sounds meanwhile that no canceller can know.
    other = np.random.default_rng(5).uniform(-0.3, 0.3, len(played)) * (np.arange(len(played)) > RATE)
    unclear = analyse_echo((room(played) + other).astype(np.float32), played)
    assert unclear.heard
    assert unclear.recommended == "gate"


@pytest.mark.parametrize("noise", [0, 1e-3, 0.1])
def test_report_without_an_echo(noise):
    played = played_sound()
    report = analyse_echo(room(played, gain=0, noise=noise), played)
    assert not report.heard
    assert report.recommended == "off"
    assert "headphones" in str(report)


def test_report_needs_sound():
    with pytest.raises(InvalidArgumentError, match="a second of sound"):
        analyse_echo(np.zeros(RATE, np.float32), np.zeros(RATE, np.float32))
