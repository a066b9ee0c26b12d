"""Videos taken apart: which pictures, which sound, compositions, and bad files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from videos import RATE, make_sound_only, make_video, tone_of

import omni
from omni.media import concat_images, get_video_frame_audio_segments, max_num_frames


def numbers(pictures: Sequence[Image.Image]) -> list[int]:
    return [picture.getpixel((0, 0))[0] for picture in pictures]


def fps_filter(path: Path, rate: int) -> list[int]:
    """What ffmpeg's own filter gives: the numbers in the pictures."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source, filter_, sink = (
            graph.add_buffer(template=stream),
            graph.add("fps", f"fps={rate}"),
            graph.add("buffersink"),
        )
        source.link_to(filter_)
        filter_.link_to(sink)
        graph.configure()
        for frame in itertools.chain(container.decode(stream), [None]):
            source.push(frame)
            while True:
                try:
                    found.append(int(sink.pull().to_ndarray(format="gray")[0, 0]))
                except (av.BlockingIOError, av.EOFError):
                    break
    return found


@pytest.mark.parametrize(
    ("pictures", "fps"),
    [(300, 30), (24, 24), (25, 10), (100, 25), (90, Fraction(30000, 1001)), (7, 2), (1, 30)],
)
def test_ffmpeg_rule_is_that_of_its_filter(tmp_path: Path, pictures: int, fps: int | Fraction) -> None:
    video = make_video(tmp_path / "v.mkv", pictures, fps)
    frames, segments, stacked = get_video_frame_audio_segments(video, use_ffmpeg=True)
    wanted = fps_filter(video, 1)
    # The filter of the library isn't told where the last picture ends; the program passes that on.
    assert numbers(frames)[: len(wanted)] == wanted
    assert len(frames) == max(1, round(pictures / fps + 1e-9))
    assert segments is None
    assert stacked is None


def test_published_numbers_of_both_rules(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 300, 30)
    first_of_second = [(30 * second) % 256 for second in range(10)]
    assert numbers(get_video_frame_audio_segments(video)[0]) == first_of_second
    before_middle = [(14 + 30 * second) % 256 for second in range(10)]
    assert numbers(get_video_frame_audio_segments(video, use_ffmpeg=True)[0]) == before_middle


@pytest.mark.parametrize(("pictures", "decord", "ffmpeg"), [(104, 11, 10), (106, 11, 11)])
def test_counts_of_both_rules(tmp_path: Path, pictures: int, decord: int, ffmpeg: int) -> None:
    video = make_video(tmp_path / "v.mkv", pictures, 10)
    assert len(get_video_frame_audio_segments(video)[0]) == decord
    assert len(get_video_frame_audio_segments(video, use_ffmpeg=True)[0]) == ffmpeg


def test_long_videos_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_NUM_FRAMES", "8")
    video = make_video(tmp_path / "v.mkv", 100, 10, sound_seconds=10)
    frames, segments, _ = get_video_frame_audio_segments(video)
    places = [j * 99 // 7 for j in range(8)]  # of 100 candidates, one every 0.1 s
    assert numbers(frames) == places
    assert segments is not None
    times = [place / 10 for place in places] + [10.0]
    assert [len(segment) for segment in segments] == [
        int(stop * RATE) - int(start * RATE) for start, stop in itertools.pairwise(times)
    ]
    frames, _, _ = get_video_frame_audio_segments(video, use_ffmpeg=True)
    # fps=10 of a video with 10 pictures a second gives each once
    assert numbers(frames) == places
    exactly = make_video(tmp_path / "w.mkv", 80, 10)
    assert len(get_video_frame_audio_segments(exactly)[0]) == 8


def test_frame_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAX_NUM_FRAMES", raising=False)
    assert max_num_frames() == 64
    monkeypatch.setenv("MAX_NUM_FRAMES", "many")
    with pytest.raises(omni.InvalidArgumentError, match="MAX_NUM_FRAMES"):
        max_num_frames()


@pytest.mark.parametrize("use_ffmpeg", [False, True])
def test_stacked_frames(tmp_path: Path, use_ffmpeg: bool) -> None:
    video = make_video(tmp_path / "v.mkv", 25, 10)  # 2.5 s
    frames, _, stacked = get_video_frame_audio_segments(video, stack_frames=5, use_ffmpeg=use_ffmpeg)
    assert stacked is not None
    assert len(frames) == len(stacked) == 3
    # 2x2 of 32x16 with a line of 6 between; the last second has only two, which go one above the other
    assert [picture.size if picture else None for picture in stacked] == [(70, 38), (70, 38), (32, 38)]
    assert stacked[1] is not None
    corners = [stacked[1].getpixel(at)[0] for at in ((0, 0), (69, 0), (0, 37), (69, 37))]
    # fps=5: ticks at 1.2, 1.4, 1.6, 1.8 s show the last picture before the tick's middle
    assert corners == ([12, 14, 16, 18] if not use_ffmpeg else fps_filter(video, 5)[6:10])


def test_seconds_without_further_pictures_have_no_composition(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 21, 20)  # 1.05 s: the second second has nothing at 1.5 s
    _, _, stacked = get_video_frame_audio_segments(video, stack_frames=2)
    assert stacked is not None
    assert stacked[0] is not None
    assert stacked[1] is None


def test_sound_of_the_video(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 25, 10, sound_seconds=2.5)
    _, segments, _ = get_video_frame_audio_segments(video)
    assert segments is not None
    assert [len(segment) for segment in segments] == [RATE, RATE, RATE // 2]
    assert np.abs(np.concatenate(segments) - tone_of(2.5)).max() <= 0.5 / 32768
    _, segments, _ = get_video_frame_audio_segments(video, adjust_audio_length=True)
    assert segments is not None
    assert [len(segment) for segment in segments] == [RATE] * 3
    assert not segments[2][RATE // 2 :].any()
    assert get_video_frame_audio_segments(video, use_audio=False)[1] is None


def test_a_short_last_segment_is_padded(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 41, 20, sound_seconds=2.05)
    _, segments, _ = get_video_frame_audio_segments(video)
    assert segments is not None
    assert [len(segment) for segment in segments] == [RATE, RATE, 1600]


def test_other_sound_and_vad_end(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 40, 10, sound_seconds=4)
    sound = make_sound_only(tmp_path / "s.mkv", 4)
    frames, segments, _ = get_video_frame_audio_segments(video, str(sound), last_vad_timestamp=1.5)
    assert numbers(frames) == [0, 10]
    assert segments is not None
    assert [len(segment) for segment in segments] == [RATE, RATE // 2]
    frames, segments, _ = get_video_frame_audio_segments(video, last_vad_timestamp=5.0)
    assert numbers(frames) == [0, 10, 20, 30, 39]  # the last one stands in
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(omni.InvalidArgumentError, match="last_vad_timestamp"):
            get_video_frame_audio_segments(video, last_vad_timestamp=wrong)


@pytest.mark.parametrize("use_ffmpeg", [False, True])
def test_video_without_sound(tmp_path: Path, use_ffmpeg: bool) -> None:
    video = make_video(tmp_path / "v.mkv", 10, 10)
    assert get_video_frame_audio_segments(video, use_ffmpeg=use_ffmpeg)[1] is None


def test_bytes_are_as_good_as_a_file(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 20, 10, sound_seconds=2)
    frames, segments, _ = get_video_frame_audio_segments(video.read_bytes())
    assert numbers(frames) == [0, 10]
    assert segments is not None
    assert len(segments) == 2


def test_searching_by_key_pictures_finds_the_same(tmp_path: Path) -> None:
    # mpeg4 needs the pictures before; groups of 12 are jumped over
    video = make_video(tmp_path / "v.mp4", 250, 25, codec="mpeg4", size=(64, 32))
    with av.open(str(video)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for frame, wanted in zip(get_video_frame_audio_segments(video)[0], every[::25], strict=True):
        assert (np.asarray(frame) == wanted).all()


def test_pictures_are_turned_as_the_file_says(tmp_path: Path) -> None:
    size, upright = (64, 32), bytes.fromhex("00010000 00000000 00000000 00000000 00010000")
    video = make_video(tmp_path / "v.mp4", 10, 10, codec="mpeg4", size=size)
    data = video.read_bytes()
    track = data.index(upright, data.index(b"tkhd"))  # the matrix of the track, 16.16 numbers
    lying = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000")
    turned = data[:track] + lying + data[track + len(lying) :]
    assert get_video_frame_audio_segments(data)[0][0].size == size
    assert get_video_frame_audio_segments(turned)[0][0].size == size[::-1]


def test_sound_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(omni.FormatError, match="no pictures"):
        get_video_frame_audio_segments(make_sound_only(tmp_path / "s.mkv", 1))


def test_truncated_video(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 100, 10, codec="mpeg4", size=(64, 32), sound_seconds=10)
    data = video.read_bytes()
    frames, _, _ = get_video_frame_audio_segments(data[: len(data) * 6 // 10])
    assert 1 <= len(frames) <= 10
    for length in range(0, 600, 37):  # inside the header: not a video, or one without pictures
        with pytest.raises(omni.OmniError):
            get_video_frame_audio_segments(data[:length])


def test_damaged_pictures_repeat_others(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 100, 10, codec="mpeg4", size=(64, 32))
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    frames, _, _ = get_video_frame_audio_segments(bytes(data))
    assert 1 <= len(frames) <= 10


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(1000)])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "视频.mp4"
    path.write_bytes(content)
    with pytest.raises(omni.FormatError, match=r"视频\.mp4"):
        get_video_frame_audio_segments(path)


def test_unusable_arguments(tmp_path: Path) -> None:
    with pytest.raises(omni.ModelFileError, match=r"missing\.mp4"):
        get_video_frame_audio_segments(tmp_path / "missing.mp4")
    with pytest.raises(omni.InvalidArgumentError, match="stack_frames"):
        get_video_frame_audio_segments(tmp_path / "missing.mp4", stack_frames=0)
    with pytest.raises(omni.InvalidArgumentError, match="path or bytes"):
        get_video_frame_audio_segments(3)  # type: ignore[arg-type]


def _picture(width: int, height: int, value: int = 0) -> Image.Image:
    return Image.new("RGB", (width, height), (value, value, value))


@pytest.mark.parametrize(
    ("sizes", "canvas"),
    [
        ([(20, 10)], (20, 10)),
        ([(20, 10)] * 2, (20, 26)),
        ([(10, 20)] * 2, (26, 20)),
        ([(30, 10)] * 3, (30, 42)),
        ([(10, 30)] * 3, (42, 30)),
        ([(20, 10)] * 4, (46, 26)),
        ([(20, 10)] * 5, (124, 10)),
        ([(20, 10)] * 9, (228, 10)),
        ([(1920, 1080)] * 4, (3846, 2166)),
    ],
)
def test_composition_layout(sizes: list[tuple[int, int]], canvas: tuple[int, int]) -> None:
    assert concat_images([_picture(*size) for size in sizes]).size == canvas


def test_composition_cells() -> None:
    wide, high = _picture(20, 10, 100), _picture(10, 20, 50)
    pixels = np.asarray(concat_images([wide, high, wide, high]))[:, :, 0]  # cells of 20 x 20
    assert pixels.shape == (46, 46)
    assert (pixels[20:26] == 0).all()  # line between the rows
    assert (pixels[:, 20:26] == 0).all()
    assert (pixels[0:5, 0:20] == 255).all()  # white above the wide picture
    assert (pixels[5:15, 0:20] == 100).all()
    assert (pixels[0:20, 26:31] == 255).all()  # white beside the high one
    assert (pixels[0:20, 31:41] == 50).all()


def test_small_pictures_are_enlarged_into_their_cell() -> None:
    pixels = np.asarray(concat_images([_picture(40, 40, 9), _picture(10, 10, 9)]))
    assert (pixels[:, :, 0] == 9).sum() == 2 * 40 * 40


def test_empty_composition() -> None:
    with pytest.raises(omni.InvalidArgumentError):
        concat_images([])
