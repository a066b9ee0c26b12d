"""Answers as sound: the speech model, token2wav and a voice together."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.errors import InvalidArgumentError, ModelFileError
from omni.model_check import check_model_files
from omni.speech_model import SpeechModel, SpeechStream
from omni.token2wav import SAMPLE_RATE, Token2Wav, Token2WavStream
from omni.vision_encoder import WeightFormat
from omni.voice import TOKENIZER_FILE, Voice

if TYPE_CHECKING:
    from omni.model_files import ModelFiles
    from omni.simplex import TextGroup

__all__ = ["Speaker", "SpeechOrder", "SpokenAnswer", "TTSSamplingParams", "VoiceOptions", "spoken_span"]

Recording = str | os.PathLike[str] | NDArray[np.float32]
_RECORDING_RATE = 16000  # of arrays
_WHOLE_TOKENS = 1500  # a minute: what is spoken in one piece
_PROMPT_CACHE = "prompt_cache.gguf"


@dataclass(frozen=True)
class TTSSamplingParams:
    """How speech tokens are drawn. Fields and values of the published class."""

    top_p: float = 0.85
    min_p: float = 0.01  # without effect, as in the published code
    top_k: int = 25
    repetition_penalty: float = 1.05
    temperature: float = 0.8  # 0: always the best
    win_size: int = 16  # without effect
    tau_r: float = 0.1  # without effect

    @classmethod
    def of(cls, value: Any) -> TTSSamplingParams:
        """From one of these, the published class, a dictionary, or None for the usual."""
        if value is None or isinstance(value, cls):
            return value or cls()
        names = [f.name for f in fields(cls)]
        if isinstance(value, Mapping):
            if unknown := sorted(set(value) - set(names)):
                raise InvalidArgumentError(f"tts_sampling_params has unknown fields: {', '.join(unknown)}")
            return cls(**value)
        return cls(**{name: getattr(value, name) for name in names if hasattr(value, name)})

    def options(self) -> dict[str, Any]:
        """Arguments of `SpeechModel.stream()`."""
        return {
            "temperature": self.temperature,
            "repetition_penalty": self.repetition_penalty,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }


@dataclass(frozen=True, eq=False)
class SpokenAnswer:
    """What was said: speech tokens, 25 a second, and their sound, float32 [n] at 24 kHz."""

    tokens: list[int]
    wave: NDArray[np.float32]


@dataclass(frozen=True)
class VoiceOptions:
    """How a voice is used: arguments of `Token2Wav.stream()`. None: 10 flow steps, or those of the voice."""

    steps: int | None = None
    seed: int = 0
    noise: NDArray[np.float32] | None = None
    excitation: bool = True

    def arguments(self, voice: Voice) -> dict[str, Any]:
        """With the number of steps that holds for a voice."""
        return {
            "steps": self.steps or voice.cache_steps or 10,
            "seed": self.seed,
            "noise": self.noise,
            "excitation": self.excitation,
        }


def spoken_span(ids: list[int], tokenizer: _ext.Tokenizer, *, given: bool) -> tuple[int, int]:
    """Which tokens [first, end) of a dialogue are to be spoken: those behind the last <|tts_bos|>.

    They end before the <|tts_eos|> behind it, or else (`max_new_tokens` stopped the answer, or the text was
    given) before what ends the message. Raises InvalidArgumentError if there is no <|tts_bos|>.
    """
    bos = tokenizer.required_id("<|tts_bos|>")
    if bos not in ids:
        where = "write it before the text to speak" if given else "use_tts_template=True puts it there"
        raise InvalidArgumentError(f"the dialogue has no <|tts_bos|>, which begins what is spoken: {where}")
    first = len(ids) - ids[::-1].index(bos)
    ends = {tokenizer.required_id(token) for token in ("<|tts_eos|>", "<|im_end|>", "<|endoftext|>")}
    end = next((i for i in range(first, len(ids)) if ids[i] in ends), len(ids))
    return first, end


class Speaker:
    """Speaks answers, whole or as they are generated, in the voice that was set."""

    def __init__(self, speech: SpeechModel, token2wav: Token2Wav, folder: Path) -> None:
        self.speech = speech
        self.token2wav = token2wav
        self.options = VoiceOptions()
        self._folder = folder  # of token2wav
        self._voice: Voice | None = None
        self._voices: dict[bytes, Voice] = {}  # the last recording's
        self._sound: Token2WavStream | None = None
        self._simplex: tuple[Any, SpeechStream] | None = None

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        token2wav: str | os.PathLike[str] | None = None,
        *,
        kv_type: Literal["f32", "f16"] = "f16",
        speech_format: WeightFormat = "stored",
        token2wav_format: WeightFormat = "auto",
        **compute: Any,
    ) -> Speaker:
        """Loads both models; `kv_type` is the speech model's. Raises ModelFileError if a file is missing."""
        if files.tts is None:
            raise ModelFileError(f"speech needs {files.directory / 'tts'}/*-tts-*.gguf, which is not there")
        folder = files.token2wav if token2wav is None else Path(token2wav)
        if folder is None:
            raise ModelFileError(f"speech needs {files.directory / 'token2wav-gguf'}, which is not there")
        check_model_files(replace(files, token2wav=folder), ["speech"])
        speech = SpeechModel(
            files.tts, files.projector, kv_type=kv_type, weight_format=speech_format, **compute
        )
        return cls(speech, Token2Wav(folder, weight_format=token2wav_format, **compute), folder)

    # ---- the voice ----

    @property
    def has_voice(self) -> bool:
        """A voice was set."""
        return self._voice is not None

    def voice_of(self, recording: Recording | Voice) -> Voice:
        """The voice in a recording: a file, or samples [n] at 16 kHz. That of the last one is kept."""
        if isinstance(recording, Voice):
            return recording
        if isinstance(recording, (str, os.PathLike)):
            from omni.audio_io import load_recording

            samples, rate = load_recording(recording)
        else:
            samples, rate = np.asarray(recording), _RECORDING_RATE
        head = f"{samples.dtype}{samples.shape}{rate}".encode()
        key = hashlib.blake2b(head + np.ascontiguousarray(samples).tobytes()).digest()
        if key not in self._voices:
            self._voices = {key: self.token2wav.voice(samples, rate)}
        return self._voices[key]

    def set_voice(self, recording: Recording | Voice, options: VoiceOptions) -> None:
        """Speaks with this voice from now on. Computes it, and what every turn begins with."""
        voice = self.voice_of(recording)
        sound = self.token2wav.stream(voice, **options.arguments(voice))
        self._voice, self.options, self._sound = voice, options, sound

    def use_steps(self, steps: int) -> None:
        """Speaks with so many flow steps from now on."""
        self.options = replace(self.options, steps=steps)
        if self._voice is not None:
            self.set_voice(self._voice, self.options)

    def forget_voice(self) -> None:
        """Undoes `set_voice()`."""
        self._voice = self._sound = None

    def require_voice(self) -> Voice:
        """The voice that was set, or else the model's own. Raises InvalidArgumentError if there is none."""
        if self._voice is None:
            official = self._folder / _PROMPT_CACHE
            if not official.is_file():
                raise InvalidArgumentError(
                    "no voice to speak with: give a recording of one (init_token2wav_cache(), tts_ref_audio, "
                    "or --ref-audio on the command line)"
                )
            self.set_voice(Voice.load(official), self.options)
        assert self._voice is not None
        return self._voice

    def choose_voice(self, recording: Recording | Voice | None, clip: NDArray[np.float32] | None) -> Voice:
        """The voice of a recording, else of a clip if this model can copy, else as `require_voice()`."""
        if recording is None and (self._folder / TOKENIZER_FILE).is_file():
            recording = clip
        return self.require_voice() if recording is None else self.voice_of(recording)

    # ---- whole answers ----

    def say(
        self,
        ids: NDArray[np.int32],
        hidden: NDArray[np.float32],
        *,
        params: TTSSamplingParams,
        seed: int | None = None,
        voice: Voice | None = None,
        variant: Literal["hub", "server"] = "hub",
    ) -> SpokenAnswer:
        """Speaks text tokens [n] with the language model's hidden states [n, D].

        Args:
            params, seed: of the drawing of speech tokens (None: a new seed).
            voice: None: the one that was set, or the model's own.
            variant: "hub" renders answers of up to a minute in one piece, "server" in windows of a second.
        """
        if len(ids) == 0:
            return SpokenAnswer([], np.zeros(0, np.float32))
        voice = self.require_voice() if voice is None else voice
        stream = self.speech.stream("chat", seed=_seed(seed), **params.options())
        tokens = stream.push(ids, hidden, last=True)
        if not tokens:
            return SpokenAnswer([], np.zeros(0, np.float32))
        arguments = self.options.arguments(voice)
        if variant == "hub" and len(tokens) <= _WHOLE_TOKENS and not voice.cache_steps:
            wave = self.token2wav.synthesize(tokens, voice, **arguments)
        else:
            wave = self.token2wav.stream(voice, silence=False, **arguments).push(tokens, last=True)
        return SpokenAnswer(tokens, wave)

    # ---- answers as they are generated ----

    def speak(
        self,
        groups: Iterator[TextGroup],
        tokenizer: _ext.Tokenizer,
        params: TTSSamplingParams,
        seed: int | None = None,
    ) -> Iterator[tuple[NDArray[np.float32], str]]:
        """Speaks an answer while it is generated.

        Yields:
            sound, float32 [1, n] at 24 kHz, a second at a time, and the text that has come since the last
            yield. The last one has what is left of both; without any text it is empty.
        """
        self.require_voice()
        assert self._sound is not None
        return self._speak(
            groups, _ext.Detokenizer(tokenizer), self._sound, self._speech_stream(params, seed)
        )

    @staticmethod
    def _speak(
        groups: Iterator[TextGroup],
        detokenizer: _ext.Detokenizer,
        sound: Token2WavStream,
        speech: SpeechStream,
    ) -> Iterator[tuple[NDArray[np.float32], str]]:
        text = ""
        has_tokens = False
        complete = False
        try:
            for group in groups:
                text += "".join(map(detokenizer.push, group.ids))
                for tokens in speech.chunks(group.ids, group.hidden, last=group.is_last):
                    has_tokens = True
                    wave = sound.push(tokens)
                    if wave.size:
                        yield wave[None], text
                        text = ""
            # A limit ended the text: what was said of it and waits for company.
            rest = speech.flush()
            has_tokens |= bool(rest)
            wave = sound.push(rest, last=True) if has_tokens else np.zeros(0, np.float32)
            complete = True
            yield wave[None], text + detokenizer.flush()
        finally:
            if not complete:  # the listener left, or something failed
                speech.flush()
                sound.reset()

    def _speech_stream(self, params: TTSSamplingParams, seed: int | None) -> SpeechStream:
        """The stream of the last turn if the options are the same: its cache is large."""
        if seed is None and self._simplex is not None and self._simplex[0] == (params, None):
            return self._simplex[1]
        stream = self.speech.stream("simplex", seed=_seed(seed), **params.options())
        self._simplex = ((params, seed), stream)
        return stream


@dataclass(frozen=True)
class SpeechOrder:
    """How to speak an answer of `MiniCPMO.chat()`, and where to."""

    path: Path  # of the WAV file
    params: TTSSamplingParams
    seed: int | None
    recording: Recording | Voice | None  # a voice, once `with_voice()` has chosen it
    conditions: Path | None  # of a NumPy file, for what the speech model is given

    def with_voice(self, speaker: Speaker, clip: NDArray[np.float32] | None) -> SpeechOrder:
        """The order with its voice, before anything is generated. `clip`: one to copy if none was ordered."""
        return replace(self, recording=speaker.choose_voice(self.recording, clip))

    def fill(
        self,
        speaker: Speaker,
        ids: NDArray[np.int32],
        hidden: NDArray[np.float32],
        variant: Literal["hub", "server"],
    ) -> int:
        """Writes the files and returns the number of speech tokens."""
        from omni.audio_io import save_wav

        speech = speaker.speech
        if self.conditions is not None:
            ends = speech.condition([speech.info.text_eos, speech.info.audio_bos])
            with self.conditions.open("wb") as file:
                np.save(file, np.concatenate([speech.condition(ids, hidden), ends]))
        voice = self.recording if isinstance(self.recording, Voice) else None
        answer = speaker.say(ids, hidden, params=self.params, seed=self.seed, voice=voice, variant=variant)
        save_wav(self.path, answer.wave, SAMPLE_RATE)
        return len(answer.tokens)


def _seed(seed: int | None) -> int:
    return secrets.randbits(63) if seed is None else seed
