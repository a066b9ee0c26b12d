"""Full duplex with the names, defaults and results of the published Python class: one call for each second.

`MiniCPMO.as_duplex()` makes a `MiniCPMODuplex`. It is driven by its caller, second by second; for live sound
there is `omni.DuplexSession`.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from omni import _ext
from omni.arguments import warn_unknown
from omni.duplex_types import DuplexParams, DuplexPrefill, DuplexUnitResult
from omni.errors import InvalidArgumentError
from omni.images import load_image
from omni.prompts import duplex_prompt
from omni.token2wav import SAMPLE_RATE, flow_noise
from omni.voice import Voice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from omni.audio_encoder import AudioEncoder, AudioStream
    from omni.language_model import LanguageModel
    from omni.minicpmo import MiniCPMO
    from omni.model_files import ModelFiles
    from omni.speaking import Recording, Speaker
    from omni.speech_model import SpeechStream
    from omni.vision_encoder import VisionEncoder

__all__ = ["DuplexParams", "DuplexPrefill", "DuplexSnapshot", "DuplexUnitResult", "MiniCPMODuplex"]

_UNIT = 16000  # samples of a unit's sound
_FIRST_UNIT = 16480  # 1035 ms, in whole steps of 10 ms
_FIRST_FILLED = 16560  # what the first sound is filled up to: 1035 ms
_MARKER = "\n\nprevious: "
_STEPS = {"hub": 10, "server": 5}  # of the flow
_EMBEDDINGS = re.compile(r"\[(?:img|audio)_embed_\d+\]")


@dataclass
class _Progress:
    """What a session remembers here; the rest is in the engine's objects."""

    prepared: bool = False
    units: int = 0  # with sound or pictures
    waits: bool = False  # a unit was prefilled and not generated
    has_heard: bool = False  # some sound has been taken
    sound: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # not taken yet
    ids: list[int] = field(default_factory=list)  # generated, without marks of listening and of ends
    breaks: bool = False
    stopped: bool = False
    speaks: bool = False  # there is a voice
    unfinished: bool = False  # variant "server": the end of a unit was not fed

    def copy(self) -> _Progress:
        return replace(self, ids=list(self.ids))


@dataclass(frozen=True, eq=False)
class DuplexSnapshot:
    """The state of a session, made by `MiniCPMODuplex.save_snapshot()`. Holds as much memory as a session."""

    progress: _Progress
    logic: _ext.DuplexSnapshot
    ears: AudioStream | None
    speech: SpeechStream | None
    windows: _ext.TokenWindows | None
    voice: Voice | None


class Model(Protocol):
    """What a session needs of `omni.MiniCPMO`."""

    files: ModelFiles
    llm: LanguageModel
    tokenizer: _ext.Tokenizer
    variant: Literal["hub", "server"]
    quirks: Literal["fixed", "reference"]

    def require_audio(self) -> AudioEncoder: ...
    def require_vision(self) -> VisionEncoder: ...
    def require_speaker(self) -> Speaker: ...


class MiniCPMODuplex:
    """A full-duplex session, second by second, as the published class of this name. One thread at a time.

    ```
    duplex = model.as_duplex()
    duplex.prepare(prefix_system_prompt="...", ref_audio=samples, prompt_wav_path="voice.wav")
    for second in seconds:
        duplex.streaming_prefill(audio_waveform=second, frame_list=[picture])
        result = duplex.streaming_generate()
    ```

    Differs from the published code, unless the model was loaded with quirks="reference": sampling parameters
    given to `as_duplex()` are the defaults of `streaming_generate()`; listen options act on <|listen|>; a
    unit that ends its turn and then listens is spoken; the window slides while the model listens; sound is
    not rounded to 16 bits. Always: a session begins with empty ears, whatever was heard before; a unit is
    checked first and fed as a whole, so that one with too little sound leaves nothing behind.

    The attributes max_new_speak_tokens_per_chunk, decode_mode, temperature, top_k, top_p, listen_prob_scale,
    listen_top_k, text_repetition_penalty, text_repetition_window_size and length_penalty are the defaults of
    `streaming_generate()` and may be changed at any time.
    """

    def __init__(self, model: Model, params: DuplexParams, n_ctx: int) -> None:
        self._model = model
        self.params = params
        self._is_server = model.variant == "server"
        self._is_reference = model.quirks == "reference"
        self.max_new_speak_tokens_per_chunk = params.max_new_speak_tokens_per_chunk
        self.decode_mode = params.decode_mode
        self.temperature = params.temperature
        self.top_k = params.top_k
        self.top_p = params.top_p
        self.listen_prob_scale = params.listen_prob_scale
        self.listen_top_k = params.listen_top_k
        self.text_repetition_penalty = params.text_repetition_penalty
        self.text_repetition_window_size = params.text_repetition_window_size
        self.length_penalty = params.length_penalty
        n_ctx = params.n_ctx or n_ctx
        self._seed = secrets.randbits(63) if params.seed is None else params.seed
        options = params.options(model.files.llm, n_ctx, server=self._is_server, reference=self._is_reference)
        options.seed = self._seed
        self._options = options
        self._logic = _ext.DuplexLogic(model.llm._model, model.tokenizer, options, n_ctx)
        tokens = ("<|listen|>", "<|speak|>", "<|chunk_eos|>", "<|chunk_tts_eos|>", "</unit>")
        self._marks = {model.tokenizer.required_id(token) for token in tokens}
        self._ears: AudioStream | None = None
        self._voice: Voice | None = None  # of _windows
        self._speech: SpeechStream | None = None
        self._windows: _ext.TokenWindows | None = None
        self._now = _Progress()
        # Of the last unit, for tests.
        self._unit: _ext.DuplexResult | None = None
        self._tokens: list[int] = []

    # ---- the beginning ----

    @property
    def generate_audio(self) -> bool:
        """Whether units that speak are spoken."""
        return self.params.generate_audio

    @property
    def force_listen_count(self) -> int:
        """So many units listen at first, whatever the model wants."""
        return self.params.force_listen_count

    def prepare(
        self,
        prefix_system_prompt: str | None = None,
        ref_audio: Recording | None = None,
        prompt_wav_path: Recording | Voice | None = None,
        context_previous_marker: str = _MARKER,
        *,
        suffix_system_prompt: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Starts a conversation anew; ends a break and a stop.

        Args:
            prefix_system_prompt: what the model is to be (None: "Streaming Omni Conversation."). Together
                with `suffix_system_prompt` it is fed as it is, special tokens included, before the
                recording.
            ref_audio: the voice to answer with, for the model: a file, or samples at 16 kHz.
            prompt_wav_path: the same for what is heard: a file of any rate, samples at 16 kHz, or a
                `Voice`. Without it answers are text only.
            context_previous_marker: what stands before text that is kept of dropped units, in window mode
                "context".
            suffix_system_prompt: what follows the recording, special tokens included.

        Returns:
            The prompt as text.

        Raises:
            InvalidArgumentError, ContextFullError, ModelFileError, FormatError
        """
        warn_unknown("prepare", kwargs)
        if suffix_system_prompt is None:
            prefix, suffix = duplex_prompt(prefix_system_prompt, ref_audio is not None or self._is_server)
        elif prefix_system_prompt is None:
            raise InvalidArgumentError(
                "suffix_system_prompt needs prefix_system_prompt, which goes before it"
            )
        else:
            prefix, suffix = prefix_system_prompt, suffix_system_prompt
        rows = None if ref_audio is None else self._model.require_audio().encode(_samples_16k(ref_audio))
        self.reset()
        if prompt_wav_path is not None and self.generate_audio:
            self._prepare_speech(prompt_wav_path)
        self._logic.prepare(prefix, rows, suffix, context_previous_marker)
        self._now.prepared = True
        return f"{prefix}[audio embedding]{suffix}" if rows is not None else prefix + suffix

    def _prepare_speech(self, recording: Recording | Voice) -> None:
        speaker = self._model.require_speaker()
        voice = speaker.voice_of(recording)
        if self._windows is None or voice is not self._voice:
            steps = self.params.n_timesteps or voice.cache_steps or _STEPS[self._model.variant]
            self._windows = _ext.TokenWindows(
                speaker.token2wav._model,
                voice,
                steps=steps,
                seed=self._seed,
                noise=flow_noise(self.params.noise),
                excitation=self.params.excitation,
                flush_every_unit=self._is_server,
            )
            self._voice = voice
        if self._speech is None:
            self._speech = speaker.speech.stream(
                "duplex",
                seed=self._seed,
                temperature=self.params.tts_temperature,
                repetition_penalty=self.params.tts_repetition_penalty,
            )
        self._now.speaks = True

    def reset(self) -> None:
        """Forgets the conversation; `prepare()` begins the next one."""
        self._now = _Progress()
        self._unit = None
        if self._ears is not None:
            self._ears.reset()
        self._cancel_speech()

    # ---- a second is heard and seen ----

    def streaming_prefill(
        self,
        audio_waveform: NDArray[np.float32] | None = None,
        frame_list: Sequence[Any] | None = None,
        text_list: Sequence[str] | None = None,
        max_slice_nums: int | Sequence[int] = 1,
        batch_vision_feed: bool = False,
        **kwargs: Any,
    ) -> DuplexPrefill:
        """Feeds what a second brings: sound, pictures, text, or some of them.

        Sound is collected, and a second of it is taken with each call; the first time 1030 ms, zeros before
        it if it is shorter.

        Args:
            audio_waveform: float32 [n], mono, 16 kHz.
            frame_list: pictures (see `omni.images.load_image`), in the order of time.
            text_list: texts, fed behind the sound.
            max_slice_nums: slices of a large picture at most; one for all, or one for each.
            batch_vision_feed: accepted and not used.

        Returns:
            Whether it was fed, and if not, why: nothing given, too little sound (it is kept for the next
            call), a break or stop, or a unit before that was not generated. Nothing is fed then.

        Raises:
            InvalidArgumentError, ContextFullError, ModelFileError, FormatError
        """
        warn_unknown("streaming_prefill", kwargs)
        start = time.perf_counter()
        if reason := self._obstacle():
            return DuplexPrefill(False, reason, cost_all=time.perf_counter() - start)
        if self._is_server and audio_waveform is None:
            audio_waveform = np.zeros(_UNIT, np.float32)
        frames = list(frame_list) if frame_list is not None else []
        limits = (
            list(max_slice_nums) if isinstance(max_slice_nums, Sequence) else [max_slice_nums] * len(frames)
        )
        if len(limits) != len(frames):
            raise InvalidArgumentError(
                f"{len(limits)} values of max_slice_nums for {len(frames)} pictures: give one or as many"
            )
        ids = self._model.tokenizer.encode("".join(text_list)) if text_list else []
        if audio_waveform is None and not frames and not ids:
            return DuplexPrefill(False, "nothing given: a unit needs sound, pictures or text")
        chunk = None
        waiting = self._now.sound
        if audio_waveform is not None:
            waiting, chunk = self._collect(audio_waveform)
            if chunk is None:
                self._now.sound = waiting
                reason = f"too little sound: {len(waiting)} samples, a unit takes {self._wanted()}"
                return DuplexPrefill(False, reason, cost_all=time.perf_counter() - start)
        cost_audio_process = time.perf_counter() - start

        begin = time.perf_counter()
        pictures = [load_image(frame) for frame in frames]
        cost_vision_process = time.perf_counter() - begin
        begin = time.perf_counter()
        vision = self._model.require_vision() if pictures else None
        images = [
            list(vision.encode(picture, limit))
            for picture, limit in zip(pictures, limits, strict=True)
            if vision
        ]
        cost_vision_embed = time.perf_counter() - begin
        # The engine's ears take the sound in: before that it must be certain that it can be fed.
        image_rows = sum(len(rows) + 2 for image in images for rows in image)
        self._logic.make_room(1 + image_rows + (10 if chunk is not None else 0) + len(ids))
        begin = time.perf_counter()
        rows = None if chunk is None else self._listen(chunk)
        cost_audio_embed = time.perf_counter() - begin
        begin = time.perf_counter()
        self._logic.prefill(images, rows, ids)
        feed = time.perf_counter() - begin
        self._now.sound = waiting
        self._now.has_heard |= chunk is not None
        self._now.units += chunk is not None or bool(images)
        self._now.waits = True
        share = image_rows / max(image_rows + (0 if rows is None else len(rows)), 1)
        return DuplexPrefill(
            True,
            "",
            cost_vision_process,
            cost_vision_embed,
            feed * share,
            cost_audio_process,
            cost_audio_embed,
            feed * (1 - share),
            time.perf_counter() - start,
        )

    def _obstacle(self) -> str:
        """Why nothing can be fed now, if so."""
        if not self._now.prepared:
            raise InvalidArgumentError("the session has not begun: call prepare() first")
        if self._now.stopped:
            return "the session was stopped: call prepare() to begin another"
        if self._now.breaks and not self._is_server:
            return "a break was set: call clear_break_event() to go on"
        if self._now.unfinished:
            raise InvalidArgumentError("the unit before is not finished: call finalize_unit() first")
        if self._now.waits:
            return "the unit before was not generated: call streaming_generate() first"
        return ""

    def _wanted(self) -> int:
        return _UNIT if self._now.has_heard else _FIRST_UNIT

    def _collect(
        self, waveform: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """What waits with the new sound behind it; if it suffices, cut into the rest and a unit's sound."""
        new = np.asarray(waveform)
        if new.ndim != 1 or new.dtype.kind != "f" or new.size == 0 or not np.isfinite(new).all():
            raise InvalidArgumentError(
                f"audio_waveform must be finite floats [n], 16 kHz mono, not {new.dtype} {new.shape}"
            )
        sound = np.concatenate([self._now.sound, new.astype(np.float32)])
        if not self._now.has_heard:
            sound = np.concatenate([np.zeros(max(_FIRST_FILLED - len(sound), 0), np.float32), sound])
        wanted = self._wanted()
        return (sound[wanted:], sound[:wanted]) if len(sound) >= wanted else (sound, None)

    def _listen(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._ears is None:
            self._ears = self._model.require_audio().stream("duplex", lead_in=False)
        return self._ears.push(chunk)

    # ---- a second is answered ----

    def streaming_generate(
        self,
        prompt_wav_path: Any = None,
        max_new_speak_tokens_per_chunk: int | None = None,
        decode_mode: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        listen_prob_scale: float | None = None,
        listen_top_k: int | None = None,
        text_repetition_penalty: float | None = None,
        text_repetition_window_size: int | None = None,
        *,
        length_penalty: float | None = None,
        force_listen_override: bool = False,
        **kwargs: Any,
    ) -> DuplexUnitResult:
        """Lets the model listen or speak, and if it speaks, generates about a second of text and sound.

        Without a prefilled unit, and during a break or after a stop, it listens and nothing is fed.

        Args:
            prompt_wav_path: accepted and not used: the voice is that of `prepare()`.
            max_new_speak_tokens_per_chunk: positions of a speaking unit, its end included.
            decode_mode: "sampling", or "greedy" for always the best token.
            temperature, top_k, top_p: of the choice of tokens; 0 turns the latter two off.
            listen_prob_scale: multiplies the score of listening.
            listen_top_k: listen whenever that is among so many best.
            text_repetition_penalty, text_repetition_window_size: of the last so many tokens of the session.
            length_penalty: on the end of a turn; more than 1 makes turns longer.
            force_listen_override: listen, and close an open turn: an interruption.

        What is not given is as `as_duplex()` was told. With variant="server", call `finalize_unit()` then.

        Raises:
            InvalidArgumentError, ContextFullError
        """
        warn_unknown("streaming_generate", kwargs)
        start = time.perf_counter()
        given = {
            "max_new_speak_tokens_per_chunk": max_new_speak_tokens_per_chunk,
            "decode_mode": decode_mode,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "listen_prob_scale": listen_prob_scale,
            "listen_top_k": listen_top_k,
            "text_repetition_penalty": text_repetition_penalty,
            "text_repetition_window_size": text_repetition_window_size,
            "length_penalty": length_penalty,
        }
        self._use(given)
        stopped = self._now.stopped or (self._now.breaks and not self._is_server)
        if stopped or not self._now.waits:
            return self._silence(start, end_of_turn=stopped)
        closes_turn = force_listen_override and self._logic.turn_is_open
        unit = self._logic.generate(force_listen_override)
        cost_llm = time.perf_counter() - start
        self._unit = unit
        self._now.waits = False
        self._now.unfinished = self._is_server
        self._now.ids += [id for id in unit.ids if id not in self._marks]
        if closes_turn:
            self._cancel_speech(keep_tokens=self._is_reference)
        if unit.is_listen:
            return self._silence(start, unit.end_of_turn, cost_llm, len(unit.spoken_ids))
        return self._speak(unit, start, cost_llm)

    def _use(self, given: Mapping[str, Any]) -> None:
        """Sets the parameters of the next unit."""
        own = DuplexParams.of({}, self._model.variant) if self._is_reference else self
        p = {name: getattr(own, name) if value is None else value for name, value in given.items()}
        if p["decode_mode"] not in ("sampling", "greedy"):
            raise InvalidArgumentError(
                f"decode_mode must be 'sampling' or 'greedy', not {p['decode_mode']!r}"
            )
        self._options.set_sampling(
            p["decode_mode"] == "greedy",
            p["temperature"],
            p["top_k"],
            p["top_p"],
            p["text_repetition_penalty"],
            p["text_repetition_window_size"],
            p["length_penalty"],
            p["listen_prob_scale"],
            p["listen_top_k"],
            self._seed,
        )
        self._logic.set_options_sampling(self._options)
        self._logic.set_max_new_speak_tokens(p["max_new_speak_tokens_per_chunk"])

    def _silence(
        self, start: float, end_of_turn: bool, cost_llm: float = 0.0, n_tokens: int = 0
    ) -> DuplexUnitResult:
        return DuplexUnitResult(
            is_listen=True,
            text="",
            audio_waveform=np.zeros(SAMPLE_RATE, np.float32),
            end_of_turn=end_of_turn,
            current_time=self._now.units,
            cost_llm=cost_llm,
            cost_all=time.perf_counter() - start,
            n_tokens=n_tokens,
        )

    def _speak(self, unit: _ext.DuplexResult, start: float, cost_llm: float) -> DuplexUnitResult:
        wave: NDArray[np.float32] | None = None
        tokens: list[int] = []
        cost_tts = cost_token2wav = 0.0
        if self._now.speaks and self._speech is not None and self._windows is not None:
            begin = time.perf_counter()
            starts_turn = self._speech.position == 0
            tokens = self._speech.push(unit.spoken_ids, unit.spoken_hidden, unit.end_of_turn)
            self._tokens = tokens
            cost_tts = time.perf_counter() - begin
            begin = time.perf_counter()
            wave = self._windows.render(np.asarray(tokens, np.int32), starts_turn, unit.end_of_turn)
            wave = self._shaped(wave, unit.end_of_turn)
            cost_token2wav = time.perf_counter() - begin
        if wave is None and self._is_server:
            wave = np.zeros(SAMPLE_RATE, np.float32)
        return DuplexUnitResult(
            is_listen=False,
            text=unit.text,
            audio_waveform=wave,
            end_of_turn=unit.end_of_turn,
            current_time=self._now.units,
            cost_llm=cost_llm,
            cost_tts=cost_tts,
            cost_token2wav=cost_token2wav,
            cost_all=time.perf_counter() - start,
            n_tokens=len(unit.spoken_ids),
            n_tts_tokens=len(tokens),
        )

    def _shaped(self, wave: NDArray[np.float32], end_of_turn: bool) -> NDArray[np.float32] | None:
        """A unit's sound as the caller gets it: a whole second unless the turn ends."""
        if wave.size == 0:
            return None
        if self._is_reference:
            wave = np.trunc(np.clip(wave, -1, 1) * np.float32(32767)) / np.float32(32768)
        missing = 0 if end_of_turn else max(SAMPLE_RATE - len(wave), 0)
        return np.concatenate([np.zeros(missing, np.float32), wave])

    def finalize_unit(self) -> None:
        """Feeds the end of the unit. variant="server" leaves it open, so that the result is there sooner."""
        self._logic.finalize()
        self._now.unfinished = False

    # ---- interruptions ----

    def set_break_event(self) -> None:
        """Interrupts: nothing is fed and the model listens until `clear_break_event()`; then it goes on."""
        self._now.breaks = True

    def clear_break_event(self) -> None:
        """Ends a break."""
        self._now.breaks = False

    def set_session_stop(self) -> None:
        """Stops the session until `prepare()`."""
        self._now.stopped = self._now.breaks = True

    def clear_session_stop(self) -> None:
        """Takes a stop back; a break stays."""
        self._now.stopped = False

    def is_break_set(self) -> bool:
        """Whether there is a break."""
        return self._now.breaks

    def is_session_stop_set(self) -> bool:
        """Whether the session was stopped."""
        return self._now.stopped

    def _cancel_speech(self, *, keep_tokens: bool = False) -> None:
        """Ends the spoken turn where it is; `keep_tokens`: the next one goes on from its speech tokens."""
        if self._windows is not None:
            self._windows.cancel()
        if self._speech is not None and not keep_tokens:
            self._speech.flush()

    # ---- what was said ----

    def get_generated_text(self) -> str:
        """Everything the model has said in this session, special tokens but those of units included."""
        return self._model.tokenizer.decode(self._now.ids)

    def get_unit_schemas(self, include_embeddings: bool = True) -> list[str]:
        """What was fed and generated, unit by unit, as text.

        [img_embed_64] and [audio_embed_10] stand for rows of pictures and sound, unless they are left out.
        """
        units = self._logic.unit_schemas
        return units if include_embeddings else [_EMBEDDINGS.sub("", unit) for unit in units]

    def get_session_schema(self, include_embeddings: bool = True) -> str:
        """The units as one text."""
        return "".join(self.get_unit_schemas(include_embeddings))

    @property
    def turn_is_open(self) -> bool:
        """The model has begun to speak and not ended its turn."""
        return self._logic.turn_is_open

    @property
    def cache_length(self) -> int:
        """Positions of the context in use."""
        return self._logic.cache_length

    # ---- other states ----

    def save_snapshot(self) -> DuplexSnapshot:
        """The session as it is now, to go on from here any number of times with `restore_snapshot()`."""
        speech, windows = (self._speech, self._windows) if self._now.speaks else (None, None)
        return DuplexSnapshot(
            self._now.copy(),
            self._logic.save(),
            self._ears.clone() if self._ears is not None and self._now.has_heard else None,
            None if speech is None else speech.clone(),
            None if windows is None else windows.clone(),
            self._voice,
        )

    def restore_snapshot(self, snapshot: DuplexSnapshot) -> None:
        """Goes on from a snapshot of this session. The voice and the system prompt are those of then, too."""
        self._logic.restore(snapshot.logic)
        self._now = snapshot.progress.copy()
        self._ears = None if snapshot.ears is None else snapshot.ears.clone()
        if snapshot.speech is not None and snapshot.windows is not None:
            self._speech = snapshot.speech.clone()
            self._windows = snapshot.windows.clone()
            self._voice = snapshot.voice

    def as_simplex(self, reset_session: bool = True, reset_token2wav_cache: bool = False) -> MiniCPMO:
        """The model that this session was made of.

        Args:
            reset_session: forget its simplex dialogue.
            reset_token2wav_cache: with it the voice that was set there.
        """
        model: Any = self._model
        if reset_session:
            model.reset_session(reset_token2wav_cache=reset_token2wav_cache)
        result: MiniCPMO = model
        return result


def _samples_16k(recording: Any) -> NDArray[np.float32]:
    if not isinstance(recording, (str, os.PathLike)):
        return np.asarray(recording)
    from omni.audio_io import load_audio

    return load_audio(recording, _UNIT)
