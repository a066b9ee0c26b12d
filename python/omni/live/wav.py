"""A WAV file that grows: whoever opens it, and whenever its writer is killed, it is whole."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from omni.audio_io import to_pcm16
from omni.errors import InvalidArgumentError, ModelFileError

_LIMIT = 0xFFFFFFFF  # of a size in the header; players read what lies behind it to the end of the file


class GrowingWav:
    """A 16-bit WAV file, written without buffers, its header brought up to date with every write."""

    def __init__(self, path: str | os.PathLike[str], rate: int, channels: int = 1) -> None:
        self.path = Path(path)
        self.rate, self.channels = rate, channels
        self.frames = 0  # written so far
        try:
            self._file = self.path.open("wb", buffering=0)
        except OSError as error:
            raise self._failure(error) from error
        self._write_header()

    @property
    def seconds(self) -> float:
        """Length so far."""
        return self.frames / self.rate

    def write(self, samples: NDArray[np.float32]) -> None:
        """Appends samples [n] or [n, channels] in [-1, 1]; louder ones are clipped.

        Raises:
            InvalidArgumentError: another number of channels, or samples that are not finite.
            ModelFileError: the disk is full, or the file is gone.
        """
        values = samples.reshape(-1, 1) if samples.ndim == 1 else samples
        if values.ndim != 2 or values.shape[1] != self.channels:
            raise InvalidArgumentError(
                f"{self.path} has {self.channels} channels; samples have the shape {list(samples.shape)}"
            )
        if not np.isfinite(values).all():
            raise InvalidArgumentError(f"samples for {self.path} must be finite numbers")
        if not len(values):
            return
        data = to_pcm16(values).tobytes()
        try:
            self._file.seek(0, os.SEEK_END)
            while data:  # a write may take a part only
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise self._failure(error) from error
        self.frames += len(values)
        self._write_header()

    def close(self) -> None:
        """Closes the file, which has always been complete."""
        self._file.close()

    def __enter__(self) -> GrowingWav:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_header(self) -> None:
        frame = 2 * self.channels
        size = self.frames * frame
        header = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            b"RIFF", min(36 + size, _LIMIT), b"WAVE",
            b"fmt ", 16, 1, self.channels, self.rate, self.rate * frame, frame, 16,
            b"data", min(size, _LIMIT),
        )  # fmt: skip
        try:
            self._file.seek(0)
            self._file.write(header)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> ModelFileError:
        return ModelFileError(f"can't write {os.fspath(self.path)!r}: {error.strerror or error}")
