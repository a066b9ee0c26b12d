"""The audio encoder: mono sound at 16 kHz in, embeddings for the language model out, ten a second."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from omni import _ext
from omni.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WeightFormat: TypeAlias = Literal["auto", "stored", "bf16", "q8_0"]


class AudioEncoder:
    """A Whisper encoder with its projection, from a GGUF file.

    Keeps no state between clips; streams own theirs and share the weights. Calls from several threads run
    one after another.

    Args:
        gguf: path of the file.
        n_threads: threads on the processor; None: one for each physical core.
        device: a name of `omni.list_devices()`, "gpu" for the first accelerator, None for the processor.
        weight_format: how weights are held: "stored" as in the file, "bf16", "q8_0", or "auto": F16 as BF16
            where the processor multiplies BF16 natively: nearly twice as fast, with activations
            rounded to BF16 in the products.
        repack: let quantised weights be copied into a layout with faster kernels.
        kv_type: how a stream keeps keys and values: "f32" or "f16".
        poll: 0 to 100, how eagerly worker threads wait; high values lose when other programs run.

    Raises:
        ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
    """

    def __init__(
        self,
        gguf: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        device: str | None = None,
        weight_format: WeightFormat = "auto",
        repack: bool = True,
        kv_type: Literal["f32", "f16"] = "f16",
        poll: int = 1,
    ) -> None:
        self._encoder = _ext.AudioEncoder.open(
            os.fspath(gguf),
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            weight_format=weight_format,
            repack=repack,
            kv_type=kv_type,
        )

    @classmethod
    def synthetic(
        cls,
        type: str = "F16",
        layers: int = 24,
        *,
        n_threads: int | None = None,
        device: str | None = None,
        weight_format: WeightFormat = "auto",
        repack: bool = True,
        kv_type: Literal["f32", "f16"] = "f16",
        poll: int = 1,
    ) -> AudioEncoder:
        """Make an encoder of MiniCPM-o 4.5's sizes with random weights of `type`, in memory."""
        self = cls.__new__(cls)
        self._encoder = _ext.AudioEncoder.synthetic(
            type,
            layers,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            weight_format=weight_format,
            repack=repack,
            kv_type=kv_type,
        )
        return self

    @property
    def info(self) -> _ext.AudioEncoderInfo:
        """Sizes and memory of the encoder."""
        return self._encoder.info

    @property
    def device_name(self) -> str:
        """The device that computes."""
        return self._encoder.device_name

    def mel(self, wav16k: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Log-mel features of a clip: float32 [80, T], T = ceil(samples / 160).

        Pieces of 30 s are independent: each is floored at its own maximum.
        """
        return self._encoder.mel.clip(_samples(wav16k))

    def embedding_count(self, samples: int) -> int:
        """Embeddings that `encode()` makes of so many samples: the number of placeholder tokens."""
        return self._encoder.embedding_count(samples)

    def encode(
        self, wav16k: NDArray[np.floating[Any]], chunk_seconds: float | None = 1.0
    ) -> NDArray[np.float32]:
        """Embed a clip of any length: float32 [embedding_count(samples), D].

        Args:
            wav16k: mono samples [n] in [-1, 1], 16 kHz (see `omni.audio_io.load_audio`).
            chunk_seconds: a position sees those of its own chunk and of earlier ones; None: all of its piece
                of 30 s.
        """
        return self._encoder.encode([_samples(wav16k)], chunk_seconds)

    def encode_batch(
        self, wavs16k: Sequence[NDArray[np.floating[Any]]], chunk_seconds: float | None = 1.0
    ) -> NDArray[np.float32]:
        """Embed the clips of one request: float32 [n, D], clip after clip.

        As in the reference, what pads a short clip to the longest one is visible to it, so the result
        differs slightly from that of single clips.
        """
        return self._encoder.encode([_samples(wav) for wav in wavs16k], chunk_seconds)

    def stream(self, mode: Literal["simplex", "duplex"] = "simplex", *, lead_in: bool = True) -> AudioStream:
        """Begin a stream that encodes sound second by second.

        Args:
            mode: "duplex" gives each second 20 ms of its neighbours, so that convolutions have no seams;
                "simplex" none.
            lead_in: False if the sound brings the 35 ms of zeros before its first sample itself.
        """
        return AudioStream(self._encoder.stream(mode, lead_in))


class AudioStream:
    """Sound in, embeddings out as soon as a second is complete; made by `AudioEncoder.stream()`.

    35 ms of zeros are put before the first sample. How the sound is cut into pushes changes nothing. Each
    position sees all earlier ones since the last reset; when the position table is used up, after 29 s, the
    past is dropped.
    """

    def __init__(self, stream: _ext.AudioStream) -> None:
        self._stream = stream

    def push(self, wav16k: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Take samples [n], 16 kHz mono; returns what is complete, float32 [k, D]; k may be 0."""
        return self._stream.push(_samples(wav16k))

    def flush(self) -> NDArray[np.float32]:
        """End the stream: embeddings of what is left of a second, float32 [k, D]. Then reset() it."""
        return self._stream.flush()

    def reset(self) -> None:
        """Forget everything and begin again."""
        self._stream.reset()

    def clone(self) -> AudioStream:
        """Copy the stream with its state."""
        return AudioStream(self._stream.clone())

    @property
    def length(self) -> int:
        """Positions that the next second will see."""
        return self._stream.length


def _samples(wav: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    array = np.asarray(wav)
    if array.dtype.kind != "f":
        # Integers would be taken for enormous floats.
        raise InvalidArgumentError(
            f"samples are floats in [-1, 1], not {array.dtype}: use omni.audio_io.load_audio(), which scales"
        )
    return array.astype(np.float32, copy=False)
