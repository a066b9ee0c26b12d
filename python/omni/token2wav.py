"""Speech tokens to sound: 25 tokens a second in, 24 kHz out, in the voice of a reference recording."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from omni import _ext
from omni.errors import InvalidArgumentError
from omni.vision_encoder import WeightFormat
from omni.voice import Voice, VoiceEncoder

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SAMPLE_RATE = 24000


class Token2WavStream:
    """One voice speaking, turn after turn; made by `Token2Wav.stream()`.

    The sound depends on the tokens, not on how they are cut into `push()` calls. A turn of n tokens (with the
    three of silence at its start) gives 960 n samples, after 3840 samples of silence if it took more than one
    window of 28 tokens.
    """

    def __init__(self, stream: _ext.Token2WavStream) -> None:
        self._stream = stream

    def push(self, tokens: ArrayLike, last: bool = False) -> NDArray[np.float32]:
        """Take speech tokens [n] and return the sound that follows: float32 [samples], maybe none.

        `last` ends the turn: everything that is left is returned, and the next call starts a new turn.

        Raises:
            InvalidArgumentError: a token is no speech token; nothing was consumed.
        """
        return self._stream.push(_ids(tokens), last)

    def flush(self) -> NDArray[np.float32]:
        """Speak what is buffered without waiting for a whole window. The turn goes on.

        Short windows sound a little worse. Fewer than eight buffered tokens stay buffered.
        """
        return self._stream.flush()

    def window(self, tokens: ArrayLike, last: bool = False) -> NDArray[np.float32]:
        """Compute one window as it is, past the buffer, for callers that cut windows themselves.

        Args:
            tokens: 5 to 35, of which the last three only serve the others; or 0 to 32 that end the turn.
            last: whether they end the turn.
        """
        return self._stream.window(_ids(tokens), last)

    def reset(self) -> None:
        """Forget the turn so far. The voice stays."""
        self._stream.reset()

    @property
    def buffered(self) -> int:
        """Tokens that wait for more."""
        return self._stream.buffered


class Token2Wav:
    """The networks that turn speech tokens into sound, loaded once and shared by streams.

    Args:
        model_dir: a model directory, or its `token2wav-gguf` folder.
        vocoder: what streams use: "causal", "original", or "auto" for the causal one if there is one.
        weight_format: how float weights are held: "stored", "bf16", "q8_0", or "auto": as BF16 on the
            processor, as stored on accelerators. BF16 is twice to three times as fast as F32 and needs half
            of its memory, for the flow's caches, too; the pitch network is never rounded.
        n_threads: threads on the processor; None: one for each physical core.
        device: a name of `omni.list_devices()`, "gpu" for the first accelerator, None for the processor.
        poll: 0 to 100, how eagerly worker threads wait.

    Raises:
        ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        *,
        vocoder: Literal["auto", "causal", "original"] = "auto",
        weight_format: WeightFormat = "auto",
        n_threads: int | None = None,
        device: str | None = None,
        poll: int = 1,
    ) -> None:
        self._directory: str | None = os.fspath(model_dir)
        self._options: dict[str, Any] = {"n_threads": n_threads, "device": device, "poll": poll}
        self._voices: VoiceEncoder | None = None
        self._model = _ext.Token2Wav.open(
            self._directory,
            weight_format=weight_format,
            vocoder=vocoder,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
        )

    @classmethod
    def synthetic(
        cls,
        *,
        vocoder: Literal["auto", "causal", "original"] = "auto",
        weight_format: WeightFormat = "auto",
        n_threads: int | None = None,
        device: str | None = None,
        poll: int = 1,
    ) -> Token2Wav:
        """Make networks of the published sizes with random weights, in memory, for measurements."""
        self = cls.__new__(cls)
        self._directory = None
        self._options = {"n_threads": n_threads, "device": device, "poll": poll}
        self._voices = None
        self._model = _ext.Token2Wav.synthetic(
            weight_format=weight_format,
            vocoder=vocoder,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
        )
        return self

    @property
    def info(self) -> _ext.Token2WavInfo:
        """Rates, number of speech tokens, vocoders, memory."""
        return self._model.info

    def voice(self, wav: NDArray[Any], rate: int) -> Voice:
        """Compute the voice in a recording: see `VoiceEncoder.encode()`. Its networks are loaded once."""
        if self._voices is None:
            if self._directory is None:
                self._voices = VoiceEncoder.synthetic(**self._options)
            else:
                self._voices = VoiceEncoder(self._directory, **self._options)
        return self._voices.encode(wav, rate)

    def stream(
        self,
        voice: Voice,
        steps: int = 10,
        seed: int = 0,
        *,
        silence: bool = True,
        noise: NDArray[np.float32] | None = None,
        excitation: bool = True,
    ) -> Token2WavStream:
        """Prepare the voice and start a stream.

        Preparing takes about as long as speaking the recording; it is kept for the next stream with the same
        voice and steps.

        Args:
            voice: from `voice()` or `Voice.load()`. The official prompt cache works with 5 steps only.
            steps: of the flow; fewer are faster and less exact. 5 halves the work.
            seed: of the vocoder's noise.
            silence: start every turn with three tokens of silence, so that the first sound needs 25 tokens.
            noise: the flow's noise [80, frames] instead of the fixed table.
            excitation: False silences the vocoder's noise, for comparisons with a fixed reference.

        Raises:
            InvalidArgumentError: the voice can't be used with these steps.
        """
        stream = self._model.stream(
            voice, steps=steps, seed=seed, silence=silence, noise=flow_noise(noise), excitation=excitation
        )
        return Token2WavStream(stream)

    def synthesize(
        self,
        tokens: ArrayLike,
        voice: Voice,
        steps: int = 10,
        seed: int = 0,
        *,
        noise: NDArray[np.float32] | None = None,
        excitation: bool = True,
    ) -> NDArray[np.float32]:
        """Speak tokens [n] (at most a minute) in one piece: float32 [960 n] at 24 kHz.

        Without windows there are no seams and every token sees all others, so it sounds best. The other
        arguments are those of `stream()`. The vocoder is the original one if the model has it.
        """
        return self._model.synthesize(
            _ids(tokens), voice, steps=steps, seed=seed, noise=flow_noise(noise), excitation=excitation
        )

    def vocode(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sound of mel frames [n, 80] by the streams' vocoder: float32 [480 n] at 24 kHz."""
        values = np.ascontiguousarray(mel, np.float32)
        return self._model._vocode(values, for_streams=True, excitation=True)

    def flow_cost(self, steps: int, past: int) -> _ext.Token2WavCost:
        """What the flow computes and reads for a stream's window of 25 tokens behind `past` mel frames."""
        return self._model._flow_cost(steps, past)

    def vocoder_cost(self, frames: int) -> _ext.Token2WavCost:
        """What the streams' vocoder computes and reads for mel frames."""
        return self._model._vocoder_cost(frames)


def _ids(tokens: ArrayLike) -> NDArray[np.int32]:
    values = np.atleast_1d(np.asarray(tokens))
    if values.size == 0:
        return np.zeros(0, np.int32)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InvalidArgumentError(f"speech tokens must be integers [n], not {values.dtype} {values.shape}")
    if values.min() < -(2**31) or values.max() >= 2**31:
        raise InvalidArgumentError("a speech token does not fit 32 bits")
    return values.astype(np.int32)


def flow_noise(noise: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Noise [80, frames] as the engine takes it, frame after frame; None: nothing, for the fixed table."""
    if noise is None:
        return np.zeros(0, np.float32)
    values = np.asarray(noise, np.float32)
    if values.ndim != 2 or values.shape[0] != 80 or values.shape[1] == 0 or not np.isfinite(values).all():
        raise InvalidArgumentError(
            f"the flow's noise must be finite numbers [80, frames], not {values.shape}"
        )
    return np.ascontiguousarray(values.T)
