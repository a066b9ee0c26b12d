"""MP4 files from pictures and sound, written with PyAV."""

from __future__ import annotations

import importlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.errors import ModelFileError, UnsupportedError
from omni.live.subtitles import Picture

_CODECS = ("libx264", "h264", "mpeg4")  # the first that PyAV has
_TIME_BASE = Fraction(1, 90000)
_BLOCK = 1024  # samples of a frame of sound


class Mp4Writer:
    """Pictures at their times and one track of sound.

    Args:
        path: of the file.
        size: width and height of the pictures; an odd last row or column is left out.
        sound_rate: samples a second of the sound; None: no sound.
        channels: of the sound.
        growing: write self-contained parts, each as soon as its pictures are there, so that the file can be
            played whenever its writer is killed; and encode fast. Otherwise smaller and better.
        frame_rate: pictures a second on average; a hint.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        *,
        sound_rate: int | None = None,
        channels: int = 1,
        growing: bool = False,
        frame_rate: Fraction = Fraction(25),
    ) -> None:
        try:
            av: Any = importlib.import_module("av")
        except ImportError as error:
            raise UnsupportedError("writing videos needs PyAV: pip install 'omni[media]'") from error
        self._av = av
        self._path = Path(path)
        self._size = (size[0] // 2 * 2, size[1] // 2 * 2)
        flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        try:
            self._container: Any = av.open(
                str(path), "w", format="mp4", options=flags if growing else {"movflags": "faststart"}
            )
        except OSError as error:
            raise self._failure(error) from error
        codec = next(name for name in _CODECS if name in av.codecs_available)
        video: Any = self._container.add_stream(codec, rate=frame_rate)
        self._video = video
        self._video.width, self._video.height = self._size
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = _TIME_BASE
        if codec != "mpeg4":
            fast = {"preset": "ultrafast", "tune": "zerolatency", "crf": "28"}
            self._video.options = fast if growing else {"preset": "medium", "crf": "23"}
        if growing:
            self._video.codec_context.gop_size = max(1, round(frame_rate))
        self._sound: Any = None
        if sound_rate is not None:
            self._sound = self._container.add_stream(
                "aac", rate=sound_rate, layout="mono" if channels == 1 else "stereo"
            )
        self._left: NDArray[np.float32] = np.zeros((0, channels), np.float32)
        self._n_sound = 0

    def picture(self, pixels: Picture, time: float) -> None:
        """Adds a picture that is shown from a time on, in seconds; times ascend."""
        width, height = self._size
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels[:height, :width]), format="rgb24"
        )
        frame.pts, frame.time_base = round(time / _TIME_BASE), _TIME_BASE
        self._mux(self._video, frame)

    def sound(self, samples: NDArray[np.float32], last: bool = False) -> None:
        """Appends sound [n] or [n, channels] in [-1, 1]."""
        values = samples[:, None] if samples.ndim == 1 else samples
        self._left = np.concatenate([self._left, values]) if len(self._left) else values
        whole = len(self._left) if last else len(self._left) // _BLOCK * _BLOCK
        for start in range(0, whole, _BLOCK):
            part = self._left[start : min(whole, start + _BLOCK)]
            planes = np.ascontiguousarray(np.clip(part, -1, 1).T, dtype=np.float32)
            layout = "mono" if len(planes) == 1 else "stereo"
            frame = self._av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.rate, frame.pts = self._sound.rate, self._n_sound
            frame.time_base = Fraction(1, self._sound.rate)
            self._n_sound += len(part)
            self._mux(self._sound, frame)
        self._left = self._left[whole:]

    def close(self) -> None:
        """Writes what the encoders still hold, and the end of the file."""
        try:
            if self._sound is not None:
                self.sound(np.zeros((0, self._left.shape[1]), np.float32), last=True)
                self._mux(self._sound, None)
            self._mux(self._video, None)
        finally:
            self._container.close()

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mux(self, stream: Any, frame: Any) -> None:
        try:
            self._container.mux(stream.encode(frame))
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> ModelFileError:
        return ModelFileError(f"can't write {os.fspath(self._path)!r}: {error.strerror or error}")
