"""Videos as the model takes them: pictures at one a second, the sound of each second, composed pictures.

Two rules choose the pictures. The published helper reads either with decord, which gives the picture at the
start of each second, or with ffmpeg, whose ``fps`` filter gives the last one before the middle of it. Both
are computed here from the time stamps, so that only the chosen pictures are decoded; the ffmpeg path of the
helper also writes lossy JPEG files and reads them back, which is left out.
"""

from __future__ import annotations

import bisect
import io
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.audio_io import MODEL_RATE, iter_audio, load_audio
from omni.errors import FormatError, InvalidArgumentError, ModelFileError, UnsupportedError
from omni.images import load_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from omni.images import ImageSource

    VideoSource: TypeAlias = str | os.PathLike[str] | bytes

__all__ = ["concat_images", "get_video_frame_audio_segments", "max_num_frames"]

_DEFAULT_MAX_FRAMES = 64
_SEPARATOR = 6  # pixels between the cells of a composition
_MIN_LAST_SEGMENT = MODEL_RATE // 10  # samples; shorter ones make no embedding
_STACK_LIMIT = 30  # pictures a second; more than any of the compositions is made for


def max_num_frames() -> int:
    """Pictures taken of a video at most: 64, or the environment variable MAX_NUM_FRAMES."""
    text = os.environ.get("MAX_NUM_FRAMES", "")
    if not text:
        return _DEFAULT_MAX_FRAMES
    if not text.isdecimal() or int(text) < 1:
        raise InvalidArgumentError(
            f"the environment variable MAX_NUM_FRAMES must be a number from 1 on, not {text!r}"
        )
    return int(text)


def get_video_frame_audio_segments(
    video_path: VideoSource,
    audio_path: str | os.PathLike[str] | bytes | None = None,
    last_vad_timestamp: float | None = None,
    stack_frames: int = 1,
    use_ffmpeg: bool = False,
    adjust_audio_length: bool = False,
    use_audio: bool = True,
) -> tuple[list[Image], list[NDArray[np.float32]] | None, list[Image | None] | None]:
    """Takes a video apart: one picture a second, the sound that belongs to each, and composed pictures.

    Videos of more than `max_num_frames()` seconds give that many pictures, evenly spread. Where the helper
    that this follows fails, it does not: a `last_vad_timestamp` behind the end repeats the last picture, and
    a video without sound gives no segments with `use_ffmpeg` either.

    Args:
        video_path: the file, or its bytes.
        audio_path: sound to use instead of the video's own.
        last_vad_timestamp: seconds to take instead of the whole length.
        stack_frames: pictures a second; those after the first are composed into one (5: a 2 x 2 composition).
        use_ffmpeg: take the pictures that ffmpeg's fps filter would choose, not those at full seconds.
        adjust_audio_length: pad or cut the sound to one second a picture; otherwise a segment lasts to the
            next picture, which is longer than a second in a video that gave fewer pictures than seconds.
        use_audio: False: no segments.

    Returns:
        RGB pictures; mono 16 kHz float32 segments, one a picture, or None without sound; composed pictures,
        one a second (None where a second has no further pictures), or None if `stack_frames` is 1.

    Raises:
        ModelFileError: the file can't be read.
        FormatError: it is not a video, or is damaged from its first picture on.
        InvalidArgumentError: an unusable `stack_frames` or `last_vad_timestamp`.
    """
    if not 1 <= stack_frames <= _STACK_LIMIT:
        raise InvalidArgumentError(f"stack_frames must be 1 to {_STACK_LIMIT}, not {stack_frames}")
    if last_vad_timestamp is not None and not 0 < last_vad_timestamp < math.inf:
        raise InvalidArgumentError(f"last_vad_timestamp must be positive, not {last_vad_timestamp}")
    with Video(video_path) as video:
        timeline = video.timeline()
        duration = timeline.container_duration if use_ffmpeg else timeline.duration
        if last_vad_timestamp is not None:
            duration = last_vad_timestamp
        rule = _ffmpeg_rule if use_ffmpeg else _decord_rule
        choice = rule(timeline, duration, max_num_frames(), stack_frames)
        pictures = video.decode(sorted({*choice.main, *(i for group in choice.stacked for i in group)}))
        has_sound = video.has_sound
    frames = [pictures[index] for index in choice.main]
    stacked = [concat_images([pictures[i] for i in group]) if group else None for group in choice.stacked]

    segments = None
    sound = None
    if use_audio and audio_path is not None:
        sound = load_audio(audio_path, MODEL_RATE)
    elif use_audio and has_sound:
        sound = _own_sound(_as_source(video_path))
    if sound is not None:
        segments = _cut_sound(sound, choice.times, duration, adjust_audio_length)
    return [_to_pillow(frame) for frame in frames], segments, stacked if stack_frames > 1 else None


def _as_source(video: VideoSource) -> str | bytes:
    return bytes(video) if isinstance(video, (bytes, bytearray, memoryview)) else os.fspath(video)


def _to_pillow(pixels: NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)


# ---- which pictures ----


@dataclass(frozen=True)
class Timeline:
    """When a video's pictures are shown, in seconds from its start, ascending; at least one."""

    times: tuple[Fraction, ...]
    end: Fraction  # of the last picture
    rate: Fraction  # pictures a second on average
    container_duration: float

    @property
    def duration(self) -> float:
        return float(len(self.times) / self.rate)


@dataclass(frozen=True)
class _Choice:
    main: list[int]  # indices of pictures
    times: list[float]  # seconds that they stand for
    stacked: list[list[int]]  # for each second, indices of its further pictures


def _pick(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items of a sequence, evenly spread with its ends; all if there are not more."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[j * (len(items) - 1) // (count - 1)] for j in range(count)]


def _group_by_second(times: list[float], indices: list[int], seconds: int) -> list[list[int]]:
    groups: list[list[int]] = [[] for _ in range(seconds)]
    for time, index in zip(times, indices, strict=True):
        groups[min(int(time), seconds - 1)].append(index)
    return groups


def _decord_rule(timeline: Timeline, duration: float, limit: int, stack: int) -> _Choice:
    last, rate = len(timeline.times) - 1, float(timeline.rate)

    def at(time: float) -> int:
        return min(int(time * rate), last)

    seconds = math.ceil(duration)
    if duration > limit:
        times = _pick([round(i * 0.1, 1) for i in range(int(duration / 0.1))], limit)
    else:
        times = [float(second) for second in range(seconds)]
    extra = [
        time for second in range(seconds) for i in range(1, stack) if (time := second + i / stack) < duration
    ]
    extra = _pick(extra, limit * (stack - 1))
    return _Choice(
        [at(time) for time in times], times, _group_by_second(extra, [at(time) for time in extra], seconds)
    )


def _ffmpeg_rule(timeline: Timeline, duration: float, limit: int, stack: int) -> _Choice:
    if duration > limit:
        indices = _fps_filter(timeline, 10)
        picked = _pick([i for i in range(len(indices)) if i / 10 < duration], limit)
        main, times = [indices[i] for i in picked], [round(i / 10, 1) for i in picked]
    else:
        main = _fps_filter(timeline, 1)[: math.ceil(duration)]
        times = [float(i) for i in range(len(main))]
    extra = []
    if stack > 1:
        ticks = enumerate(_fps_filter(timeline, stack))
        extra = [(i / stack, index) for i, index in ticks if i % stack and i / stack < duration]
        extra = _pick(extra, limit * (stack - 1))
    seconds = math.ceil(duration)
    return _Choice(main, times, _group_by_second([t for t, _ in extra], [i for _, i in extra], seconds))


def _fps_filter(timeline: Timeline, rate: int) -> list[int]:
    """Indices of the pictures that ffmpeg's filter fps=`rate` gives.

    Times are rounded to the nearest tick, halves up; each tick shows the last picture not after it; the end
    is rounded likewise.
    """
    ticks = [_round_half_up(time * rate) for time in timeline.times]
    stop = max(_round_half_up(timeline.end * rate), ticks[0] + 1)
    return [bisect.bisect_right(ticks, tick) - 1 for tick in range(ticks[0], stop)]


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


# ---- reading ----


class Video:
    """An open video file. Pictures are uint8 RGB [height, width, 3]."""

    def __init__(self, source: VideoSource) -> None:
        try:
            import av
        except ImportError as error:
            raise UnsupportedError("reading videos needs PyAV: pip install 'omni[media]'") from error
        self._errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError, ValueError)
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._name = f"the video of {len(source)} bytes"
            file: Any = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            self._name = f"video {os.fspath(source)}"
            try:
                file = Path(source).open("rb")  # noqa: SIM115
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ModelFileError(f"{self._name} can't be read: {reason}") from error
        else:
            raise InvalidArgumentError(f"a video must be a path or bytes, not {type(source).__name__}")
        self._file = file
        try:
            self._container = av.open(file)
        except self._errors as error:
            file.close()
            raise FormatError(f"{self._name}: not a video, or cut off: {_reason(error)}") from error
        if not self._container.streams.video:
            self.close()
            raise FormatError(f"{self._name}: holds no pictures; give it as sound instead")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.has_sound = bool(self._container.streams.audio)
        self._stamps: list[int] = []  # time stamps in the order shown
        self._keys: list[int] = []  # those of pictures where decoding may start

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def timeline(self) -> Timeline:
        """Reads the file's packets, without decoding them."""
        stamps: dict[int, int] = {}
        durations: list[int] = []
        try:
            for packet in self._container.demux(self._stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size == 0 or stamp is None:
                    continue
                stamps[stamp] = int(packet.duration or 0)
                durations.append(int(packet.duration or 0))
                if packet.is_keyframe:
                    self._keys.append(stamp)
        except self._errors as error:
            if not stamps:
                raise FormatError(f"{self._name}: damaged: {_reason(error)}") from error
            warnings.warn(
                f"{self._name}: damaged after {len(stamps)} pictures: {_reason(error)}", stacklevel=4
            )
        if not stamps:
            raise FormatError(f"{self._name}: holds no pictures")
        self._stamps, base = sorted(stamps), self._stream.time_base
        self._keys.sort()
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        start = Fraction(self._container.start_time or 0, 1_000_000)
        times = tuple(stamp * base - start for stamp in self._stamps)
        end = times[-1] + (stamps[self._stamps[-1]] * base or 1 / Fraction(rate))
        length = self._container.duration
        return Timeline(times, end, Fraction(rate), length / 1_000_000 if length else float(end))

    def decode(self, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        """The pictures with these indices, ascending. For one that doesn't decode, the last before it."""
        found = dict(zip(indices, self.pictures(indices), strict=True))
        first = next(picture for picture in found.values() if picture is not None)
        return {index: first if picture is None else picture for index, picture in found.items()}

    def pictures(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8] | None]:
        """The same one by one, as they are decoded; None for one that doesn't and has none before it.

        Raises FormatError at the end if none was decoded, and warns if some were not.
        """
        good: NDArray[np.uint8] | None = None
        missing = 0
        for picture in self._wanted(indices):
            missing += picture is None
            good = good if picture is None else picture
            yield good
        if good is None:
            raise FormatError(f"{self._name}: none of its pictures can be decoded")
        if missing:
            warnings.warn(
                f"{self._name}: damaged, {missing} of {len(indices)} pictures repeat another", stacklevel=4
            )

    def _wanted(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8] | None]:
        """Decodes from the start or from key pictures on, whichever comes later."""
        frames = self._frames(self._stamps[indices[0]])
        ahead: tuple[int, Any] | None = None  # the last picture decoded, and its time stamp
        for index in indices:
            stamp = self._stamps[index]
            if ahead is not None and ahead[0] < self._last_key(stamp):
                frames, ahead = self._frames(stamp), None
            while ahead is None or ahead[0] < stamp:
                ahead = next(frames, None)
                if ahead is None:
                    break
            yield None if ahead is None else _pixels(ahead[1])

    def _last_key(self, stamp: int) -> int:
        at = bisect.bisect_right(self._keys, stamp)
        return self._keys[at - 1] if at else self._stamps[0]

    def _frames(self, stamp: int) -> Iterator[tuple[int, Any]]:
        """Pictures from the last key picture before `stamp` on. Packets that don't decode are left out."""
        try:
            self._container.seek(self._last_key(stamp), stream=self._stream)
        except self._errors as error:
            raise FormatError(f"{self._name}: can't be searched: {_reason(error)}") from error
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except self._errors:
                continue  # if it was reading that failed, the packets end here
            for frame in frames:
                if frame.pts is not None:
                    yield frame.pts, frame


def _pixels(frame: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    # Phones store pictures lying and say how to turn them; quarter turns, counter-clockwise.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


# ---- sound ----


def _own_sound(video: str | bytes) -> NDArray[np.float32] | None:
    """The sound of a video, up to where it is damaged."""
    blocks: list[NDArray[np.float32]] = []
    try:
        blocks.extend(iter_audio(video, MODEL_RATE))
    except FormatError as error:
        warnings.warn(f"sound of the video: {error}", stacklevel=3)
    if not blocks:
        warnings.warn("the video has a sound track without sound", stacklevel=3)
        return None
    return np.concatenate(blocks)


def _cut_sound(
    sound: NDArray[np.float32], times: list[float], duration: float, one_second_each: bool
) -> list[NDArray[np.float32]]:
    """One segment a picture."""
    if one_second_each:
        whole = np.zeros(len(times) * MODEL_RATE, np.float32)
        kept = min(len(whole), len(sound))
        whole[:kept] = sound[:kept]
        return list(whole.reshape(len(times), MODEL_RATE))
    bounds = [int(time * MODEL_RATE) for time in (*times, duration)]
    segments = [sound[start:stop] for start, stop in itertools.pairwise(bounds)]
    short = _MIN_LAST_SEGMENT - len(segments[-1])
    if short > 0:
        segments[-1] = np.concatenate([segments[-1], np.zeros(short, np.float32)])
    return segments


# ---- composed pictures ----


def concat_images(images: Sequence[ImageSource]) -> Image:
    """Composes pictures into one: four as 2 x 2, two or three nearest to a square, any other number as a row.

    Each is fitted into a white cell as large as the largest width and height; black lines of 6 pixels lie
    between the cells.
    """
    if not images:
        raise InvalidArgumentError("a composition needs at least one picture")
    pixels = [load_image(image) for image in images]
    width, height = max(p.shape[1] for p in pixels), max(p.shape[0] for p in pixels)
    rows, columns = _layout(pixels, width, height)
    step_x, step_y = width + _SEPARATOR, height + _SEPARATOR
    canvas = np.zeros((rows * step_y - _SEPARATOR, columns * step_x - _SEPARATOR, 3), np.uint8)
    for number, picture in enumerate(pixels):
        top, left = number // columns * step_y, number % columns * step_x
        canvas[top : top + height, left : left + width] = _fit(picture, width, height)
    return _to_pillow(canvas)


def _layout(pixels: Sequence[NDArray[np.uint8]], width: int, height: int) -> tuple[int, int]:
    """Rows and columns."""
    count = len(pixels)
    if count == 4:
        return 2, 2
    if count not in (2, 3):
        return 1, count
    gaps = (count - 1) * _SEPARATOR
    as_row = abs((count * width + gaps) / height - 1)
    as_column = abs(width / (count * height + gaps) - 1)
    wide = count == 3 or sum(p.shape[1] / p.shape[0] for p in pixels) / count >= 1
    if as_row < as_column or (as_row == as_column and wide):
        return 1, count
    return count, 1


def _fit(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture in the middle of a white cell, as large as it fits."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    fitted_width = max(1, round(picture.shape[1] * scale))
    fitted_height = max(1, round(picture.shape[0] * scale))
    cell = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - fitted_height) // 2, (width - fitted_width) // 2
    cell[top : top + fitted_height, left : left + fitted_width] = _ext.resize_bicubic(
        picture, fitted_width, fitted_height
    )
    return cell
