"""What a live conversation writes: growing WAV files, the time line of both sides, videos with subtitles."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import make_sound_only, make_video

import omni
from omni.audio_io import load_audio
from omni.errors import FormatError, InvalidArgumentError, ModelFileError
from omni.live.duplex_video import mix_speech, subtitles_of
from omni.live.mp4 import Mp4Writer
from omni.live.subtitles import draw_subtitle
from omni.live.timeline import RATE, SpeechTrack, Timeline
from omni.live.wav import GrowingWav

HEARD = 16000


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    with wave.open(str(path), "rb") as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert len(data) == file.getnframes() * file.getnchannels()
        return file.getframerate(), data.reshape(-1, file.getnchannels())


# ---- WAV ----


def test_a_growing_wav_is_whole_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "对话 é.wav"
    with GrowingWav(path, 24000, channels=2) as file:
        assert read_wav(path)[1].shape == (0, 2)
        for n in (1, 1000, 0, 24000):
            before = file.frames
            file.write(np.full((n, 2), (0.5, -2.0), np.float32))
            assert file.frames == before + n
            rate, frames = read_wav(path)
            assert (rate, frames.shape) == (24000, (before + n, 2))
            assert (frames == (16384, -32768)).all()
        assert file.seconds == pytest.approx(25001 / 24000)
    assert path.stat().st_size == 44 + 4 * 25001


def test_wav_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nowhere"):
        GrowingWav(tmp_path / "nowhere" / "a.wav", 24000)
    with GrowingWav(tmp_path / "a.wav", 24000) as file:
        for bad in (np.zeros((3, 2), np.float32), np.array([0, np.nan], np.float32)):
            with pytest.raises(InvalidArgumentError, match=r"a\.wav"):
                file.write(bad)
        assert file.frames == 0


# ---- time line ----


def test_sound_stays_in_order_and_behind_what_was_read() -> None:
    track = SpeechTrack()
    assert track.place(np.ones(4, np.float32), 2) == 2
    assert track.place(np.full(2, 2, np.float32), 3) == 6  # not over the first
    assert track.take(5).tolist() == [0, 0, 1, 1, 1]
    assert track.take(3).tolist() == []
    assert track.place(np.full(1, 3, np.float32), 0) == 8
    assert track.take(10).tolist() == [1, 2, 2, 3, 0]
    assert track.place(np.full(1, 4, np.float32), 0) == 10  # 0 was read long ago


def test_a_cut_fades_over_ten_milliseconds() -> None:
    track = SpeechTrack()
    track.place(np.ones(RATE, np.float32), 0)
    track.place(np.ones(RATE, np.float32), 3 * RATE)
    track.take(100)
    track.cut()
    assert track.end == 100 + RATE // 100
    rest = track.take(4 * RATE)
    assert rest[0] == 1
    assert (np.diff(rest[: RATE // 100]) < 0).all()
    assert not rest[RATE // 100 - 1 :].any()
    track.place(np.ones(10, np.float32), 5 * RATE)
    track.cut()  # before it began: nothing remains
    assert not track.take(6 * RATE).any()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["place", "take", "cut"]), st.integers(0, 600), st.integers(0, 900)),
        max_size=30,
    )
)
def test_a_track_loses_nothing_but_what_is_cut(steps: list[tuple[str, int, int]]) -> None:
    track = SpeechTrack()
    model = np.zeros(40000, np.float32)
    taken: list[np.ndarray] = []
    count = 0.0
    for what, a, b in steps:
        if what == "place":
            count += 1
            at = track.place(np.full(a, count, np.float32), b)
            assert at >= b
            assert not model[at : at + a].any()
            model[at : at + a] = count
        elif what == "take":
            taken.append(track.take(track.read + a))
        else:
            track.cut()
            fade = max(0, track.end - track.read)
            assert fade <= RATE // 100
            if fade:
                model[track.read : track.read + fade] *= np.linspace(1, 0, fade, dtype=np.float32)
            model[track.read + fade :] = 0
    taken.append(track.take(track.read + 20000))
    got = np.concatenate(taken)
    np.testing.assert_array_equal(got, model[: len(got)])


def test_without_a_clock_sound_lies_behind_the_second_that_it_answers() -> None:
    line = Timeline(real_time=False)
    for _ in range(4):  # the input runs ahead
        line.heard(np.full(HEARD, 0.25, np.float32))
    assert len(line.settle()) == RATE  # nothing can be said before the first second is over
    line.answered(0)
    assert line.said(np.ones(RATE, np.float32), 1) == 2.0
    assert line.said(np.ones(RATE // 2, np.float32), 1) == 3.0  # behind the first
    line.answered(1)
    sound = line.settle()
    assert len(sound) == 2 * RATE
    assert not sound[:RATE, 1].any()
    assert sound[RATE:, 1].all()
    rest = line.finish()
    assert line.settled_seconds == pytest.approx(4.0)
    assert rest[: RATE // 2, 1].all()
    assert not rest[RATE // 2 :, 1].any()
    assert np.abs(rest[:-200, 0] - 0.25).max() < 0.01  # the user's side, resampled
    assert line.waiting_seconds == 0


def test_in_real_time_sound_lies_where_it_was_said() -> None:
    line = Timeline(real_time=True)
    line.heard(np.zeros(int(2.5 * HEARD), np.float32))
    line.settle()
    assert line.said(np.ones(2 * RATE, np.float32), 1) == 2.5
    assert line.waiting_seconds == 2.0
    for _ in range(5):
        line.heard(np.zeros(HEARD // 10, np.float32))
        line.settle()
    line.interrupt()  # half a second of it was heard
    assert line.waiting_seconds == pytest.approx(0.01, abs=0.02)
    line.heard(np.zeros(HEARD, np.float32))
    rest = line.finish()
    assert np.flatnonzero(rest[:, 1])[-1] < 0.03 * RATE
    assert line.settled_seconds == pytest.approx(4.0)


def test_the_last_answer_is_longer_than_the_input() -> None:
    line = Timeline(real_time=False)
    line.heard(np.zeros(HEARD, np.float32))
    line.said(np.ones(3 * RATE, np.float32), 0)
    line.answered(0)
    assert len(line.settle()) + len(line.finish()) == 4 * RATE


# ---- videos ----


def pictures_of(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_subtitles_stand_at_the_bottom() -> None:
    grey = np.full((180, 320, 3), 90, np.uint8)
    assert draw_subtitle(grey, "  ") is grey
    drawn = draw_subtitle(grey, "It is raining outside.")
    rows = np.flatnonzero((drawn != grey).any(axis=(1, 2)))
    columns = np.flatnonzero((drawn != grey).any(axis=(0, 2)))
    assert rows[0] > 90
    assert rows[-1] < 180
    assert abs((columns[0] + columns[-1]) / 2 - 160) < 4
    assert drawn.max() > 240
    assert drawn.min() == 0
    assert (grey == 90).all()


def test_long_subtitles_are_broken() -> None:
    grey = np.full((180, 320, 3), 90, np.uint8)
    for text in ("word " * 40, "x" * 300):
        drawn = draw_subtitle(grey, text)
        columns = np.flatnonzero((drawn != grey).any(axis=(0, 2)))
        assert columns[0] > 3
        assert columns[-1] < 316


@pytest.mark.filterwarnings("ignore:the subtitles need a font")
def test_chinese_subtitles_are_drawn() -> None:
    grey = np.full((180, 320, 3), 90, np.uint8)
    assert (draw_subtitle(grey, "你好，世界。" * 10) != grey).any()


def test_when_subtitles_are_shown() -> None:
    log = [
        {"chunk_idx": 0, "text": "<|speak|>Hello ", "is_listen": False},
        {"chunk_idx": 1, "text": "unseen"},
        {"chunk_idx": 2, "text": "there.<|turn_eos|>", "is_listen": False},
        {"chunk_idx": 3, "text": "<|chunk_eos|> ", "is_listen": False},
        {"chunk_idx": 4, "text": "late", "is_listen": False},
    ]
    assert subtitles_of(log, 3.5) == [(1.0, 2.0, "Hello"), (3.0, 3.5, "there.")]
    with pytest.raises(InvalidArgumentError, match="chunk_idx"):
        subtitles_of([{"text": "x", "is_listen": False}], 3)


def test_when_speech_is_heard() -> None:
    track = mix_speech([(0, np.full(15, 0.25)), (1, np.full(20, 0.25))], 10, 2.0)
    assert track.tolist() == [0.0] * 10 + [0.25] * 10 + [0.5] * 5 + [0.25] * 15
    assert len(mix_speech([], 10, 2.5)) == 25
    assert mix_speech([(0, np.full(2, 7.0))], 10, 1.0).max() == 1.0
    with pytest.raises(InvalidArgumentError, match="unit 1"):
        mix_speech([(1, np.array([np.inf]))], 10, 2.0)


@pytest.mark.parametrize("sound_seconds", [None, 3.0])
def test_a_duplex_video(tmp_path: Path, sound_seconds: float | None) -> None:
    source = make_video(tmp_path / "in.mkv", 30, 10, sound_seconds=sound_seconds, size=(160, 90))
    out = tmp_path / "输出.mp4"
    log = [{"chunk_idx": 0, "text": "Hello", "is_listen": False}]
    wave = 0.5 * np.sin(np.arange(24000) * 2 * np.pi * 440 / 24000)
    assert omni.generate_duplex_video(str(source), str(out), log, [(0, wave)]) == str(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", out.name]
    frames = pictures_of(out)
    assert len(frames) == 30
    for time, pixels in frames:
        number = round(time * 10)
        assert abs(float(pixels[:40].mean()) - number) < 8  # the picture that was there
        assert (pixels.max() > 180) == (1 <= time < 2)  # with its subtitle
    heard = load_audio(out, 24000)
    assert abs(len(heard) - 72000) < 2400
    loudness = [float(np.abs(heard[at + 4000 : at + 20000]).max()) for at in (0, 24000, 48000)]
    assert loudness[1] == pytest.approx(0.5 if sound_seconds is None else 0.25, abs=0.06)
    assert max(loudness[0], loudness[2]) < 0.05


def test_duplex_video_errors(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(ModelFileError):
        omni.generate_duplex_video(tmp_path / "none.mp4", out, [], [])
    with pytest.raises(FormatError):
        omni.generate_duplex_video(make_sound_only(tmp_path / "a.mkv", 1), out, [], [])
    video = make_video(tmp_path / "v.mkv", 10, 10)
    with pytest.raises(InvalidArgumentError, match="output_sample_rate"):
        omni.generate_duplex_video(video, out, [], [], 0)
    with pytest.raises(ModelFileError, match="nowhere"):
        omni.generate_duplex_video(video, tmp_path / "nowhere" / "out.mp4", [], [])
    assert not out.exists()


def test_a_growing_video_can_be_played_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    writer = Mp4Writer(path, (64, 48), sound_rate=RATE, growing=True, frame_rate=Fraction(2))
    for step in range(20):
        writer.picture(np.full((48, 64, 3), 10 * step, np.uint8), step / 2)
        writer.sound(np.zeros(RATE // 2, np.float32))
    copy = tmp_path / "copy.mp4"  # as it is when the program is killed
    copy.write_bytes(path.read_bytes())
    assert pictures_of(copy)[-1][0] > 5
    writer.close()
    assert len(pictures_of(path)) == 20
