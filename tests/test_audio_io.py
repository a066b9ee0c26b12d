"""Reading, resampling and writing sound: formats, rates, channels, lengths, and what can be wrong."""

import io
import struct
import sys
import tracemalloc
import wave

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from omni import FormatError, InvalidArgumentError, ModelFileError, UnsupportedError
from omni.audio_io import Resampler, iter_audio, load_audio, save_wav


def tone(rate, seconds, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def file_bytes(samples, rate, **kind):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, **{"format": "WAV", "subtype": "FLOAT", **kind})
    return out.getvalue()


def test_same_rate_is_exact(tmp_path):
    values = np.random.default_rng(1).integers(-32768, 32768, 5000).astype(np.int16)
    path = tmp_path / "plain.wav"
    save_wav(path, values / 32768, 16000)
    np.testing.assert_array_equal(load_audio(path), values.astype(np.float32) / 32768)
    np.testing.assert_array_equal(load_audio(path.read_bytes()), values.astype(np.float32) / 32768)
    np.testing.assert_array_equal(load_audio(values, source_rate=16000), values.astype(np.float32) / 32768)
    with path.open("rb") as file:
        assert len(load_audio(file, max_seconds=0.1)) == 1600


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000])
def test_any_rate_and_channels(rate):
    mono = tone(rate, 1.3)
    ours = load_audio(file_bytes(np.stack([mono, 0.5 * mono], axis=1), rate))
    expected = soxr.resample(0.75 * mono, rate, 16000, quality="HQ")
    assert len(ours) == -(-len(mono) * 16000 // rate)
    n = min(len(ours), len(expected))
    assert abs(len(expected) - len(ours)) <= 1
    # The same filter in one piece and in blocks: float32 rounding.
    assert np.abs(ours[:n] - expected[:n]).max() < 1e-5
    # And it is the tone, away from the edges.
    assert np.abs(ours[800:-800] - 0.75 * tone(16000, 1.3)[: len(ours)][800:-800]).max() < 1e-3


@pytest.mark.parametrize(
    "kind", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "PCM_U8")]
)
def test_formats(kind):
    sound = tone(16000, 1.0)
    ours = load_audio(file_bytes(sound, 16000, format=kind[0], subtype=kind[1]))
    assert abs(len(ours) - 16000) < 2400  # MP3 pads
    assert abs(np.abs(ours[4000:12000]).max() - 0.5) < 0.05


def test_containers_that_libsndfile_does_not_know(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "ton.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.stack([tone(44100, 2.0)] * 2), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux([p for part in (frame, None) for p in stream.encode(part)])
    ours = load_audio(path)
    assert abs(len(ours) - 32000) < 2000
    assert abs(np.abs(ours[8000:24000]).max() - 0.5) < 0.05


def test_names_of_any_script(tmp_path):
    path = tmp_path / "голос 声音 🎤.wav"
    save_wav(path, tone(16000, 0.1), 16000)
    assert len(load_audio(path)) == len(load_audio(str(path))) == 1600


def test_two_hours_in_bounded_memory(tmp_path):
    # A sparse file: header, then zeros that take no disk.
    path = tmp_path / "long.wav"
    count = 2 * 3600 * 8000
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, count, "NONE", ""))
        out.writeframesraw(b"")
    with path.open("r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", 36 + 2 * count))
        file.seek(40)
        file.write(struct.pack("<I", 2 * count))
        file.truncate(44 + 2 * count)
    tracemalloc.start()
    total = sum(len(block) for block in iter_audio(path, block_seconds=30))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 2 * count
    assert peak < 16e6  # 30 s are 4 MB; the whole would be 461 MB


@settings(max_examples=30, deadline=None)
@given(
    rates=st.tuples(
        st.sampled_from([8000, 16000, 24000, 44100, 48000]), st.sampled_from([16000, 24000, 48000])
    ),
    cuts=st.lists(st.integers(0, 30000), max_size=20),
)
def test_resampler_cuts_do_not_matter(rates, cuts):
    sound = np.random.default_rng(2).normal(0, 0.1, 30000).astype(np.float32)
    whole = load_audio(sound, rates[1], source_rate=rates[0])
    stream = Resampler(*rates)
    parts = [stream.push(part) for part in np.split(sound, sorted(cuts))]
    parts.append(stream.flush())
    ours = np.concatenate(parts)
    assert len(ours) == len(whole) == -(-30000 * rates[1] // rates[0])
    assert np.abs(ours - whole).max() < 1e-6
    assert len(stream.flush()) == 0
    with pytest.raises(InvalidArgumentError, match="reset"):
        stream.push(sound)
    stream.reset()
    again = np.concatenate([stream.push(sound), stream.flush()])
    assert np.abs(again - whole).max() < 1e-6


def test_damaged_files(tmp_path):
    good = file_bytes(tone(16000, 1.0), 16000, subtype="PCM_16")
    for size in (1, 4, 12, 20, 40):
        with pytest.raises(FormatError, match="the audio data"):
            load_audio(good[:size])
    assert len(load_audio(good[: 44 + 2 * 5000])) == 5000  # truncated: what is there
    with pytest.raises(FormatError, match="empty"):
        load_audio(b"")
    with pytest.raises(FormatError, match="holds no sound"):
        load_audio(file_bytes(np.zeros(0, np.float32), 16000))
    with pytest.raises(FormatError, match="not a sound file"):
        load_audio(bytes(range(256)) * 40)
    flac = bytearray(file_bytes(tone(16000, 3.0), 16000, format="FLAC", subtype="PCM_16"))
    for start in range(200, len(flac), 97):
        flac[start] ^= 0x5A
    try:  # either some sound or a clear error
        load_audio(bytes(flac))
    except FormatError as e:
        assert "the audio data" in str(e)
    hostile = bytearray(good)
    hostile[24:28] = struct.pack("<I", 1000000)
    with pytest.raises(FormatError, match="claims"):
        load_audio(bytes(hostile))
    text = tmp_path / "notes.txt"
    text.write_text("not sound")
    with pytest.raises(FormatError, match=r"notes\.txt"):
        load_audio(text)
    with pytest.raises(ModelFileError, match="absent"):
        load_audio(tmp_path / "absent.wav")
    with pytest.raises(ModelFileError):
        load_audio(tmp_path)
    with pytest.raises(ModelFileError):
        load_audio("nul\0byte.wav")


def test_bad_samples():
    bad = tone(16000, 1.0)
    bad[12345] = np.nan
    with pytest.raises(FormatError, match="sample 12345 is nan"):
        load_audio(file_bytes(bad, 16000))
    with pytest.raises(InvalidArgumentError, match="sample 12345"):
        load_audio(bad, source_rate=16000)
    with pytest.raises(InvalidArgumentError, match="finite"):
        save_wav(io.BytesIO(), bad, 16000)


def test_bad_arguments(tmp_path):
    sound = tone(16000, 0.1)
    with pytest.raises(InvalidArgumentError, match="source_rate"):
        load_audio(sound)
    with pytest.raises(InvalidArgumentError, match="says its own rate"):
        load_audio(file_bytes(sound, 16000), source_rate=16000)
    with pytest.raises(InvalidArgumentError, match="transpose"):
        load_audio(np.zeros((2, 16000), np.float32), source_rate=16000)
    with pytest.raises(InvalidArgumentError, match="int64"):
        load_audio(np.zeros(10, np.int64), source_rate=16000)
    with pytest.raises(InvalidArgumentError, match="shape"):
        load_audio(np.zeros(0, np.float32), source_rate=16000)
    with pytest.raises(InvalidArgumentError, match="rate must be"):
        load_audio(sound, 0, source_rate=16000)
    with pytest.raises(InvalidArgumentError, match="int"):
        load_audio(5)
    with pytest.raises(InvalidArgumentError, match="mono"):
        Resampler(8000, 16000).push(np.zeros((2, 2)))
    with pytest.raises(ModelFileError, match="can't write"):
        save_wav(tmp_path / "absent" / "x.wav", sound, 16000)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=rf"'{package}'.*omni\[media\]"):
        load_audio(file_bytes(tone(8000, 0.1), 8000))


def test_missing_container_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FormatError, match=r"omni\[media\]"):
        load_audio(b"\0\0\0\x20ftypM4A " + bytes(100))


def test_save_clips_and_keeps_channels():
    out = io.BytesIO()
    save_wav(out, np.array([[2.0, -2.0], [0.5, -0.5]]), 24000)
    values, rate = soundfile.read(io.BytesIO(out.getvalue()), dtype="int16")
    assert rate == 24000
    np.testing.assert_array_equal(values, [[32767, -32768], [16384, -16384]])
