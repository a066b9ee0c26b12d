"""Full duplex that runs by itself: sound and pictures are pushed in as they come, events come out."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.audio_io import MODEL_RATE, Resampler, float_samples, load_audio
from omni.duplex_events import EVENTS, Event
from omni.errors import InvalidArgumentError
from omni.prompts import duplex_prompt
from omni.voice import Voice

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from omni.minicpmo import MiniCPMO
    from omni.speaking import Recording

__all__ = ["AsyncDuplexSession", "DuplexSession"]

_SLICE = 0.1  # seconds without a look at Ctrl-C
_WINDOW_SIZES = (
    "basic_window_high_tokens",
    "basic_window_low_tokens",
    "context_previous_max_tokens",
    "context_max_units",
)
T = TypeVar("T")


def _reference(recording: Recording | Voice | None) -> NDArray[np.float32] | None:
    """The recording as the prompt has it: float32 [n] at 16 kHz."""
    if recording is None or isinstance(recording, Voice):
        return None
    if isinstance(recording, (str, os.PathLike)):
        return load_audio(recording)
    return load_audio(np.asarray(recording), source_rate=MODEL_RATE)


class DuplexSession:
    """One conversation in full duplex, its stages side by side on threads of their own.

    with DuplexSession(model) as session:
        session.push_audio(samples)  # from any thread, as they come
        for event in session: ...

    Input is cut into units of exactly one second; the model decides for each whether it listens or speaks.
    Methods may be called from any thread. An error in a stage ends the session; it is raised where events are
    read, after those before it, and by the methods that push.

    Args:
        model: a model with its sound encoder; with its picture encoder if it is to see.
        prompt: what the model is to be; None: the published default. Two texts are fed as they are, special
            tokens included, before and after the recording.
        ref_audio: the voice to speak with, shown to the model as well: a file, or float32 [n] at 16 kHz. A
            `Voice` is only spoken with. None: the voice that the model was given, or else has.
        generate_audio: speak; False: answers are text.
        steps: of the flow; None: 10, or those of the voice.
        force_listen: so many units listen at first.
        max_speak: text tokens of a unit.
        sliding_window_mode: how a full context is shortened: "basic", "context" or "off" (an error then).
        window: sizes of the windows, by the published names (basic_window_high_tokens, ...); what is not
            given is as the model's files say.
        temperature, top_k, top_p, text_repetition_penalty, text_repetition_window_size, length_penalty,
            listen_prob_scale, listen_top_k: of text and decisions. top_k None: 100, or 20 of the server.
        tts_temperature, tts_repetition_penalty: of speech tokens.
        seed: None: a new one.
        greedy: always the likeliest token, in text and speech.
        max_slice_nums: of each picture; 1: its overview alone.
        max_frames_per_unit: the latest pictures of a second that count.
        max_queued_units: seconds of input that may wait before the oldest is dropped.
        n_ctx: rows of context; None: the model's.
        real_time: False: nothing is dropped or degrades, and `push_audio()` waits while queues are full.
        on_event: called with each event on a thread of its own; then the session can't be iterated.
        quirks: "fixed", or "reference" for the faults of the published code; None: the model's.

    Raises:
        InvalidArgumentError, ModelFileError, FormatError, ContextFullError, OutOfMemoryError, DeviceError
    """

    _native: _ext.DuplexSession
    _sees: bool

    def __init__(
        self,
        model: MiniCPMO,
        *,
        prompt: str | tuple[str, str] | None = None,
        ref_audio: Recording | Voice | None = None,
        generate_audio: bool = True,
        steps: int | None = None,
        force_listen: int = 0,
        max_speak: int = 20,
        sliding_window_mode: Literal["basic", "context", "off"] = "basic",
        window: Mapping[str, int] | None = None,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float = 0.8,
        text_repetition_penalty: float = 1.05,
        text_repetition_window_size: int = 512,
        length_penalty: float = 1.1,
        listen_prob_scale: float = 1.0,
        listen_top_k: int | None = None,
        tts_temperature: float = 0.8,
        tts_repetition_penalty: float = 1.05,
        seed: int | None = None,
        greedy: bool = False,
        max_slice_nums: int = 1,
        max_frames_per_unit: int = 1,
        max_queued_units: int = 4,
        n_ctx: int | None = None,
        real_time: bool = True,
        on_event: Callable[[Event], None] | None = None,
        quirks: Literal["fixed", "reference"] | None = None,
    ) -> None:
        logic = _ext.DuplexOptions.of_model(str(model.files.llm))
        logic.max_new_speak_tokens_per_chunk = max_speak
        logic.force_listen_count = force_listen
        logic.sliding_window_mode = sliding_window_mode
        rows = n_ctx or model._n_ctx  # a smaller context slides by as much of it
        logic.basic_window_high_tokens = min(logic.basic_window_high_tokens, rows)
        logic.basic_window_low_tokens = min(logic.basic_window_low_tokens, rows * 3 // 4)
        for name, value in (window or {}).items():
            if name not in _WINDOW_SIZES:
                raise InvalidArgumentError(f"window has no {name!r}; there are {', '.join(_WINDOW_SIZES)}")
            setattr(logic, name, value)
        is_server = model.variant == "server"
        logic.max_unit_characters = 28 if is_server else 0
        logic.reference_quirks = (quirks or model.quirks) == "reference"
        seed = secrets.randbits(63) if seed is None else seed
        logic.set_sampling(
            greedy,
            temperature,
            (20 if is_server else 100) if top_k is None else top_k,
            top_p,
            text_repetition_penalty,
            text_repetition_window_size,
            length_penalty,
            listen_prob_scale,
            listen_top_k,
            seed,
        )
        audio = model.require_audio()
        reference = _reference(ref_audio)
        has_span = reference is not None or is_server
        prefix, suffix = prompt if isinstance(prompt, tuple) else duplex_prompt(prompt, has_span)
        speaker = model.require_speaker() if generate_audio else None
        voice = None if speaker is None else speaker.choose_voice(ref_audio, None)
        sound: dict[str, Any] = {"steps": 1, "seed": 0, "noise": None, "excitation": True}
        if speaker is not None and voice is not None:
            sound = speaker.options.arguments(voice)
            sound["steps"] = steps or sound["steps"]
        fewer = (sound["steps"] + 1) // 2
        can_vary = real_time and voice is not None and not voice.cache_steps and fewer < sound["steps"]
        stages = _ext.duplex_stages(
            language_model=model.llm._model,
            tokenizer=model.tokenizer,
            audio=audio._encoder,
            vision=None if model.vision is None else model.vision._encoder,
            speech=None if speaker is None else speaker.speech._model,
            token2wav=None if speaker is None else speaker.token2wav._model,
            voice=voice,
            logic=logic,
            n_ctx=n_ctx or 0,
            greedy_speech=greedy,
            speech_temperature=tts_temperature,
            speech_penalty=tts_repetition_penalty,
            seed=seed,
            steps=sound["steps"],
            other_steps=[fewer] if can_vary else [],
            sound_seed=sound["seed"],
            noise=sound["noise"],
            excitation=sound["excitation"],
            flush_every_unit=is_server,
        )
        self._open(
            stages,
            on_event,
            prefix=prefix,
            suffix=suffix,
            reference=reference,
            real_time=real_time,
            max_queued_units=max_queued_units,
            max_frames_per_unit=max_frames_per_unit,
            max_slice_nums=max_slice_nums,
        )
        self._sees = model.vision is not None

    @classmethod
    def _over(
        cls, stages: _ext.DuplexStages, on_event: Callable[[Event], None] | None = None, **options: Any
    ) -> DuplexSession:
        """A session over any stages: for tests."""
        self = cls.__new__(cls)
        defaults = {"max_queued_units": 4, "max_frames_per_unit": 1, "max_slice_nums": 1, "real_time": True}
        self._open(stages, on_event, prefix="", suffix="", reference=None, **{**defaults, **options})
        return self

    def _open(
        self, stages: _ext.DuplexStages, on_event: Callable[[Event], None] | None, **options: Any
    ) -> None:
        self._native = _ext.DuplexSession(stages, **options)
        self._sees = True
        self._resampler: Resampler | None = None
        self._resampling = threading.Lock()
        self._ended = False
        self._failure: BaseException | None = None
        self._deliverer: threading.Thread | None = None
        if on_event is not None:
            deliver = functools.partial(self._deliver, on_event)
            self._deliverer = threading.Thread(target=deliver, name="omni events", daemon=True)
            self._deliverer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- input ----

    def push_audio(self, samples: NDArray[Any], rate: int = MODEL_RATE) -> None:
        """Take mono samples [n] as they come, any number: float in [-1, 1], or int16.

        In real time it never blocks; otherwise it waits while the session is busy. Samples of several threads
        don't mix. Other rates than 16 kHz are changed by a stream that lives until the rate changes.

        Raises:
            InvalidArgumentError: a sample is not finite (none is taken then), or the input has ended.
            CancelledError: the session is closed.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise InvalidArgumentError(
                f"sound is an array [n], not {list(samples.shape)}: mix channels first"
            )
        if len(samples):
            samples = float_samples(samples)[:, 0]
        if rate == MODEL_RATE and self._resampler is None:
            self._native.push_audio(samples)
            return
        if not np.isfinite(samples).all():
            raise InvalidArgumentError("a sample of the sound is not a finite number")
        with self._resampling:
            rest = np.zeros(0, np.float32)
            if self._resampler is None or self._resampler.source_rate != rate:
                following = None if rate == MODEL_RATE else Resampler(rate, MODEL_RATE)
                rest = rest if self._resampler is None else self._resampler.flush()
                self._resampler = following
            if self._resampler is not None:
                samples = self._resampler.push(samples)
            self._native.push_audio(np.concatenate([rest, samples]))

    def push_frame(self, image: NDArray[np.uint8]) -> None:
        """Show a picture, uint8 [height, width, 3]. It belongs to the second that is being collected.

        Raises:
            InvalidArgumentError: it can't be encoded, or the model was loaded without the picture encoder.
        """
        if not self._sees:
            raise InvalidArgumentError("the model was loaded without the picture encoder: call init_vision()")
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InvalidArgumentError(
                f"a frame is an array uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}"
            )
        self._native.push_frame(pixels)

    def end_input(self) -> None:
        """Say that nothing more will come. Iteration ends when what came is answered.

        What is left of a second is dropped, the session never pads.
        """
        with self._resampling:
            if self._resampler is not None:
                self._native.push_audio(self._resampler.flush())
                self._resampler = None
        self._native.end_input()

    def interrupt(self) -> None:
        """Stop the turn now: nothing more of its text and sound comes out, and the next unit listens."""
        self._native.interrupt()

    # ---- output ----

    def poll(self, timeout: float | None = 0) -> Event | None:
        """The next event, or None if there is none within `timeout` seconds (None: wait until the end).

        Raises:
            OmniError: a stage failed.
        """
        self._require_reader()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended:
            wait = _SLICE if deadline is None else min(_SLICE, max(0.0, deadline - time.monotonic()))
            if (event := self._poll(wait)) is not None:
                return event
            if deadline is not None and time.monotonic() >= deadline:
                return None
        return None

    def __iter__(self) -> Iterator[Event]:
        """Events until `end_input()` and everything is answered, or `close()`."""
        while (event := self.poll(None)) is not None:
            yield event

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a session with `on_event` has delivered its last event. False if it takes longer.

        Raises:
            Exception: a stage failed, or the callback did, which closes the session.
        """
        if self._deliverer is None:
            raise InvalidArgumentError("wait() is for sessions with on_event; others are iterated")
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._deliverer.is_alive():
            left = _SLICE if deadline is None else min(_SLICE, deadline - time.monotonic())
            if left <= 0:
                return False
            self._deliverer.join(left)
        if self._failure is not None:
            raise self._failure
        return True

    def close(self) -> None:
        """Stop everything and wait for the threads, no longer than the work in hand takes.

        Events that were not read are dropped, and iteration ends.
        """
        self._native.close()
        if self._deliverer is not None and self._deliverer is not threading.current_thread():
            self._deliverer.join()

    @property
    def is_ended(self) -> bool:
        """The last event was read."""
        return self._ended

    @property
    def epoch(self) -> int:
        """How often it was interrupted: output of a smaller epoch is stale."""
        return self._native.epoch

    @property
    def is_speaking(self) -> bool:
        """A turn's text or sound has come out and its end has not."""
        return self._native.is_speaking

    @property
    def units(self) -> int:
        """Units decided so far."""
        return self._native.units

    @property
    def level(self) -> int:
        """How far it has gone in doing less (see `DegradedEvent`)."""
        return self._native.level

    def _require_reader(self) -> None:
        if self._deliverer is not None:
            raise InvalidArgumentError("the events of this session go to on_event")

    def _poll(self, timeout: float) -> Event | None:
        found = self._native.poll(timeout)
        if found is None:
            return None
        if found is False:
            self._ended = True
            return None
        name, values = found
        return EVENTS[name](*values)

    def _deliver(self, on_event: Callable[[Event], None]) -> None:
        try:
            while not self._ended:
                if (event := self._poll(_SLICE)) is not None:
                    on_event(event)
        except BaseException as e:
            self._failure = e
            self._native.close()


class AsyncDuplexSession:
    """`DuplexSession` for asyncio. Takes the same arguments.

    async with AsyncDuplexSession(model) as session:
        await session.push_audio(samples)
        async for event in session: ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._make: Callable[[], DuplexSession] = lambda: DuplexSession(*args, **kwargs)
        self._session: DuplexSession | None = None
        self._reader = ThreadPoolExecutor(2, "omni reader")  # one reads, one may close meanwhile
        self._writer = ThreadPoolExecutor(1, "omni writer")
        self._pending: asyncio.Future[Event | None] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._session = await self._run(self._writer, self._make)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    @property
    def session(self) -> DuplexSession:
        """The session itself. Raises InvalidArgumentError before it is entered."""
        if self._session is None:
            raise InvalidArgumentError(
                "enter the session first: async with AsyncDuplexSession(...) as session"
            )
        return self._session

    async def push_audio(self, samples: NDArray[Any], rate: int = MODEL_RATE) -> None:
        """As `DuplexSession.push_audio()`; waits without blocking the loop."""
        session = self.session
        await self._run(self._writer, lambda: session.push_audio(samples, rate))

    async def push_frame(self, image: NDArray[np.uint8]) -> None:
        """As `DuplexSession.push_frame()`."""
        session = self.session
        await self._run(self._writer, lambda: session.push_frame(image))

    async def end_input(self) -> None:
        """As `DuplexSession.end_input()`, behind what is being pushed."""
        await self._run(self._writer, self.session.end_input)

    def interrupt(self) -> None:
        """As `DuplexSession.interrupt()`."""
        self.session.interrupt()

    async def poll(self, timeout: float | None = 0) -> Event | None:
        """As `DuplexSession.poll()`. No event is lost if the caller is cancelled while it waits."""
        session = self.session
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._run(self._reader, lambda: session.poll(timeout)))
        pending = self._pending
        try:
            return await asyncio.shield(pending)
        finally:
            if pending.done():
                self._pending = None

    async def __aiter__(self) -> AsyncIterator[Event]:
        """As iterating a `DuplexSession`."""
        while (event := await self.poll(None)) is not None:
            yield event

    async def close(self) -> None:
        """As `DuplexSession.close()`."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._session is not None:
            await self._run(self._reader, self._session.close)
        self._reader.shutdown()
        self._writer.shutdown()

    @property
    def epoch(self) -> int:
        """As `DuplexSession.epoch`."""
        return self.session.epoch

    @property
    def is_speaking(self) -> bool:
        """As `DuplexSession.is_speaking`."""
        return self.session.is_speaking

    @property
    def units(self) -> int:
        """As `DuplexSession.units`."""
        return self.session.units

    @property
    def level(self) -> int:
        """As `DuplexSession.level`."""
        return self.session.level
