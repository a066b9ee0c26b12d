"""The speech model: text tokens with the language model's hidden states in, S3 speech tokens out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from omni import _ext
from omni.errors import InvalidArgumentError
from omni.vision_encoder import WeightFormat

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SpeechMode = Literal["duplex", "simplex", "chat"]
SpeechAttention = Literal["full_attention", "sliding_window", "sliding_recompute", "reindex"]


def _ids(values: ArrayLike) -> NDArray[np.int32]:
    """Token ids as int32 [n]; other numbers are refused, not rounded."""
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or (array.size > 0 and array.dtype.kind not in "iu"):
        raise InvalidArgumentError("token ids must be whole numbers [n]")
    limits = np.iinfo(np.int32)
    if array.size > 0 and (array.max() > limits.max or array.min() < limits.min):
        raise InvalidArgumentError(f"token ids from {array.min()} to {array.max()}: these are none")
    return array.astype(np.int32)


class SpeechStream:
    """The speech of one conversation; `SpeechModel.stream()` makes it. 25 speech tokens are a second.

    Duplex: every `push()` is one unit of a second and gives at most 25 tokens (exactly 25 in mid-turn).
    Simplex: every 10 text tokens make a block that is spoken until the model ends it; tokens come in groups
    of 25, the rest with the turn's last. Chat: the answer is spoken when it is complete.
    """

    def __init__(self, stream: _ext.SpeechStream, llm_width: int) -> None:
        self._stream = stream
        self._llm_width = llm_width

    def push(self, ids: ArrayLike, hidden: ArrayLike, last: bool = False) -> list[int]:
        """Take text tokens and give all speech tokens that follow from them.

        Args:
            ids: text tokens [n]; n may be 0.
            hidden: float32 [n, D]: the language model's hidden state, after its final norm, at the position
                where each of these tokens was its input.
            last: the turn's text ends here. Without it, more text will follow.

        Raises:
            InvalidArgumentError: an unknown id, NaN, or a wrong shape; the stream is as before then.
            ContextFullError: an answer in chat mode is too long for the model's n_ctx.
        """
        return [token for group in self.chunks(ids, hidden, last) for token in group]

    def push_conditions(self, rows: ArrayLike, last: bool = False) -> list[int]:
        """Do as `push()` with rows float32 [n, W] of `SpeechModel.condition()`."""
        self._stream.push_conditions(np.asarray(rows, dtype=np.float32), last)
        return [token for group in self.rest() for token in group]

    def chunks(self, ids: ArrayLike, hidden: ArrayLike, last: bool = False) -> Iterator[list[int]]:
        """Do as `push()`, but give groups of at most 25 tokens as soon as they are made.

        What was not taken from the iterator is still to come with `rest()`.
        """
        tokens = _ids(ids)
        states = np.asarray(hidden, dtype=np.float32)
        if tokens.size == 0 and states.size == 0:
            states = states.reshape(0, self._llm_width)
        self._stream.push(tokens, states, self._llm_width, last)
        yield from self.rest()

    def rest(self) -> Iterator[list[int]]:
        """Groups of tokens that follow from what was pushed and were not given yet."""
        while group := self._stream.next():
            yield group

    def flush(self) -> list[int]:
        """End a turn whose text ended without `last`, and give the tokens that wait for company."""
        return self._stream.flush()

    def clone(self) -> SpeechStream:
        """Copy the stream with its state."""
        return SpeechStream(self._stream.clone(), self._llm_width)

    def reset(self) -> None:
        """Forget everything; the stream is as it was made, random numbers included."""
        self._stream.reset()

    @property
    def position(self) -> int:
        """Position of the next row in this turn; 0 between turns."""
        return self._stream.position()

    @property
    def n_cached(self) -> int:
        """Computed rows that the next one will see."""
        return self._stream.n_cached()


class SpeechModel:
    """A speech model from its GGUF files. Weights are shared; each conversation has its own stream.

    Args:
        tts_gguf: path of the speech model's file.
        projector_gguf: path of the projector's file; None: the speech model's file holds the same numbers.
        n_ctx: positions of a stream's cache. When they are used up, it goes on from its last two blocks.
        n_threads: threads on the processor; None: one for each physical core.
        device: a name of `omni.list_devices()`, "gpu" for the first accelerator, None for the processor.
        kv_type: how keys and values are kept: "f32", "f16" or "q8_0".
        weight_format: how float weights are held: "stored" as in the file, "bf16", "q8_0", or "auto":
            F16 as BF16 where the processor multiplies that natively.
        repack: let quantised weights be copied into a layout with faster kernels.
        poll: 0 to 100, how eagerly worker threads wait; high values lose when other programs run.

    Raises:
        ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
    """

    def __init__(
        self,
        tts_gguf: str | os.PathLike[str],
        projector_gguf: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        device: str | None = None,
        kv_type: Literal["f32", "f16", "q8_0"] = "f16",
        weight_format: WeightFormat = "stored",
        repack: bool = True,
        poll: int = 1,
    ) -> None:
        self._model = _ext.SpeechModel.open(
            os.fspath(tts_gguf),
            os.fspath(projector_gguf) if projector_gguf is not None else "",
            n_ctx=n_ctx,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            kv_type=kv_type,
            weight_format=weight_format,
            repack=repack,
        )

    @classmethod
    def synthetic(
        cls,
        tts: str = "F16",
        layers: int = 20,
        *,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        device: str | None = None,
        kv_type: Literal["f32", "f16", "q8_0"] = "f16",
        weight_format: WeightFormat = "stored",
        repack: bool = True,
        poll: int = 1,
    ) -> SpeechModel:
        """Make a model of MiniCPM-o 4.5's sizes with random weights of type `tts`, in memory."""
        self = cls.__new__(cls)
        self._model = _ext.SpeechModel.synthetic(
            tts,
            layers,
            n_ctx=n_ctx,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            kv_type=kv_type,
            weight_format=weight_format,
            repack=repack,
        )
        return self

    @property
    def info(self) -> _ext.SpeechModelInfo:
        """Sizes, special ids and memory of the model."""
        return self._model.info

    @property
    def device_name(self) -> str:
        """The device that computes."""
        return self._model.device_name

    def stream(
        self,
        mode: SpeechMode = "duplex",
        temperature: float = 0.8,
        greedy: bool = False,
        seed: int = 0,
        *,
        repetition_penalty: float = 1.05,
        top_p: float = 0.85,
        top_k: int = 25,
        min_tokens: int | None = None,
        max_tokens: int | None = None,
        attention: SpeechAttention = "full_attention",
        window: int = 300,
    ) -> SpeechStream:
        """Begin a conversation.

        Args:
            mode: which sequence and sampling rules; see `SpeechStream`.
            temperature: of the sampling; 0 is greedy.
            greedy: always the most likely token after the penalty, for tests.
            seed: of the random numbers; equal seeds give equal speech, however the text is cut for `push()`.
            repetition_penalty: to the power of a token's count among the last 16.
            top_p: smallest share of the probability that stays (simplex and chat).
            top_k: most tokens that stay, 0: all (simplex and chat).
            min_tokens: no end of speech before so many tokens of a block. None: 25 in mid-turn of duplex,
                0 simplex, 50 chat.
            max_tokens: at most so many tokens in a block. None: duplex 25, simplex 500, chat 2047.
            attention: what a simplex stream still sees of earlier blocks: everything; the last `window`
                positions; the block before, computed again; the first block and the one before.
            window: positions that "sliding_window" keeps.
        """
        stream = self._model.stream(
            mode=mode,
            temperature=temperature,
            greedy=greedy,
            seed=seed,
            repetition_penalty=repetition_penalty,
            top_p=top_p,
            top_k=top_k,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            attention=attention,
            window=window,
        )
        return SpeechStream(stream, self.info.llm_width)

    def condition(self, ids: ArrayLike, hidden: ArrayLike | None = None) -> NDArray[np.float32]:
        """Conditions float32 [n, W] of text tokens [n] with states [n, D]; None: the bare text rows."""
        states = None if hidden is None else np.asarray(hidden, dtype=np.float32)
        return self._model.condition(_ids(ids), states)

    def embed(self, tokens: ArrayLike) -> NDArray[np.float32]:
        """Embeddings float32 [n, W] of speech tokens [n]."""
        return self._model.embed(_ids(tokens))

    def evaluate(self, rows: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute rows [n, W] (conditions, speech embeddings) from position 0 in one go: teacher forcing.

        Returns:
            hidden states after the final norm, float32 [n, W]; logits, float32 [n, 6562].
        """
        return self._model.evaluate(np.asarray(rows, dtype=np.float32))
