"""Sources, outputs, views, presets and keys of the live program, each on its own."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import make_sound_only, make_video

import omni
from omni.audio_io import load_audio, save_wav
from omni.errors import FormatError, InvalidArgumentError, ModelFileError
from omni.live.keyboard import Keyboard
from omni.live.outputs import JsonLines, Loudspeaker, Recording, SoundFile, VideoRecording
from omni.live.presets import find_preset, list_presets, read_preset
from omni.live.sources import BLOCK, AudioFile, Block, Paced, Queued, VideoFile, WithPictures, reblock
from omni.live.summary import Summary
from omni.live.timeline import RATE
from omni.live.view import PlainView, RichView

HEARD = 16000
GO = threading.Event()  # never set: sources run to their end


def unit(number: int, *, is_listen: bool = True, **values: float) -> omni.UnitEvent:
    times = {"encode_ms": 1.0, "decide_ms": 2.0, "speak_ms": 0.0, "render_ms": 0.0, "latency_ms": 5.0}
    return omni.UnitEvent(
        unit=number, epoch=0, time=float(number), queued_units=0, cache_length=10, cache_capacity=100,
        is_listen=is_listen, dropped_frames=0, text_tokens=0, speech_tokens=0, **{**times, **values},
    )  # fmt: skip


def text(number: int, words: str, *, end: bool = False) -> omni.TextEvent:
    return omni.TextEvent(unit=number, epoch=0, time=float(number), text=words, end_of_turn=end)


def sound(number: int, n: int = 10, *, last: bool = False) -> omni.AudioEvent:
    samples = np.full(n, 0.5, np.float32)
    return omni.AudioEvent(
        unit=number, epoch=0, time=1.0, samples=samples, sample_rate=RATE, first=True, last=last
    )


def turn_end(number: int, *, interrupted: bool = False) -> omni.TurnEndEvent:
    return omni.TurnEndEvent(unit=number, epoch=0, time=1.0, interrupted=interrupted)


# ---- sources ----


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=10), st.integers(1, 30))
def test_blocks_of_one_size(sizes: list[int], size: int) -> None:
    whole = np.arange(sum(sizes), dtype=np.float32)
    cuts = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    blocks = list(reblock(iter(cuts), size))
    np.testing.assert_array_equal(np.concatenate([*blocks, whole[:0]]), whole)
    assert all(len(block) == size for block in blocks[:-1])


def test_a_sound_file(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 2 + 4001).astype(np.float32)
    path = tmp_path / "声音 é.flac.wav"
    save_wav(path, wave, 8000)
    source = AudioFile(path)
    assert source.name == path.name
    blocks = [block.samples for block in source.blocks(GO)]
    assert {len(block) for block in blocks[:-1]} == {BLOCK}
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(path))
    stop = threading.Event()
    stop.set()
    assert len(list(AudioFile(path).blocks(stop))) == 1


def test_sound_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not sound")
    save_wav(tmp_path / "short.wav", np.zeros(0, np.float32), HEARD)
    for name, error in (
        ("empty.wav", FormatError),
        ("text.wav", FormatError),
        ("short.wav", FormatError),
        ("none.wav", ModelFileError),
    ):
        with pytest.raises(error, match=name):
            AudioFile(tmp_path / name)


def test_a_video_file_is_microphone_and_camera(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mkv", 35, 10, sound_seconds=2.5)
    source = VideoFile(video)
    blocks = list(source.blocks(GO))
    source.close()
    seen = [(i, int(b.picture.mean())) for i, b in enumerate(blocks) if b.picture is not None]
    assert seen == [(0, 0), (10, 10), (20, 20), (30, 30)]  # the picture at the beginning of each second
    samples = np.concatenate([block.samples for block in blocks])
    assert len(samples) == 4 * HEARD
    np.testing.assert_array_equal(samples[: int(2.5 * HEARD)], load_audio(video)[: int(2.5 * HEARD)])
    assert not samples[int(2.5 * HEARD) :].any()


def test_videos_with_longer_sound_or_none(tmp_path: Path) -> None:
    longer = VideoFile(make_video(tmp_path / "a.mkv", 10, 10, sound_seconds=2.5), HEARD)
    assert [(len(b.samples), b.picture is not None) for b in longer.blocks(GO)] == [
        (16000, True),
        (16000, False),
        (8000, False),
    ]
    silent = list(VideoFile(make_video(tmp_path / "b.mkv", 15, 10), HEARD).blocks(GO))
    assert [(len(b.samples), b.picture is not None) for b in silent] == [(16000, True)] * 2
    with pytest.raises(FormatError):
        VideoFile(make_sound_only(tmp_path / "c.mkv", 1))


class Fixed:
    """A source of equal blocks."""

    name, is_live = "fixed", False

    def __init__(self, count: int) -> None:
        self._count = count

    def blocks(self, stop: threading.Event) -> object:
        return (Block(np.zeros(BLOCK, np.float32)) for _ in range(self._count))

    def close(self) -> None: ...


def test_pace_makes_up_for_delays() -> None:
    now = [100.0]
    waits: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(round(timeout or 0, 6))
            now[0] += timeout or 0
            return False

    source = Paced(Fixed(4), now=lambda: now[0])
    for number, _ in enumerate(source.blocks(Clock())):
        if number == 1:
            now[0] += 0.15  # the machine was busy
    assert waits == [0.1, 0.1, 0.0, 0.05]


def test_pace_ends_when_it_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    assert list(Paced(Fixed(4)).blocks(stop)) == []


def test_a_microphone_comes_through_echo_control() -> None:
    asked: list[float] = []

    def process(samples: np.ndarray, at: float) -> np.ndarray:
        asked.append(at)
        return samples * 2

    queued = Queued("microphone", process)
    stop = threading.Event()
    queued.put(np.full(320, 0.25, np.float32), 1.5)
    blocks = queued.blocks(stop)
    assert next(blocks).samples[0] == 0.5
    assert asked == [1.5]
    stop.set()
    assert list(blocks) == []


def test_pictures_go_along_twice_a_second() -> None:
    class Camera:
        def latest(self) -> np.ndarray:
            return np.zeros((2, 2, 3), np.uint8)

    blocks = list(WithPictures(Fixed(20), Camera()).blocks(GO))
    assert [i for i, block in enumerate(blocks) if block.picture is not None] == [0, 5, 10, 15]


# ---- outputs ----


def test_the_loudspeaker_is_flushed_or_drained() -> None:
    done: list[object] = []

    class Speaker:
        queued_seconds = 0.5

        def write(self, samples: np.ndarray, *, last: bool = False) -> None:
            done.append((len(samples), last))

        def flush(self) -> float:
            done.append("flush")
            return 0.0

        def drain(self, timeout: float | None = None) -> bool:
            done.append("drain")
            return True

    output = Loudspeaker(Speaker())
    output.event(sound(1), None)
    output.event(sound(1, last=True), None)
    output.event(text(1, "x"), None)
    output.flush()
    output.close(True)
    output.close(False)
    assert done == [(10, False), (10, True), "flush", "drain", "flush"]


def test_json_lines() -> None:
    file = io.StringIO()
    lines = JsonLines(file)
    for event, at in ((text(1, "你好"), None), (sound(1), 2.0), (unit(1), None), (turn_end(1), None)):
        lines.event(event, at)
    lines.notice("lost")
    lines.close(True)
    read = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [entry["type"] for entry in read] == ["text", "audio", "unit", "turn_end", "notice", "end"]
    assert read[0]["text"] == "你好"
    assert (read[1]["samples"], read[1]["at"], read[1]["first"]) == (10, 2.0, True)
    assert "at" not in read[2]


def test_a_recording_is_whole_at_any_moment(tmp_path: Path) -> None:
    directory = tmp_path / "记录" / "one"
    recording = Recording(directory, {"model": "tiny"})
    recording.event(text(0, "hi"), None)
    recording.settled(np.tile(np.array([[0.25, -0.5]], np.float32), (1000, 1)))
    lines = (directory / "timeline.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["start", "text"]
    import soundfile

    samples, rate = soundfile.read(directory / "conversation.wav")
    assert (samples.shape, rate) == ((1000, 2), RATE)
    assert samples[5].tolist() == [0.25, -0.5]
    with pytest.raises(InvalidArgumentError, match="another directory"):
        Recording(directory, {})
    recording.close(False)
    assert json.loads((directory / "timeline.jsonl").read_text().splitlines()[-1]) == {
        "type": "end",
        "complete": False,
    }
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="can't record"):
        Recording(tmp_path / "file" / "x", {})


def test_the_models_side_alone(tmp_path: Path) -> None:
    output = SoundFile(tmp_path / "a.wav")
    output.settled(np.tile(np.array([[0.25, -0.5]], np.float32), (1000, 1)))
    output.close(True)
    assert set(load_audio(tmp_path / "a.wav", RATE)) == {-0.5}


@pytest.mark.parametrize("has_picture", [True, False])
def test_a_recorded_video(tmp_path: Path, has_picture: bool) -> None:
    video = VideoRecording(tmp_path)
    for second in range(6):
        picture = np.full((90, 160, 3), 20 * second, np.uint8) if has_picture else None
        video.heard(np.zeros(HEARD, np.float32), picture)
        if second == 1:
            video.event(text(1, "Hello"), None)
        video.settled(np.full((RATE, 2), 0.2, np.float32))
    killed = tmp_path / "killed.mp4"
    killed.write_bytes((tmp_path / "conversation.mp4").read_bytes())
    with av.open(str(killed)) as container:
        assert len(list(container.decode(video=0))) >= 6
    video.close(True)
    with av.open(str(tmp_path / "conversation.mp4")) as container:
        frames = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    # The sound's encoder begins with a block of silence, 43 ms, which is kept in files of parts.
    assert [time_ for time_, _ in frames] == pytest.approx([i / 2 for i in range(12)], abs=0.05)
    for number, (_, pixels) in enumerate(frames):
        time_ = number / 2
        assert abs(float(pixels[:30].mean()) - (20 * int(time_) if has_picture else 0)) < 8
        assert (pixels.max() > 180) == (2 <= time_ < 3.5)
    assert len(load_audio(tmp_path / "conversation.mp4", RATE)) == pytest.approx(6 * RATE, abs=2100)


# ---- what a person sees ----


def test_the_plain_view() -> None:
    file = io.StringIO()
    view = PlainView(file)
    view.event(text(61, "Hel"), None)
    view.event(text(62, "lo.\x1b[2J"), None)
    view.event(turn_end(62), None)
    view.event(unit(63), None)
    view.event(text(70, "And"), None)
    view.notice("the microphone is gone")
    view.event(turn_end(70, interrupted=True), None)
    view.event(omni.DegradedEvent(unit=71, epoch=0, time=1.0, level=2, name="x", reason="late"), None)
    view.event(omni.InputDroppedEvent(unit=71, epoch=0, time=1.0, seconds=1.0), None)
    view.close(True)
    assert file.getvalue().splitlines() == [
        "[1:02] Hello. [2J",
        "[1:11] And",
        "(the microphone is gone)",
        "(this machine is too slow: fewer flow steps (late))",
        "(1.0 s of input could not be heard in time)",
    ]
    verbose = io.StringIO()
    PlainView(verbose, verbose=True).event(unit(3), None)
    assert "decided in 2" in verbose.getvalue()


def test_the_rich_view() -> None:
    file = io.StringIO()
    view = RichView("omni.live: a.wav", file)
    view.heard(np.full(HEARD, 0.5, np.float32), None)
    view.event(omni.StateEvent(unit=1, epoch=0, time=1.0, state="speaking"), None)
    view.event(text(1, "Hello"), None)
    view.event(text(2, " there."), None)
    view.event(turn_end(2, interrupted=True), None)
    view.event(unit(2, decide_ms=640.0), None)
    view.event(omni.DegradedEvent(unit=2, epoch=0, time=1.0, level=3, name="x", reason="late"), None)
    view.settled(np.full((RATE, 2), 0.25, np.float32))
    view.close(True)
    shown = file.getvalue()
    for part in ("speaking", "Hello there. -", "640 of 1000 ms", "context 10 of 100", "half duplex", "dB"):
        assert part in shown, part
    assert "interrupt" in shown


def test_the_summary() -> None:
    summary = Summary()
    assert "no second" in str(summary)
    for i in range(3):
        summary.event(unit(i, decide_ms=100.0 * (i + 1)), None)
    summary.event(turn_end(2), None)
    summary.event(omni.InputDroppedEvent(unit=3, epoch=0, time=1.0, seconds=2.0), None)
    assert str(summary).startswith("3 s heard, 1 turn spoken; a unit took 200 ms")
    assert "2 s were dropped" in str(summary)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
def test_keys_and_the_terminal_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty
    import termios

    master, slave = pty.openpty()
    keys: list[str] = []
    with os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(slave)
        with Keyboard(keys.append):
            os.write(master, b" q\n")
            deadline = time.monotonic() + 10
            while len(keys) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert termios.tcgetattr(slave) == before
    os.close(master)
    assert keys == [" ", "q", "\n"]


def test_without_a_terminal_there_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("q"))
    keys: list[str] = []
    with Keyboard(keys.append):
        pass
    assert keys == []


# ---- presets ----


def test_the_packages_presets() -> None:
    presets = list_presets()
    assert {preset.language for preset in presets} == {"en", "zh"}
    for preset in presets:
        kind, language = preset.name.rsplit("-", 1)
        assert language == preset.language
        assert find_preset(preset.name) == preset
        assert {f"{kind}-en", f"{kind}-zh"} <= {other.name for other in presets}
        assert "\n" not in preset.title


def test_presets_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "我的.yaml"
    path.write_text(
        "language: zh\ntitle: 我\nprompt: |\n  你好\n  世界\nmax_speak: 5\nref_audio: me.wav\n",
        encoding="utf-8",
    )
    preset = find_preset(str(path))
    assert (preset.name, preset.prompt, preset.max_speak) == ("我的", "你好\n世界", 5)
    assert preset.ref_audio == str(tmp_path / "me.wav")
    assert preset.force_listen is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "name: value"),
        ("language: en\ntitle: x\n", "lacks 'prompt'"),
        ("language: en\ntitle: x\nprompt: ''\n", "lacks 'prompt'"),
        ("language: en\ntitle: x\nprompt: y\nvolume: 3\n", "unknown field 'volume'"),
        ("language: en\ntitle: x\nprompt: y\nmax_speak: many\n", "max_speak must be int"),
        ("language: en\ntitle: x\nprompt: y\nmax_speak: 0\n", "at least 1"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_presets_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=message) as caught:
        read_preset(path)
    assert "a.yaml" in str(caught.value)


def test_missing_presets(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="watcher-en"):
        find_preset("nobody")
    with pytest.raises(InvalidArgumentError):
        find_preset("../presets/watcher-en")
    with pytest.raises(ModelFileError):
        find_preset(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"title: \xff")
    with pytest.raises(FormatError, match="UTF-8"):
        find_preset(str(tmp_path / "latin.yaml"))
