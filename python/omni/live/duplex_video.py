"""The published helper that shows a duplex conversation: the video that was seen, with what was said."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omni import media
from omni.audio_io import load_audio
from omni.errors import InvalidArgumentError
from omni.live.mp4 import Mp4Writer
from omni.live.subtitles import draw_subtitle

_MARKERS = ("<|tts_pad|>", "<|turn_eos|>", "<|chunk_eos|>", "<|listen|>", "<|speak|>")


def generate_duplex_video(
    video_path: str | os.PathLike[str],
    output_video_path: str | os.PathLike[str],
    results_log: Sequence[Mapping[str, Any]],
    timed_output_audio: Sequence[tuple[int, ArrayLike]],
    output_sample_rate: int = 24000,
) -> str:
    """Writes an MP4 of a video with the model's answers: their sound, and their text as subtitles.

    The answer to a second is heard and shown in the next one. With sound in the video, both are mixed at half
    their loudness each. Parameters, times and look are those of the published helper; the subtitles are drawn
    here, and the sound is mono.

    Args:
        video_path: the video that the model saw.
        output_video_path: the file to write; another one there is replaced.
        results_log: of every unit `chunk_idx`, `text` and `is_listen`; without the last it counts as
            listening.
        timed_output_audio: `(chunk_idx, samples)` of every unit that spoke; float [n].
        output_sample_rate: of that sound, and of the file's.

    Returns:
        `output_video_path`.

    Raises:
        ModelFileError: a file can't be read or written.
        FormatError: the video is none.
        InvalidArgumentError: unusable times, samples or rate.
    """
    if not 8000 <= output_sample_rate <= 96000:
        raise InvalidArgumentError(f"output_sample_rate must be 8000 to 96000, not {output_sample_rate}")
    target = Path(output_video_path)
    unfinished = target.with_name(target.name + ".unfinished")
    with media.Video(video_path) as video:
        timeline = video.timeline()
        duration = float(timeline.end)
        captions = subtitles_of(results_log, duration)
        speech = mix_speech(timed_output_audio, output_sample_rate, duration)
        track = _mixed(video_path, speech, output_sample_rate) if video.has_sound else speech
        try:
            _write(unfinished, video, timeline, captions, track, output_sample_rate)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return os.fspath(output_video_path)


def subtitles_of(results_log: Iterable[Mapping[str, Any]], duration: float) -> list[tuple[float, float, str]]:
    """Beginning, end (in seconds) and text of what is shown in a video of this length."""
    found = []
    for entry in results_log:
        text = str(entry.get("text") or "")
        if entry.get("is_listen", True) or not text:
            continue
        for marker in _MARKERS:
            text = text.replace(marker, "")
        text = text.strip()
        start = float(_unit(entry.get("chunk_idx")) + 1)
        if text and start < duration:
            found.append((start, min(start + 1, duration), text))
    return found


def mix_speech(timed: Iterable[tuple[int, ArrayLike]], rate: int, duration: float) -> NDArray[np.float32]:
    """One track [n] of the sound that answers each unit, at least as long as the video; overlaps add."""
    pieces = []
    end = duration
    for unit, sound in timed:
        samples = np.asarray(sound, np.float32).reshape(-1)
        if not np.isfinite(samples).all():
            raise InvalidArgumentError(f"the sound of unit {unit} has values that are not finite")
        start = _unit(unit) + 1
        pieces.append((start * rate, samples))
        end = max(end, start + len(samples) / rate)
    track = np.zeros(math.trunc(end * rate + 1e-6), np.float32)
    for first, samples in pieces:
        part = track[first : first + len(samples)]
        part += samples[: len(part)]
    return np.clip(track, -1, 1)


def _unit(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InvalidArgumentError(f"chunk_idx must be a number of a unit, from 0 on, not {value!r}")
    return int(value)


def _mixed(video: str | os.PathLike[str], speech: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    own = load_audio(video, rate)
    track = np.zeros(max(len(own), len(speech)), np.float32)
    track[: len(own)] += 0.5 * own
    track[: len(speech)] += 0.5 * speech
    return track


def _write(
    path: Path,
    video: media.Video,
    timeline: media.Timeline,
    captions: list[tuple[float, float, str]],
    track: NDArray[np.float32],
    rate: int,
) -> None:
    writer: Mp4Writer | None = None
    written = 0
    try:
        for picture, time in zip(video.pictures(range(len(timeline.times))), timeline.times, strict=True):
            if picture is None:
                continue
            if writer is None:
                size = (picture.shape[1], picture.shape[0])
                writer = Mp4Writer(path, size, sound_rate=rate, frame_rate=Fraction(timeline.rate))
            until = round(time * rate)  # sound and pictures advance together: a muxer holds what is ahead
            writer.sound(track[written:until])
            written = max(written, until)
            text = " ".join(text for start, end, text in captions if start <= time < end)
            writer.picture(draw_subtitle(picture, text), float(time))
        if writer is not None:
            writer.sound(track[written:])
    finally:
        if writer is not None:
            writer.close()
