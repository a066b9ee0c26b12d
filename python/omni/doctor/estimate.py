"""How long one second of a full-duplex session takes here, from short runs of parts of the networks.

Random weights of the real sizes and types are made in memory. Of the language model and the encoders only
some layers are run, and the time is extrapolated: for the language model layers and output are timed apart,
for the others the time grows as the number of operations. The speech model and token2wav are run whole.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from omni.audio_encoder import AudioEncoder
from omni.bench import audio, durations, speech, token2wav, unit, vision
from omni.language_model import LanguageModel
from omni.speech_model import SpeechModel
from omni.token2wav import Token2Wav
from omni.vision_encoder import VisionEncoder

STEPS = (10, 5)  # of the flow: the default, and half the work

_SOUND_ROWS = 11  # of context for a second of sound, with <unit>
_PICTURE_ROWS = 66  # more for a picture in one slice
_PAST = 256  # positions of context while the language model is timed
_RUNS, _SECONDS = 5, 1.5  # of each measurement at most


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of what happens within a second. Speech of a second has `TEXT_TOKENS` tokens of text."""

    hear: float  # the audio encoder
    see: float  # the vision encoder, one picture in one slice
    read_sound: float  # the language model takes what was heard
    read_both: float  # ... what was heard and seen
    listen: float  # it decides to listen, and closes the unit
    speak: float  # it decides to speak, says its text, and closes the unit
    speech: float  # the speech model
    sound: Mapping[int, float]  # token2wav, by the flow's steps

    def listening(self, *, picture: bool = False) -> float:
        """A unit in which the model only listens."""
        return self._taken_in(picture) + self.listen

    def speaking(self, *, steps: int | None = STEPS[0], picture: bool = False) -> float:
        """A unit in which it also speaks; `steps` None: as text only."""
        voice = 0.0 if steps is None else self.speech + self.sound[steps]
        return self._taken_in(picture) + self.speak + voice

    def _taken_in(self, picture: bool) -> float:
        return self.hear + (self.see + self.read_both if picture else self.read_sound)

    def as_dict(self) -> dict[str, Any]:
        """Parts and units for `--json`, in milliseconds."""
        units = {
            "listening": self.listening(),
            "listening_picture": self.listening(picture=True),
            "text": self.speaking(steps=None),
        }
        for steps in STEPS:
            units[f"speaking_{steps}_steps"] = self.speaking(steps=steps)
            units[f"speaking_{steps}_steps_picture"] = self.speaking(steps=steps, picture=True)
        return {"parts": asdict(self), "units": units}


@dataclass(frozen=True)
class Settings:
    """How the networks are opened; as the options of the same names."""

    llm: str = "Q4_K_M"
    threads: int | None = None
    device: str | None = None
    kv_type: str = "f16"
    weight_format: str = "auto"


def estimate(settings: Settings, say: Callable[[str], None] = lambda text: None) -> Estimate:
    """Open one network after the other and time it; each is gone before the next.

    Args:
        settings: types and threads.
        say: told what is being measured.
    """
    common: dict[str, Any] = {"n_threads": settings.threads, "device": settings.device}
    weights = common | {"weight_format": settings.weight_format}
    kv: dict[str, Any] = {"kv_type": settings.kv_type}
    say(f"measuring: language model, {settings.llm}, 2 of {unit.LAYERS} layers")
    llm = time_language_model(
        LanguageModel.synthetic(settings.llm, 2, n_ctx=512, **common, **kv), unit.LAYERS
    )
    say(f"measuring: audio encoder, 2 of {audio.LAYERS} layers")
    hear = time_audio_encoder(AudioEncoder.synthetic(layers=2, **weights), audio.LAYERS)
    say(f"measuring: vision encoder, 2 of {vision.LAYERS} layers")
    see = time_vision_encoder(VisionEncoder.synthetic(layers=2, **weights), vision.LAYERS)
    say("measuring: speech model")
    model = SpeechModel.synthetic(layers=speech.LAYERS, **weights, **kv)
    voice = unit.speech_second(model, _time, rows=1)
    del model
    say("measuring: token2wav")
    sound = time_token2wav(Token2Wav.synthetic(**weights))
    return Estimate(hear=hear, see=see, speech=voice, sound=sound, **llm)


def time_language_model(model: LanguageModel, layers: int) -> dict[str, float]:
    """Milliseconds of `read_sound`, `read_both`, `listen` and `speak` for so many layers."""
    times = unit.LanguageModelTimes(model, _time, _PAST, layers)
    return {
        "read_sound": times.prompt(_SOUND_ROWS),
        "read_both": times.prompt(_SOUND_ROWS + _PICTURE_ROWS),
        "listen": times.answer(0),
        "speak": times.answer(unit.TEXT_TOKENS),
    }


def time_audio_encoder(encoder: AudioEncoder, layers: int) -> float:
    """Milliseconds for a second of a duplex stream with so many layers."""
    stream = encoder.stream("duplex")
    second = np.random.default_rng(0).uniform(-0.3, 0.3, audio.RATE).astype(np.float32)
    info, positions = encoder.info, audio.POSITIONS

    def once() -> None:
        stream.reset()
        stream.push(second)

    whole = _with_layers(info, layers)
    share = audio.operations(whole, positions, positions * (unit.HEARD_SECONDS + 1)) / audio.operations(
        info, positions, positions
    )
    return _time(once) * share


def time_vision_encoder(encoder: VisionEncoder, layers: int) -> float:
    """Milliseconds for a picture of 448 x 448 with so many layers."""
    picture = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    ((_, (rows, columns)),), _ = encoder.slices(picture, 1)
    info, patches = encoder.info, rows * columns
    share = vision.operations(_with_layers(info, layers), patches) / vision.operations(info, patches)
    return _time(lambda: encoder.encode(picture, 1)) * share


def time_token2wav(model: Token2Wav) -> dict[int, float]:
    """Milliseconds for a second of sound by the flow's steps; one step is timed."""
    tokens = np.random.default_rng(1).integers(0, model.info.n_tokens, token2wav.TOKENS, dtype=np.int32)
    mel = np.random.default_rng(2).uniform(-8, 0, (token2wav.FRAMES, 80)).astype(np.float32)
    stream = model.stream(token2wav.random_voice(model.info.n_tokens, 1), 1)
    stream.push(tokens)
    vocoder = _time(lambda: model.vocode(mel))
    flow = max(0.0, _time(lambda: stream.push(tokens)) - vocoder)
    measured = model.flow_cost(1, 2 * token2wav.FRAMES).operations
    past = token2wav.VOICE_SECONDS * token2wav.FRAMES + token2wav.HISTORY
    return {steps: flow * model.flow_cost(steps, past).operations / measured + vocoder for steps in STEPS}


def _time(run: Callable[[], object], prepare: Callable[[], object] | None = None) -> float:
    """Median of a few runs, in milliseconds."""
    return statistics.median(durations(run, prepare, _RUNS, _SECONDS)) * 1e3


def _with_layers(info: object, layers: int) -> Any:
    """The sizes of a network with another number of layers."""
    names = [name for name in dir(info) if not name.startswith("_")]
    return cast(Any, SimpleNamespace(**{name: getattr(info, name) for name in names} | {"n_layers": layers}))
