"""What the model says must not come back through the microphone: it would answer itself.

Three ways: WebRTC's canceller subtracts what was played (the package pywebrtc-audio), a gate mutes the
microphone while something is played, and headphones need nothing at all.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from omni.audio_io import MODEL_RATE
from omni.devices import SPEECH_RATE, Microphone, Speaker
from omni.devices.backend import Backend, DeviceSpec
from omni.devices.line import level_of
from omni.errors import InvalidArgumentError, UnsupportedError
from omni.optional import import_optional

Mode: TypeAlias = Literal["auto", "aec", "gate", "off"]
Sound: TypeAlias = NDArray[np.float32]

_FRAME = MODEL_RATE // 100  # the canceller works on 10 ms
_TAIL_SECONDS = 0.5  # of the gate: what is played is heard a little later, and the room rings
_PLAYED = 1e-4  # -80 dB: quieter is not heard
# dB: the microphone may stay open when the canceller takes so much away, or leaves hardly more than noise.
_GOOD_ERLE, _GOOD_REST = 15.0, 6.0


class EchoControl:
    """Takes the echo out of the microphone's sound; this class leaves it in."""

    name = "off"
    advice = "the microphone hears the loudspeaker: use headphones"

    @staticmethod
    def choose(mode: str = "auto", *, delay_ms: int = 0) -> EchoControl:
        """A way that this machine has.

        Args:
            mode: "aec": WebRTC's canceller; "gate": mute while something is played; "off": nothing, for
                headphones; "auto": the canceller if its package is installed, otherwise the gate.
            delay_ms: from handing sound to the loudspeaker to hearing it, if that is known; a hint.

        Raises:
            UnsupportedError: "aec" without the package.
        """
        if mode not in get_args(Mode):
            raise InvalidArgumentError(f"echo control is one of {', '.join(get_args(Mode))}, not {mode!r}")
        if mode == "off":
            return EchoControl()
        if mode != "gate":
            try:
                return EchoCanceller(delay_ms)
            except UnsupportedError:
                if mode == "aec":
                    raise
        return HalfDuplexGate()

    def process(self, microphone: Sound, played: Sound) -> Sound:
        """What the model may hear.

        Args:
            microphone: float32 [n] at 16 kHz.
            played: float32 [n], what was handed to the loudspeaker meanwhile: `Speaker.reference`.

        Returns:
            float32 [n]; from a canceller [k], whole frames of 10 ms of all that was given so far.
        """
        if microphone.shape != played.shape or microphone.ndim != 1:
            raise InvalidArgumentError(
                f"the microphone's and the loudspeaker's sound must have one length, not "
                f"{list(microphone.shape)} and {list(played.shape)}"
            )
        return self._process(microphone, played)

    def reset(self) -> None:
        """Forget the room."""

    def _process(self, microphone: Sound, played: Sound) -> Sound:
        return microphone


class HalfDuplexGate(EchoControl):
    """Mutes the microphone while sound is played and half a second longer."""

    name = "gate"
    advice = (
        "the microphone is muted while the model speaks, so it can't be interrupted by voice: use headphones "
        "and switch echo control off, or pip install 'omni[aec]'"
    )

    def __init__(self) -> None:
        self._tail = int(_TAIL_SECONDS * MODEL_RATE)
        self._last = -self._tail - 1  # where the last sound was played, counted from the next block's start

    def reset(self) -> None:
        """Open at once."""
        self._last = -self._tail - 1

    def _process(self, microphone: Sound, played: Sound) -> Sound:
        if not len(played):
            return microphone
        position = np.arange(len(played))
        loud = np.where(np.abs(played) > _PLAYED, position, self._last)
        last = np.maximum.accumulate(loud)
        self._last = max(int(last[-1]) - len(played), -self._tail - 1)
        return np.where(position - last > self._tail, microphone, np.float32(0))


class EchoCanceller(EchoControl):
    """WebRTC's echo canceller, through the package pywebrtc-audio."""

    name = "aec"
    advice = "the model can be interrupted while it speaks; headphones are still better"

    def __init__(self, delay_ms: int = 0) -> None:
        """`delay_ms` as in `EchoControl.choose`."""
        package = import_optional("pywebrtc_audio", "aec")
        self._aec = package.EchoCanceller(sample_rate=MODEL_RATE, stream_delay_ms=max(0, delay_ms))
        self._rest = np.zeros((2, 0), np.float32)

    def reset(self) -> None:
        """Learn the room anew."""
        self._aec.reset()
        self._rest = self._rest[:, :0]

    def _process(self, microphone: Sound, played: Sound) -> Sound:
        both = np.concatenate([self._rest, np.stack([microphone, played]).astype(np.float32)], axis=1)
        whole = both.shape[1] // _FRAME * _FRAME
        self._rest = both[:, whole:]
        if not whole:
            return np.zeros(0, np.float32)
        near, far = np.ascontiguousarray(both[0, :whole]), np.ascontiguousarray(both[1, :whole])
        return np.asarray(self._aec.process(near, far), dtype=np.float32)


# ---- measuring ----


@dataclass(frozen=True)
class EchoReport:
    """What a test sound told about loudspeaker, room and microphone."""

    heard: bool  # whether the microphone heard the loudspeaker at all
    delay_ms: float | None  # from handing sound to the loudspeaker to hearing it
    coupling_db: float | None  # the echo's level against what was played
    erle_db: float | None  # how much the canceller takes away; None without one, or without an echo
    recommended: str  # mode of `EchoControl.choose`

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.heard:
            return "the microphone does not hear the loudspeaker (headphones, or one of them is muted)"
        text = f"echo after {self.delay_ms:.0f} ms at {self.coupling_db:.0f} dB"
        if self.erle_db is None:
            return f"{text}; no canceller is installed: pip install 'omni[aec]', or use headphones"
        verdict = "interrupting by voice works" if self.recommended == "aec" else "too little: use headphones"
        return f"{text}; the canceller takes {self.erle_db:.0f} dB away: {verdict}"


def probe_sound(seconds: float = 4.0) -> Sound:
    """A rising tone of one second, then noise with speech's spectrum and rhythm; float32 at 24 kHz."""
    t = np.arange(SPEECH_RATE) / SPEECH_RATE
    low, high = 100.0, 7000.0
    octaves = math.log(high / low)
    sweep = np.sin(2 * np.pi * low / octaves * (np.exp(t * octaves) - 1))
    sweep *= np.minimum(1, 20 * np.minimum(t, 1 - t))  # faded over 50 ms
    n = int(seconds * SPEECH_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / SPEECH_RATE)
    spectrum *= np.where((hertz > 100) & (hertz < 7000), 1 / np.sqrt(np.maximum(hertz, 500)), 0)
    noise = np.fft.irfft(spectrum, n)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(n) / SPEECH_RATE)
    noise *= syllables * 0.5 / np.abs(noise).max()
    return np.concatenate([0.25 * sweep, noise]).astype(np.float32)


def analyse_echo(microphone: Sound, played: Sound) -> EchoReport:
    """Find what was played in what the microphone heard meanwhile.

    Args:
        microphone: float32 [n] at 16 kHz.
        played: float32 [n], as `Speaker.reference` gives it; at least a second of sound in it.
    """
    sounding = np.flatnonzero(np.abs(played) > _PLAYED)
    if len(sounding) < MODEL_RATE:
        raise InvalidArgumentError("an echo is measured with at least a second of sound")
    n = 1 << (2 * len(played) - 1).bit_length()
    far, near = np.fft.rfft(played, n), np.fft.rfft(microphone, n)
    # Half whitened: sharp peaks for sounds with a few loud frequencies, without the noise of the quiet ones.
    product = near * np.conj(far)
    correlation = np.fft.irfft(product / np.sqrt(np.abs(product) + 1e-12), n)[:MODEL_RATE]
    lag = int(np.argmax(np.abs(correlation)))
    floor = np.sqrt(np.mean(np.square(correlation)))
    heard = bool(np.abs(correlation[lag]) > 12 * floor and np.any(microphone))
    if not heard:
        return EchoReport(False, None, None, None, "off")
    first, last = sounding[0] + lag, min(sounding[-1] + lag, len(microphone))
    coupling = level_of(microphone[first:last]) - level_of(played[sounding[0] : sounding[-1]])
    try:
        canceller = EchoCanceller(round(lag * 1e3 / MODEL_RATE))
    except UnsupportedError:
        return EchoReport(True, lag * 1e3 / MODEL_RATE, coupling, None, "gate")
    cleaned = canceller.process(microphone, played)
    part = slice(max(0, last - 3 * MODEL_RATE // 2), last)  # by then it knows the room
    rest = level_of(cleaned[part])
    erle = level_of(microphone[part]) - rest
    noise = level_of(microphone[: sounding[0]])
    good = erle >= _GOOD_ERLE or rest <= noise + _GOOD_REST
    return EchoReport(True, lag * 1e3 / MODEL_RATE, coupling, erle, "aec" if good else "gate")


def measure_echo(
    input_device: DeviceSpec = None,
    output_device: DeviceSpec = None,
    *,
    backend: Backend | None = None,
    sound: Sound | None = None,
) -> EchoReport:
    """Play a test sound of five seconds, record it, and say what came back.

    Args:
        input_device: as for `Microphone`.
        output_device: as for `Speaker`.
        backend: the sound system; PortAudio by default.
        sound: another test sound, float32 at 24 kHz.

    Raises:
        DeviceError: a device can't be opened.
    """
    heard: list[tuple[Sound, float]] = []
    played: list[Sound] = []
    speaker = Speaker(output_device, backend=backend)
    microphone = Microphone(
        input_device, on_block=lambda block, at: heard.append((block, at)), backend=backend
    )
    with speaker, microphone:
        deadline = time.monotonic() + 0.5  # first, both clocks settle
        sent = False
        while not sent or time.monotonic() < deadline:
            if not sent and time.monotonic() >= deadline:
                sound = probe_sound() if sound is None else sound
                speaker.write(sound, last=True)
                sent = True
                deadline += len(sound) / SPEECH_RATE + 1.5
            while len(played) < len(heard):
                block, at = heard[len(played)]
                played.append(speaker.reference(at, len(block)))
            time.sleep(0.02)
    count = len(played)
    return analyse_echo(
        np.concatenate([block for block, _ in heard[:count]] or [np.zeros(0, np.float32)]),
        np.concatenate(played or [np.zeros(0, np.float32)]),
    )
