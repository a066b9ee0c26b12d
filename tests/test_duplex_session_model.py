"""`DuplexSession` over the tiny model: the reference's decisions and text, unit by unit, and long runs."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import omni
from omni import _ext
from omni.audio_io import load_audio
from omni.images import load_image

RATE = 16000
LINUX = sys.platform.startswith("linux")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> omni.MiniCPMO:
    return omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=2048, kv_type="f32", n_threads=1)


@pytest.fixture(scope="module")
def talk(golden: Path) -> np.ndarray:
    return load_audio(golden / "inputs" / "long.wav")


def events_of(session: omni.DuplexSession, sound: np.ndarray) -> list[omni.Event]:
    with session:
        session.push_audio(sound)
        session.end_input()
        return list(session)


def of_type(events: list[omni.Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def sound_of(events: list[omni.Event]) -> np.ndarray:
    return np.concatenate([event.samples for event in of_type(events, omni.AudioEvent)])


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("duplex_audio", 10),
        ("duplex_window_basic", 12),
        ("duplex_window_context", 12),
        ("duplex_omni", 5),  # the sixth unit of the reference has no sound
        ("duplex_unified_audio", 7),  # the eighth is forced to listen
    ],
)
def test_units_equal_the_reference(
    name: str, units: int, model: omni.MiniCPMO, talk: np.ndarray, golden: Path
) -> None:
    data = np.load(golden / f"{name}.npz")
    scenario, rows = json.loads(str(data["scenario"])), json.loads(str(data["rows"]))
    window = dict(scenario.get("window", {}))
    mode = window.pop("sliding_window_mode", "off")
    model.variant = "server" if "unified" in name else "hub"
    try:
        session = omni.DuplexSession(
            model,
            prompt=(scenario["prefix"], scenario["suffix"]),
            ref_audio=golden / "inputs" / "ref.wav" if scenario.get("ref") else None,
            generate_audio=False,
            force_listen=scenario.get("force_listen", 0),
            max_speak=scenario.get("max_tokens", 20),
            sliding_window_mode=mode,
            window=window,
            greedy=True,
            max_slice_nums=2,
            max_frames_per_unit=2,
            real_time=False,
            quirks="reference",
        )
    finally:
        model.variant = "hub"
    with session:
        for i in range(units):
            for image in scenario["frames"].get(str(i), {}).get("images", []):
                session.push_frame(load_image(golden / "inputs" / f"{image}.png"))
            session.push_audio(talk[i * RATE : (i + 1) * RATE])
        session.end_input()
        events = list(session)
    texts = {event.unit: event for event in of_type(events, omni.TextEvent)}
    found = of_type(events, omni.UnitEvent)
    assert len(found) == units
    for unit, row in zip(found, rows, strict=False):
        assert unit.is_listen == row["is_listen"], unit.unit
        assert unit.cache_length == row["cache_after"], unit.unit
        assert unit.text_tokens == row.get("n_tokens", unit.text_tokens), unit.unit
        assert (unit.unit in texts) == (not row["is_listen"])
        if not row["is_listen"]:
            assert texts[unit.unit].text == row["text"], unit.unit
            assert texts[unit.unit].end_of_turn == row["end_of_turn"], unit.unit


@pytest.mark.parametrize("variant", ["hub", "server"])
def test_equals_the_published_class(
    variant: Literal["hub", "server"], model: omni.MiniCPMO, talk: np.ndarray, golden: Path
) -> None:
    """Unit by unit with `as_duplex()`, which does one thing after the other: decisions, text, sound."""
    clip, units = load_audio(golden / "inputs" / "ref.wav"), 10
    picture = load_image(golden / "inputs" / "small.png")
    sound = talk[: units * RATE].reshape(units, RATE)
    model.variant = variant
    try:
        duplex = model.as_duplex(
            n_timesteps=2,
            decode_mode="greedy",
            tts_temperature=0,
            sliding_window_mode="basic",
            force_listen_count=0,
            seed=0,
        )
        duplex.prepare("Be brief.", clip, clip)
        session = omni.DuplexSession(
            model, prompt="Be brief.", ref_audio=clip, steps=2, greedy=True, real_time=False
        )
        with session:
            for i, second in enumerate(sound):
                if i == 4:
                    session.push_frame(picture)
                session.push_audio(second)
            session.end_input()
            events = list(session)
        texts = {event.unit: event for event in of_type(events, omni.TextEvent)}
        waves = {event.unit: event.samples for event in of_type(events, omni.AudioEvent)}
        spoken = 0
        for i, second in enumerate(sound):
            fed = duplex.streaming_prefill(second, [picture] if i == 4 else None)
            assert fed.success, fed.reason
            expected = duplex.streaming_generate()
            if variant == "server":
                duplex.finalize_unit()
            assert (i not in texts) == expected.is_listen, i
            if expected.is_listen:
                continue
            assert texts[i].text == expected.text, i
            assert texts[i].end_of_turn == expected.end_of_turn, i
            wave = waves.get(i, np.zeros(0, np.float32))
            spoken += wave.size
            filled = expected.audio_waveform if expected.audio_waveform is not None else wave[:0]
            silence = filled.size - wave.size  # the published class fills a unit up to a second
            np.testing.assert_array_equal(filled[silence:], wave)
            assert not filled[:silence].any()
        assert spoken > 24000
        assert of_type(events, omni.UnitEvent)[-1].cache_length == duplex.cache_length
    finally:
        model.variant = "hub"


def test_sessions_do_not_touch_each_other(model: omni.MiniCPMO, talk: np.ndarray, golden: Path) -> None:
    """One after the other, two at once, and others' work on the same model in between."""
    clip = load_audio(golden / "inputs" / "ref.wav")

    def run() -> list[omni.Event]:
        session = omni.DuplexSession(model, ref_audio=clip, steps=1, greedy=True, real_time=False)
        return events_of(session, talk[: 5 * RATE])

    first = run()
    assert sound_of(first).size > 24000
    results: list[list[omni.Event]] = []
    threads = [threading.Thread(target=lambda: results.append(run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    model.chat(msgs=[{"role": "user", "content": "Hello"}], max_new_tokens=4, do_sample=False)
    for thread in threads:
        thread.join()
    assert len(results) == 2
    for result in results:
        np.testing.assert_array_equal(sound_of(result), sound_of(first))
        assert [e.text for e in of_type(result, omni.TextEvent)] == [
            e.text for e in of_type(first, omni.TextEvent)
        ]


def test_the_voice_reaches_prompt_and_sound(model: omni.MiniCPMO, talk: np.ndarray, golden: Path) -> None:
    clip = load_audio(golden / "inputs" / "ref.wav")
    voice = model.require_speaker().voice_of(clip)
    how: dict[str, Any] = {"steps": 1, "greedy": True, "real_time": False}
    prompts: tuple[str, str] = ("<|im_start|>system\nHello", "<|im_end|>")
    heard = events_of(omni.DuplexSession(model, ref_audio=clip, prompt=prompts, **how), talk[: 2 * RATE])
    unheard = events_of(omni.DuplexSession(model, ref_audio=voice, prompt=prompts, **how), talk[: 2 * RATE])
    rows = [of_type(events, omni.UnitEvent)[0].cache_length for events in (heard, unheard)]
    assert rows[0] - rows[1] == model.require_audio().embedding_count(len(clip)), (
        "the model hears the recording"
    )
    other = model.require_speaker().voice_of(np.ascontiguousarray(talk[: 3 * RATE]))
    prompts = ("<|im_start|>system\nShort.", "<|im_end|>\n")  # with it the model soon speaks
    sounds = [
        sound_of(events_of(omni.DuplexSession(model, ref_audio=v, prompt=prompts, **how), talk[: 5 * RATE]))
        for v in (voice, other)
    ]
    assert not np.array_equal(*sounds), "and the answer is spoken with it"


def test_what_a_session_needs(tiny_model_dir: Path, model: omni.MiniCPMO) -> None:
    parts = {"init_vision": False, "init_audio": False, "init_tts": False}
    deaf = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_threads=1, **parts)
    with pytest.raises(omni.InvalidArgumentError, match="init_audio"):
        omni.DuplexSession(deaf, generate_audio=False)
    deaf.init_audio()
    with pytest.raises(omni.InvalidArgumentError, match="init_tts"):
        omni.DuplexSession(deaf)
    blind = omni.DuplexSession(deaf, generate_audio=False)
    with blind, pytest.raises(omni.InvalidArgumentError, match="init_vision"):
        blind.push_frame(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(omni.InvalidArgumentError, match="basic_window"):
        omni.DuplexSession(model, generate_audio=False, window={"size": 3})
    with pytest.raises(omni.InvalidArgumentError, match="finite"):
        omni.DuplexSession(model, ref_audio=np.full(RATE, np.nan, np.float32))
    with pytest.raises(omni.ModelFileError):
        omni.DuplexSession(model, ref_audio="nowhere.wav")


def test_a_full_context_ends_the_session(model: omni.MiniCPMO, talk: np.ndarray) -> None:
    session = omni.DuplexSession(
        model, generate_audio=False, n_ctx=64, sliding_window_mode="off", greedy=True, real_time=False
    )
    with session, pytest.raises(omni.ContextFullError):
        try:
            session.push_audio(talk[: 12 * RATE])
        except omni.ContextFullError:
            list(session)


def test_interrupted_while_it_speaks(model: omni.MiniCPMO, talk: np.ndarray, golden: Path) -> None:
    clip = load_audio(golden / "inputs" / "ref.wav")
    with omni.DuplexSession(model, ref_audio=clip, steps=1, greedy=True, real_time=False) as session:
        seconds = iter(talk[: 12 * RATE].reshape(12, RATE))
        for event in session_events(session, seconds):
            if isinstance(event, omni.AudioEvent):
                break
        session.interrupt()
        rest = list(session_events(session, seconds))
    ended = rest.index(next(event for event in rest if isinstance(event, omni.TurnEndEvent)))
    for event in rest[:ended]:
        assert isinstance(event, omni.UnitEvent)
    for event in rest:
        assert event.epoch == 1 or isinstance(event, omni.UnitEvent)
    units = of_type(rest, omni.UnitEvent)
    forced = next(unit for unit in units if unit.epoch == 1)
    assert forced.is_listen
    assert sound_of(rest).size, "and then goes on"


def session_events(session: omni.DuplexSession, seconds: Any) -> Any:
    """Pushes a second whenever one was decided; ends the input after the last."""
    wanted = True
    while True:
        if wanted:
            second = next(seconds, None)
            if second is None:
                session.end_input()
            else:
                session.push_audio(second)
            wanted = False
        event = session.poll(None)
        if event is None:
            return
        wanted = isinstance(event, omni.UnitEvent) and not session.is_ended
        yield event


# ---- long runs ----


def anonymous_memory() -> int:
    """Kilobytes."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not LINUX, reason="memory is read from /proc")
def test_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    """3600 units without networks: memory stays, and a second in is a second out."""
    script = [(False, "", False)] * 3 + [(True, "so", False)] * 4 + [(True, ".", True)]
    second = np.full(RATE, 0.1, np.float32)
    session = omni.DuplexSession._over(_ext.scripted_duplex_stages(script, repeat=True), real_time=False)
    memory: list[int] = []
    samples = units = 0
    with session:
        for event in session_events(session, iter([second] * 3600)):
            if isinstance(event, omni.AudioEvent):
                assert event.unit == units
                samples += event.samples.size
            elif isinstance(event, omni.UnitEvent):
                assert event.unit == units
                units += 1
                if units % 600 == 0:
                    memory.append(anonymous_memory())
    assert units == 3600
    assert samples == 3600 // 8 * 5 * 24000
    assert memory[-1] < 1.02 * memory[0], memory


@pytest.mark.skipif(not LINUX, reason="memory is read from /proc")
@pytest.mark.parametrize(("length", "speaks"), [(300, False), (90, True)])
def test_long_conversation(
    length: int, speaks: bool, model: omni.MiniCPMO, talk: np.ndarray, golden: Path
) -> None:
    """Many windows long: memory stays, the context is bounded, every turn ends."""
    clip = load_audio(golden / "inputs" / "ref.wav")
    sizes = {"basic_window_high_tokens": 400, "basic_window_low_tokens": 300}
    session = omni.DuplexSession(
        model,
        ref_audio=clip,
        generate_audio=speaks,
        steps=1,
        greedy=True,
        real_time=False,
        window=sizes,
        n_ctx=600,
    )
    seconds = talk[: len(talk) // RATE * RATE].reshape(-1, RATE)
    memory: list[int] = []
    units = turns = ends = 0
    longest = 0
    with session:
        stream = (seconds[i % len(seconds)] for i in range(length))
        for event in session_events(session, stream):
            if isinstance(event, omni.StateEvent):
                turns += event.state == "speaking"
            elif isinstance(event, omni.TurnEndEvent):
                ends += 1
            elif isinstance(event, omni.UnitEvent):
                units += 1
                longest = max(longest, event.cache_length)
                if units in (length // 3, length):
                    memory.append(anonymous_memory())
    assert units == length
    assert turns == ends > 0
    assert 300 < longest <= 600
    assert memory[1] < 1.02 * memory[0], memory


# ---- the end ----


@pytest.mark.skipif(not LINUX, reason="threads are counted in /proc")
def test_no_thread_of_the_engine_is_left(model: omni.MiniCPMO, talk: np.ndarray) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = count()
    for _ in range(3):
        session = omni.DuplexSession(model, generate_audio=False, real_time=False)
        session.push_audio(talk[:RATE])
        session.close()
        session.close()
    assert count() == before
    session = omni.DuplexSession(model, generate_audio=False)
    del session  # without close()
    gc.collect()
    assert count() == before


PROGRAM = """
import sys, threading, os, signal
import numpy as np
import omni
from omni import _ext
stages = _ext.scripted_duplex_stages([], seconds=(60 if "push" in sys.argv else 0, 0, 0, 0))
session = omni.DuplexSession._over(stages, real_time=False)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    if "push" in sys.argv:
        session.push_audio(np.ones(16000 * 50, np.float32))
    for event in session:
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("where", ["push", "iterate"])
@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c(where: str) -> None:
    command = [sys.executable, "-c", PROGRAM, where]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "interrupted\n", result.stderr
