"""Small generated videos whose pictures say their number, and whose sound says its time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16000
SIZE = (32, 16)  # width, height


def tone_of(seconds: float) -> np.ndarray:
    """Samples whose value is the time: a ramp from 0 to 0.5 in 64 s."""
    return (np.arange(int(seconds * RATE)) / RATE / 128).astype(np.float32)


def make_video(
    path: Path,
    pictures: int,
    fps: int | Fraction = 30,
    *,
    sound_seconds: float | None = None,
    size: tuple[int, int] = SIZE,
    codec: str = "ffv1",
    group: int = 12,
) -> Path:
    """A video of grey pictures, picture i with value i % 256 (codec ffv1 keeps it exactly)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps)
        video.width, video.height = size
        video.pix_fmt = "gray" if codec == "ffv1" else "yuv420p"
        video.codec_context.gop_size = group
        if sound_seconds is not None:
            sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
            samples = np.round(tone_of(sound_seconds) * 32768).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.rate, frame.pts = RATE, 0
            packets = [*sound.encode(frame), *sound.encode(None)]
        for number in range(pictures):
            pixels = np.full((size[1], size[0]), number % 256, np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="gray").reformat(format=video.pix_fmt)
            picture.pts, picture.time_base = number, 1 / Fraction(fps)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if sound_seconds is not None:
            container.mux(packets)
    return path


def make_sound_only(path: Path, seconds: float) -> Path:
    """A container with sound and no pictures."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        samples = np.round(tone_of(seconds) * 32768).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate, frame.pts = RATE, 0
        container.mux([*sound.encode(frame), *sound.encode(None)])
    return path
