"""Sound devices: which one is meant, sound in and out, loss and return; without hardware and real time."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from fake_audio import Clock, FakeBackend, device

from omni.audio_io import load_audio
from omni.devices import Microphone, Speaker, find_audio_device, list_audio_devices
from omni.devices.backend import PortAudio
from omni.errors import DeviceError, InvalidArgumentError, UnsupportedError
from omni.optional import import_optional

MIC = device(0, "Desk Microphone", inputs=1, default_input=True)
BOX = device(1, "Desk Speakers", outputs=2, default_output=True)
HEADSET = device(2, "USB Headset", inputs=2, outputs=2, rate=44100)


def tone(seconds: float, rate: int, hertz: float = 440) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


# ---- which device ----


@pytest.mark.parametrize(
    ("spec", "kind", "index"),
    [
        (None, "input", 0),
        (None, "output", 1),
        (2, "output", 2),
        ("2", "input", 2),
        ("headset", "input", 2),
        ("desk", "input", 0),
        ("Desk", "output", 1),
    ],
)
def test_devices_by_number_and_name(spec, kind, index):
    assert find_audio_device(spec, kind, FakeBackend([MIC, BOX, HEADSET])).index == index


@pytest.mark.parametrize("spec", [7, "1", "banjo", ""])
def test_wrong_device_lists_what_exists(spec):
    with pytest.raises(InvalidArgumentError, match=r"(?s)0  Desk Microphone.*2  USB Headset") as raised:
        find_audio_device(spec, "input", FakeBackend([MIC, BOX, HEADSET]))
    assert "Desk Speakers" not in str(raised.value)


def test_a_name_that_means_two_devices():
    second = device(3, "USB Camera", inputs=1)
    with pytest.raises(InvalidArgumentError, match="'USB Camera', 'USB Headset'"):
        find_audio_device("usb", "input", FakeBackend([HEADSET, second]))


def test_a_device_that_several_systems_list():
    """Windows lists a device once a system; WASAPI has the whole name and the least delay."""
    found = [device(i, "Mic", inputs=1, host_api=api) for i, api in enumerate(["MME", "Windows WASAPI"])]
    assert find_audio_device("mic", "input", FakeBackend(found)).host_api == "Windows WASAPI"


def test_no_device_at_all():
    with pytest.raises(DeviceError, match="no microphone"):
        find_audio_device(None, "input", FakeBackend([BOX]))
    with pytest.raises(DeviceError, match="no loudspeaker"):
        Speaker(backend=FakeBackend([MIC]))


# ---- microphone ----


class Listener:
    """Keeps a microphone's blocks and messages."""

    def __init__(self, backend: FakeBackend, device=None, **more) -> None:
        self.clock = Clock()
        self.blocks: list[np.ndarray] = []
        self.times: list[float] = []
        self.messages: list[tuple[str, str]] = []
        self.microphone = Microphone(
            device,
            on_block=self.take,
            on_status=lambda *message: self.messages.append(message),
            backend=backend,
            now=self.clock,
            **more,
        )
        self.microphone.open()

    def take(self, block: np.ndarray, time: float) -> None:
        self.blocks.append(block)
        self.times.append(time)

    def after(self, seconds: float) -> None:
        self.clock.time += seconds
        self.microphone.step()

    def hear(self, samples: np.ndarray, **more) -> None:
        """Samples at the device's rate, a callback each 20 ms."""
        stream = self.microphone._backend.stream
        for start in range(0, len(samples), stream.block):
            part = samples[start : start + stream.block]
            self.clock.time += len(part) / stream.device.rate
            stream.give(part, **more)
            self.microphone.step()

    @property
    def sound(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *self.blocks])


@pytest.mark.parametrize("which", [MIC, HEADSET])
def test_microphone_gives_16_khz_blocks(which):
    listener = Listener(FakeBackend([MIC, HEADSET]), which.name)
    assert listener.microphone._backend.stream.channels == min(2, which.inputs)
    listener.hear(tone(1, which.rate))
    assert {len(block) for block in listener.blocks} == {320}
    assert all(block.dtype == np.float32 for block in listener.blocks)
    assert 48 <= len(listener.blocks) <= 50  # the resampler keeps some
    expected = tone(1, 16000)[: len(listener.sound)]
    middle = slice(1600, -1600)  # it also rings at the first sample
    assert np.abs(listener.sound - expected)[middle].max() < 1e-3
    assert listener.microphone.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.5)


def test_microphone_times_are_those_of_the_first_sample():
    listener = Listener(FakeBackend([MIC]))
    start = listener.clock.time
    listener.hear(tone(1, 48000))
    expected = start + 0.02 * np.arange(len(listener.times))
    np.testing.assert_allclose(listener.times, expected, atol=1.5e-3)


def test_microphone_counts_what_was_lost_and_keeps_time():
    listener = Listener(FakeBackend([MIC]))
    stream = listener.microphone._backend.stream
    stream.give(tone(0.02, 48000), xrun=True)
    assert listener.microphone.overflows == 1
    for _ in range(7):  # nobody takes these 7 s: 5 fit
        stream.give(tone(1, 48000))
    assert listener.microphone.overflows == 4
    for _ in range(3):
        listener.microphone.step()
    assert len(listener.sound) == pytest.approx(7.02 * 16000, abs=640)
    assert listener.sound[: int(4.9 * 16000)].any()
    assert not listener.sound[int(5.1 * 16000) :].any()


def test_microphone_that_gives_only_zeros():
    listener = Listener(FakeBackend([MIC]))
    listener.hear(np.zeros(48000 * 4))
    assert [status for status, _ in listener.messages] == ["ok", "silent"]
    assert "zeros" in listener.messages[-1][1]
    listener.hear(tone(0.1, 48000))
    assert listener.microphone.status == "ok"


def test_microphone_without_its_device_gives_silence_in_real_time():
    backend = FakeBackend([MIC, HEADSET])
    listener = Listener(backend, "headset")
    listener.hear(tone(1, 44100))
    backend.present = []
    start, heard = listener.clock.time, len(listener.sound)
    listener.after(0.9)
    assert listener.microphone.status == "ok"
    listener.after(0.2)
    assert listener.microphone.status == "lost"
    for _ in range(80):
        listener.after(0.05)
        expected = heard + (listener.clock.time - start) * 16000
        assert len(listener.sound) == pytest.approx(expected, abs=640)
    assert not listener.sound[heard + 640 :].any()
    # It returns under another number and the session goes on, on the same time line.
    backend.present = [device(9, "USB Headset", inputs=2, rate=44100), MIC]
    for _ in range(25):
        listener.after(0.05)
    assert listener.microphone.status == "ok"
    assert backend.stream.device.index == 9
    listener.hear(tone(1, 44100))
    expected = (listener.clock.time - start) * 16000 + heard
    assert len(listener.sound) == pytest.approx(expected, abs=800)
    np.testing.assert_allclose(np.diff(listener.times), 0.02, atol=0.011)
    assert [status for status, _ in listener.messages] == ["ok", "lost", "ok"]


def test_microphone_falls_back_to_the_default():
    backend = FakeBackend([MIC, HEADSET])
    listener = Listener(backend, "headset")
    backend.present = [MIC]
    listener.after(4.9)
    assert listener.microphone.status == "ok"  # a device may need some seconds to wake up
    listener.after(0.2)
    assert listener.microphone.status == "lost"
    listener.after(0.05)
    assert (listener.microphone.status, backend.stream.device) == ("ok", MIC)


def test_device_that_was_chosen_by_number_returns_by_its_name():
    backend = FakeBackend([MIC, HEADSET])
    listener = Listener(backend, 2)
    backend.present = [device(2, "Other", inputs=1), device(3, "USB Headset", inputs=2), MIC]
    listener.after(5.1)
    listener.after(0.05)
    assert backend.stream.device.index == 3


def test_line_that_the_system_ended_comes_back_at_once():
    """As when another line has the sound system started anew."""
    backend = FakeBackend([MIC, BOX])
    listener = Listener(backend)
    backend.refresh()
    listener.after(0.01)
    assert listener.microphone.status == "ok"
    assert listener.microphone.restarts == 1
    assert backend.alive == 1
    assert backend.refreshes == 1


def test_other_lines_are_disturbed_less_and_less():
    backend = FakeBackend([MIC, BOX])
    listener = Listener(backend)
    speaker = Speaker(backend=backend, now=listener.clock)
    speaker.open()
    backend.present = [BOX]
    for _ in range(600):  # a minute
        backend.streams[-1].take() if backend.streams[-1].kind == "output" else None
        listener.after(0.1)
        speaker.step()
    assert listener.microphone.status == "lost"
    assert backend.refreshes <= 7  # after 1, 2, 4, 8, 16, 16 s
    assert speaker.status == "ok"


def test_microphone_tells_when_its_listener_fails():
    def fail(block: np.ndarray, time: float) -> None:
        raise ValueError("broken")

    backend, messages = FakeBackend([MIC]), []
    microphone = Microphone(on_block=fail, on_status=lambda *m: messages.append(m), backend=backend)
    with microphone:
        backend.stream.give(tone(0.1, 48000))
        microphone._thread.join(10)
        assert messages[-1] == ("failed", "ValueError: broken")
        assert isinstance(microphone.error, ValueError)
    assert microphone.status == "closed"
    assert not backend.alive


def test_stereo_devices_that_refuse_stereo_are_opened_in_mono():
    backend = FakeBackend([HEADSET])
    backend.refused_channels = (2,)
    Listener(backend)
    assert backend.stream.channels == 1
    backend.refused_channels = (1, 2)
    with pytest.raises(DeviceError, match="2 channels"):
        Listener(backend)


@pytest.mark.parametrize("values", [{"block_ms": 4}, {"block_ms": 1000}])
def test_absurd_blocks_are_refused(values):
    with pytest.raises(InvalidArgumentError, match="block_ms"):
        Microphone(on_block=print, backend=FakeBackend([MIC]), **values)


# ---- loudspeaker ----


class Room:
    """Hears what a loudspeaker plays."""

    def __init__(self, backend: FakeBackend | None = None, **more) -> None:
        self.clock = Clock()
        self.backend = backend or FakeBackend([BOX])
        self.heard: list[np.ndarray] = []
        self.speaker = Speaker(backend=self.backend, now=self.clock, **more)
        self.speaker.open()

    def listen(self, seconds: float) -> np.ndarray:
        """What comes in the next seconds, a callback each 20 ms."""
        parts = [np.zeros(0, np.float32)]
        for _ in range(round(seconds / 0.02)):
            self.clock.time += 0.02
            parts.append(self.backend.stream.take())
            self.speaker.step()
        return np.concatenate(parts)


@pytest.mark.parametrize("which", [BOX, device(0, "X", outputs=2, rate=44100), device(0, "Y", outputs=1)])
def test_speaker_plays_what_is_written(which):
    room = Room(FakeBackend([which]))
    sound = tone(1, 24000)
    for start in range(0, len(sound), 999):
        room.speaker.write(sound[start : start + 999])
    room.speaker.write(np.zeros(0, np.float32), last=True)
    assert room.speaker.queued_seconds == pytest.approx(1, abs=1e-3)
    heard = room.listen(1.2)
    expected = tone(1, which.rate)
    inner = slice(which.rate // 50, len(expected) - which.rate // 50)
    assert np.abs(heard[: len(expected)] - expected)[inner].max() < 1e-3
    assert not heard[len(expected) + 960 :].any()
    assert room.speaker.played_seconds == pytest.approx(1, abs=1e-3)
    assert room.speaker.queued_seconds == 0
    assert not room.speaker.is_playing
    assert room.speaker.underruns == 0


def test_speaker_waits_for_a_head_start():
    room = Room()
    room.speaker.write(tone(0.08, 24000))
    assert not room.listen(0.06).any()
    room.speaker.write(tone(0.08, 24000))
    assert room.listen(0.02).any()


def test_speaker_plays_short_sounds_too():
    room = Room()
    room.speaker.write(tone(0.05, 24000))
    assert not room.listen(0.08).any()
    assert room.listen(0.08).any()
    room.speaker.write(tone(0.05, 24000), last=True)
    assert room.listen(0.02).any()  # nothing to wait for


def test_speaker_fades_in_and_out_and_counts_gaps():
    room = Room()
    level = np.full(2400, 0.5, np.float32)
    room.speaker.write(level)
    first = room.listen(0.2)
    steps = np.abs(np.diff(first))
    assert first.max() > 0.49
    assert steps.max() < 0.5 / 100  # no click, but fades over 480 samples
    room.speaker.write(level)
    assert room.speaker.underruns == 1
    assert room.speaker.start_ms == 120
    room.listen(3)
    room.speaker.write(level, last=True)  # a new turn
    room.listen(0.5)
    room.speaker.write(level, last=True)
    assert room.speaker.underruns == 1


def test_flush_is_silent_within_a_block():
    room = Room()
    room.speaker.write(np.full(24000, 0.5, np.float32))
    assert room.listen(0.5)[-1] > 0.49
    assert room.speaker.flush() == pytest.approx(0.5, abs=0.01)
    assert room.speaker.queued_seconds == 0
    block = room.listen(0.02)
    assert np.abs(np.diff(block, prepend=0.5)).max() < 0.5 / 400
    assert not block[480:].any()
    assert not room.listen(0.2).any()
    # What is written after it is heard, and only that.
    room.speaker.write(np.full(4800, -0.5, np.float32), last=True)
    later = room.listen(0.4)
    assert later.max() < 0.01
    assert later.min() < -0.49
    assert room.speaker.underruns == 0


def test_flush_before_playing_began():
    room = Room()
    room.speaker.write(tone(0.05, 24000))
    room.speaker.flush()
    room.speaker.write(-np.ones(4800, np.float32), last=True)
    assert room.listen(0.3).max() <= 0


def test_long_sounds_wait_outside_of_the_ring():
    room = Room()
    sound = np.linspace(0, 0.9, 24000 * 8, dtype=np.float32)
    room.speaker.write(sound, last=True)
    assert room.speaker.queued_seconds == pytest.approx(8, abs=1e-3)
    heard = room.listen(8.1)
    assert np.abs(np.diff(heard[960 : 48000 * 8 - 960])).max() < 1e-3
    assert heard[48000 * 8 - 960] == pytest.approx(0.9, abs=5e-3)


def test_sound_written_before_the_device_is_open():
    backend = FakeBackend([BOX])
    speaker = Speaker(backend=backend, now=Clock())
    speaker.write(tone(0.5, 24000), last=True)
    speaker.open()
    assert speaker.queued_seconds == 0.5
    speaker.step()
    backend.stream.take()
    assert backend.stream.take().any()


def test_speaker_without_its_device_uses_the_queue_up():
    room = Room(FakeBackend([BOX, HEADSET]))
    room.speaker.write(tone(6, 24000))
    room.listen(1)
    room.backend.present = []
    for _ in range(30):
        room.clock.time += 0.1
        room.speaker.step()
    assert room.speaker.status == "lost"
    assert room.speaker.queued_seconds == pytest.approx(2, abs=0.1)
    room.backend.present = [HEADSET]
    for _ in range(11):
        room.clock.time += 0.1
        room.speaker.step()
    assert room.speaker.status == "ok"
    assert room.listen(0.3).any()  # at another rate
    assert room.backend.stream.device == HEADSET
    assert room.speaker.played_seconds == pytest.approx(1.3, abs=0.15)


def test_played_seconds_are_reported():
    reports = []
    room = Room(on_played=reports.append)
    room.speaker.write(tone(0.5, 24000), last=True)
    room.listen(1)
    assert reports == sorted(set(reports))
    assert reports[-1] == room.speaker.played_seconds == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.zeros((5, 2), np.float32), np.zeros(5, complex)])
def test_unusable_sound_is_refused(bad):
    room = Room()
    with pytest.raises(InvalidArgumentError):
        room.speaker.write(bad)


def test_loud_sound_is_clipped():
    room = Room()
    room.speaker.write(np.full(4800, 3.0, np.float32), last=True)
    assert room.listen(0.3).max() < 1.2  # the resampler rings a little


def test_reference_is_what_was_played_when_the_microphone_heard_it():
    """The loudspeaker's device is 200 ppm fast: in two minutes it runs away by 24 ms."""
    room = Room(start_ms=0)
    sound = np.random.default_rng(3).uniform(-0.5, 0.5, 24000 * 121).astype(np.float32)
    room.speaker.write(sound)
    start, blocks, calls = room.clock.time, [], 0
    block = 0.02 / (1 + 200e-6)
    for i in range(6000):
        while calls * block <= 0.02 * (i + 1):
            room.clock.time = start + calls * block
            room.backend.stream.take()
            room.speaker.step()
            calls += 1
        blocks.append(room.speaker.reference(start + 0.02 * i, 320))
    lags = []
    played = load_audio(sound, 16000, source_rate=24000)
    for second in (20, 60, 110):
        n = second * 16000
        window = np.concatenate(blocks)[n : n + 4000]
        start_at = n - 800
        scores = np.correlate(played[start_at : start_at + 4000 + 1600], window)
        lags.append((int(np.argmax(scores)) + start_at - n) / 16000)
    # Positions in what was played run ahead of the common clock by 200 ppm; a block is handed over at once.
    expected = [second * 200e-6 + 0.02 - 0.01 for second in (20, 60, 110)]
    np.testing.assert_allclose(lags, expected, atol=1.5e-3)


def test_reference_before_anything_was_played():
    assert not Room().speaker.reference(100.0, 320).any()


# ---- PortAudio ----


class FakeSoundDevice:
    """What PortAudio (the class) uses of the package sounddevice."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fail = ""
        self.streams: list[FakeSoundDevice.Stream] = []

    def query_hostapis(self):
        return (
            {"name": "MME", "default_input_device": 0, "default_output_device": -1},
            {"name": "Windows WASAPI", "default_input_device": 1, "default_output_device": 1},
        )

    def query_devices(self):
        common = {"max_input_channels": 1, "max_output_channels": 2, "default_samplerate": 44100.0}
        return [{"name": name, "hostapi": i, **common} for i, name in enumerate(["Cut na", "Cut name"])]

    class Stream:
        def __init__(self, owner, **options) -> None:
            self.owner = owner
            self.options = options
            self.active = False
            self.latency = 0.02
            if owner.fail == "open":
                raise owner.PortAudioError("Device unavailable")

        def start(self) -> None:
            if self.owner.fail == "start":
                raise self.owner.PortAudioError("Can't start")
            self.active = True

        def close(self) -> None:
            self.owner.log.append("close")
            self.active = False

    def InputStream(self, **options):
        self.streams.append(self.Stream(self, **options))
        return self.streams[-1]

    OutputStream = InputStream

    def _terminate(self) -> None:
        self.log.append("terminate")

    def _initialize(self) -> None:
        self.log.append("initialize")


def test_portaudio_lists_devices_and_prefers_wasapi():
    found = list_audio_devices(PortAudio(FakeSoundDevice()))
    assert [(each.name, each.host_api, each.rate) for each in found] == [
        ("Cut na", "MME", 44100),
        ("Cut name", "Windows WASAPI", 44100),
    ]
    assert [(each.default_input, each.default_output) for each in found] == [(False, False), (True, True)]


def test_portaudio_streams():
    system = FakeSoundDevice()
    portaudio = PortAudio(system)
    calls = []
    (first, _) = portaudio.devices()
    stream = portaudio.open(first, "input", 1, 441, lambda frames, xrun: calls.append((frames, xrun)))
    options = system.streams[0].options
    assert {name: options[name] for name in ("device", "channels", "samplerate", "blocksize", "dtype")} == {
        "device": 0,
        "channels": 1,
        "samplerate": 44100,
        "blocksize": 441,
        "dtype": "float32",
    }

    class Status:
        input_overflow = True
        output_underflow = False

    options["callback"]("frames", 441, None, Status)
    assert calls == [("frames", True)]
    assert portaudio.alive == 1
    portaudio.refresh()
    assert system.log == ["close", "terminate", "initialize"]
    assert not stream.active
    portaudio.refresh()  # another line, at the same moment
    stream.close()
    assert system.log == ["close", "terminate", "initialize"]


@pytest.mark.parametrize("fail", ["open", "start"])
def test_portaudio_errors_name_the_device(fail):
    system = FakeSoundDevice()
    portaudio = PortAudio(system)
    (first, _) = portaudio.devices()
    system.fail = fail
    with pytest.raises(DeviceError, match=r"Cut na.*as input"):
        portaudio.open(first, "input", 1, 441, print)
    assert portaudio.alive == 0
    assert system.log == (["close"] if fail == "start" else [])


def test_a_driver_that_hangs_does_not_hang_the_program(monkeypatch):
    monkeypatch.setattr("omni.devices.backend._CLOSE_SECONDS", 0.05)
    system, release = FakeSoundDevice(), threading.Event()
    portaudio = PortAudio(system)
    (first, _) = portaudio.devices()
    stream = portaudio.open(first, "input", 1, 441, print)
    system.streams[0].close = release.wait
    stream.close()
    assert portaudio.alive == 0
    with pytest.raises(DeviceError, match="restart the program"):
        portaudio.refresh()
    assert "terminate" not in system.log  # that would hang, too
    assert portaudio.open(first, "input", 1, 441, print).active
    release.set()


def test_library_that_does_not_load_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "sounddevice_without_library.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsupportedError, match=r"PortAudio library not found.*apt-get install libx"):
        import_optional("sounddevice_without_library", "live", "apt-get install libx")


def test_missing_portaudio_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UnsupportedError, match=r"omni\[live\]"):
        PortAudio()
