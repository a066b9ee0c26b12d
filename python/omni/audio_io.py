"""Sound files and arrays in, mono float32 at the rate asked for out; and WAV files written.

Files are read with soundfile (and PyAV for containers that libsndfile does not know), rates are changed
with soxr. They come with the extra ``omni[media]`` and are imported when first needed.
"""

from __future__ import annotations

import importlib
import io
import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from omni.errors import FormatError, InvalidArgumentError, ModelFileError
from omni.optional import import_optional

Samples: TypeAlias = npt.NDArray[np.float32]
AudioSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any]"

MODEL_RATE = 16000
"""Samples a second that the audio encoder takes."""

_MIN_RATE, _MAX_RATE = 1000, 768000
_MAX_CHANNELS = 64


def load_audio(
    source: AudioSource,
    rate: int = MODEL_RATE,
    *,
    source_rate: int | None = None,
    max_seconds: float | None = None,
) -> Samples:
    """Read a whole file or array as mono sound.

    Args:
        source: A path, the bytes of a file, an open binary file, or an array of samples: [n] or
            [n, channels], float in [-1, 1] or int16 / int32 / uint8 as in WAV files.
        rate: Samples a second of the result.
        source_rate: Samples a second of an array; required for arrays, refused for files (they say it).
        max_seconds: Stop reading there.

    Returns:
        float32[ceil(n * rate / source rate)]; channels are averaged before the rate is changed.

    Raises:
        ModelFileError: The file can't be opened.
        FormatError: It is not sound, is damaged before its first sample, or holds NaN or infinite samples.
        InvalidArgumentError: An array or rate is unusable.
        UnsupportedError: A package that is needed is not installed.
    """
    sound = bytearray()  # grows in place; a list of blocks would be held twice while it is joined
    for block in iter_audio(source, rate, source_rate=source_rate):
        sound += block.tobytes()
        if max_seconds is not None and len(sound) >= 4 * int(max_seconds * rate):
            del sound[4 * int(max_seconds * rate) :]
            break
    if not sound:
        raise FormatError(f"{_name(source)} holds no sound")
    return np.frombuffer(sound, dtype=np.float32)


def load_recording(source: str | os.PathLike[str], max_seconds: float = 60.0) -> tuple[Samples, int]:
    """Read a file at its own rate: mono float32 [n], at most `max_seconds`, and samples a second.

    Raises as `load_audio` does.
    """
    name = _name(source)
    file, _ = _open(source)
    with file:
        rate, blocks = _file_blocks(file, name, 10.0)
        found: list[Samples] = []
        for block in _checked(blocks, name):
            found.append(block)
            if sum(map(len, found)) >= max_seconds * rate:
                break
    if not found:
        raise FormatError(f"{name} holds no sound")
    return np.concatenate(found)[: int(max_seconds * rate)], rate


def iter_audio(
    source: AudioSource,
    rate: int = MODEL_RATE,
    *,
    source_rate: int | None = None,
    block_seconds: float = 10.0,
) -> Iterator[Samples]:
    """Read like load_audio, block by block: memory does not grow with the length of the sound.

    Args:
        source: As for load_audio.
        rate: Samples a second of the blocks.
        source_rate: As for load_audio.
        block_seconds: About how much is read at a time.

    Yields:
        float32[n] with n > 0; all blocks joined are what load_audio returns.
    """
    _check_rate(rate, "rate")
    if not block_seconds > 0:
        raise InvalidArgumentError(f"block_seconds must be positive, not {block_seconds}")
    if isinstance(source, np.ndarray):
        if source_rate is None:
            raise InvalidArgumentError("an array does not say its rate: pass source_rate=")
        _check_rate(source_rate, "source_rate")
        yield from _convert(_array_blocks(source, source_rate, block_seconds), source_rate, rate)
        return
    if source_rate is not None:
        raise InvalidArgumentError("source_rate is for arrays; a file says its own rate")
    name = _name(source)
    file, owned = _open(source)
    try:
        found, blocks = _file_blocks(file, name, block_seconds)
        yield from _convert(_checked(blocks, name), found, rate)
    finally:
        if owned:
            file.close()


class Resampler:
    """Changes the rate of a stream of mono samples; how the input is cut does not change what comes out."""

    def __init__(self, source_rate: int, rate: int) -> None:
        """Take samples at source_rate, give samples at rate (both in samples a second)."""
        _check_rate(source_rate, "source_rate")
        _check_rate(rate, "rate")
        self.source_rate = source_rate
        self.rate = rate
        self._soxr = None if source_rate == rate else import_optional("soxr", "media")
        self.reset()

    def reset(self) -> None:
        """Forget the stream and start a new one."""
        self._taken = 0
        self._given = 0
        self._ended = False
        self._stream: Any = None
        if self._soxr is not None:
            self._stream = self._soxr.ResampleStream(
                self.source_rate, self.rate, 1, dtype="float32", quality="HQ"
            )

    def push(self, samples: npt.NDArray[Any]) -> Samples:
        """Take float32[n] and return what is ready, float32[k]; k may be 0."""
        if self._ended:
            raise InvalidArgumentError("the resampler was flushed; reset it before the next push")
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise InvalidArgumentError(f"a resampler takes mono samples [n], got {list(samples.shape)}")
        self._taken += len(samples)
        out = samples if self._stream is None else self._stream.resample_chunk(samples)
        return self._cut(np.asarray(out, dtype=np.float32))

    def flush(self) -> Samples:
        """End the stream; returns the rest. In all, ceil(n * rate / source_rate) samples came out."""
        if self._ended:
            return np.zeros(0, np.float32)
        self._ended = True
        if self._stream is None or self._taken == 0:
            return np.zeros(0, np.float32)
        rest = self._cut(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        missing = self._due() - self._given
        self._given += missing
        return np.concatenate([rest, np.zeros(missing, np.float32)]) if missing else rest

    def _due(self) -> int:
        return -(-self._taken * self.rate // self.source_rate)

    def _cut(self, out: Samples) -> Samples:
        out = out[: self._due() - self._given]
        self._given += len(out)
        return out


def save_wav(path: str | os.PathLike[str] | BinaryIO, samples: npt.NDArray[Any], rate: int) -> None:
    """Write samples [n] or [n, channels], float in [-1, 1], as a 16-bit WAV file; louder ones are clipped."""
    _check_rate(rate, "rate")
    values = float_samples(samples)
    if not np.isfinite(values).all():
        raise InvalidArgumentError("samples to write must be finite numbers; there are NaN or infinite ones")
    frames = to_pcm16(values)
    encoded = io.BytesIO()
    with wave.open(encoded, "wb") as out:
        out.setnchannels(frames.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(frames.tobytes())
    if not isinstance(path, (str, os.PathLike)):
        path.write(encoded.getvalue())
        return
    try:
        Path(path).write_bytes(encoded.getvalue())
    except OSError as e:
        raise ModelFileError(f"can't write {os.fspath(path)!r}: {e.strerror or e}") from e


def to_pcm16(samples: Samples) -> npt.NDArray[np.int16]:
    """Samples in [-1, 1] as 16-bit little-endian integers; louder ones are clipped."""
    frames: npt.NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    return frames


def _name(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, np.ndarray):
        return "the array"
    return str(getattr(source, "name", "the audio data"))


def _check_rate(rate: int, what: str) -> None:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise InvalidArgumentError(f"{what} must be {_MIN_RATE} to {_MAX_RATE} samples a second, not {rate}")


def _open(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[BinaryIO, bool]:
    """The source as a binary file, and whether to close it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), True
    if isinstance(source, (str, os.PathLike)):
        # Opened here and not by the libraries: every name of the file system works, and errors are Python's.
        try:
            return Path(source).open("rb"), True
        except (OSError, ValueError) as e:
            reason = e.strerror if isinstance(e, OSError) and e.strerror else e
            raise ModelFileError(f"can't read {os.fspath(source)!r}: {reason}") from e
    if hasattr(source, "read") and hasattr(source, "seek"):
        return source, False
    raise InvalidArgumentError(
        "sound comes from a path, bytes, a seekable binary file or an array, not from "
        f"{type(source).__name__}"
    )


def _file_blocks(file: BinaryIO, name: str, block_seconds: float) -> tuple[int, Iterator[Samples]]:
    """Rate and mono blocks of an open file."""
    soundfile = import_optional("soundfile", "media")
    start = file.tell()
    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as e:
        file.seek(start)
        if not file.read(1):
            raise FormatError(f"{name} is empty") from e
        file.seek(start)
        return _container_blocks(file, name, getattr(e, "error_string", str(e)))
    if not _MIN_RATE <= sound.samplerate <= _MAX_RATE or sound.channels > _MAX_CHANNELS:
        raise FormatError(f"{name} claims {sound.samplerate} samples a second in {sound.channels} channels")

    def blocks() -> Iterator[Samples]:
        size = max(1, int(block_seconds * sound.samplerate))
        with sound:
            while True:
                try:
                    block = sound.read(size, dtype="float32", always_2d=True)
                except (soundfile.LibsndfileError, RuntimeError) as e:
                    raise FormatError(f"{name} is damaged: {e}") from e
                if not len(block):
                    return
                yield _mono(block)

    return sound.samplerate, blocks()


def _container_blocks(file: BinaryIO, name: str, reason: str) -> tuple[int, Iterator[Samples]]:
    """The same for containers and codecs that libsndfile does not know, such as m4a and webm."""
    try:
        av = importlib.import_module("av")
    except ImportError as e:
        raise FormatError(
            f"{name} is not sound that libsndfile reads ({reason}); more formats: pip install 'omni[media]'"
        ) from e
    try:
        container = av.open(file)
    except (OSError, ValueError) as e:
        raise FormatError(f"{name} is not a sound file, or is damaged ({reason})") from e
    if not container.streams.audio:
        container.close()
        raise FormatError(f"{name} holds no sound")
    stream = container.streams.audio[0]
    found = int(stream.codec_context.sample_rate or 0)
    if not _MIN_RATE <= found <= _MAX_RATE:
        container.close()
        raise FormatError(f"{name} claims {found} samples a second")

    def blocks() -> Iterator[Samples]:
        planar = av.AudioResampler(format="fltp", rate=found)
        try:
            for frame in container.decode(stream):
                frame.pts = None  # gaps in damaged time stamps are not filled
                for part in planar.resample(frame):
                    yield _mono(part.to_ndarray().T)
        except (OSError, ValueError) as e:
            raise FormatError(f"{name} is damaged: {e}") from e
        finally:
            container.close()

    return found, blocks()


def _array_blocks(samples: npt.NDArray[Any], rate: int, block_seconds: float) -> Iterator[Samples]:
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InvalidArgumentError(f"sound is an array [n] or [n, channels], got shape {list(samples.shape)}")
    if samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS:
        raise InvalidArgumentError(
            f"an array of shape {list(samples.shape)} would have {samples.shape[1]} channels; "
            "the order is [n, channels], so transpose it"
        )
    size = max(1, int(block_seconds * rate))
    for start in range(0, len(samples), size):
        block = _mono(float_samples(samples[start : start + size]))
        if not np.isfinite(block).all():
            at = start + int(np.argmin(np.isfinite(block)))
            raise InvalidArgumentError(
                f"sample {at} of the array is {block[at - start]}; samples must be finite"
            )
        yield block


def float_samples(samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 [n, channels] of float or integer samples."""
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise InvalidArgumentError(f"sound is an array [n] or [n, channels], got shape {list(samples.shape)}")
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if samples.dtype in (np.int16, np.int32):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    raise InvalidArgumentError(f"samples are float, uint8, int16 or int32, not {samples.dtype}")


def _mono(block: npt.NDArray[np.float32]) -> Samples:
    if block.shape[1] == 1:
        return np.ascontiguousarray(block[:, 0])
    mixed: Samples = block.mean(axis=1, dtype=np.float32)
    return mixed


def _checked(blocks: Iterator[Samples], name: str) -> Iterator[Samples]:
    start = 0
    for block in blocks:
        if not np.isfinite(block).all():
            at = int(np.argmin(np.isfinite(block)))
            raise FormatError(f"{name}: sample {start + at} is {block[at]}; samples must be finite")
        start += len(block)
        yield block


def _convert(blocks: Iterator[Samples], source_rate: int, rate: int) -> Iterator[Samples]:
    resampler = Resampler(source_rate, rate)
    for block in blocks:
        out = resampler.push(block)
        if len(out):
            yield out
    rest = resampler.flush()
    if len(rest):
        yield rest
