"""Log-mel features against the reference: whole clips and every chunk of its streams."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni import InvalidArgumentError, _ext
from omni.audio_io import load_audio

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = np.load(GOLDEN / "audio.npz")

# The stored values keep 16 bits (4e-6); the reference transforms in float32, we in double: quiet bands of
# its result are off by up to 1e-7 of the loudest, 3e-5 after the logarithm.
RELATIVE_RMS = 1e-5
ABSOLUTE = 1e-4


def wav(name):
    return load_audio(GOLDEN / "inputs" / f"{name}.wav")


def assert_close(ours, reference):
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() < ABSOLUTE
    assert np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)) < RELATIVE_RMS


@pytest.mark.parametrize("name", ["w0", "w1"])
def test_clip(name):
    sound = wav(name)
    mel = _ext.LogMel().clip(sound)
    assert_close(mel, REFERENCE[f"{name}_mel"])
    assert mel.shape[1] == _ext.mel_frame_count(len(sound)) == REFERENCE[f"{name}_mel_lens"][0]
    assert _ext.audio_embedding_count(len(sound)) == REFERENCE[f"{name}_placeholder_tokens"][0]


@pytest.mark.parametrize("mode", ["duplex", "simplex"])
def test_stream(mode):
    chunks = _ext.MelStream(_ext.LogMel(), mode).push(wav("long"))
    info = json.loads(str(REFERENCE[f"{mode}_info"]))
    assert len(chunks) == 12
    for i, (chunk, expected) in enumerate(zip(chunks, info, strict=False)):
        assert chunk.mel.shape[1] == expected["emitted_frames"]
        assert chunk.first_frame + chunk.prefix == expected["core_start"]
        assert chunk.dynamic == expected["dynamic_log_norm"]
        assert_close(chunk.mel, REFERENCE[f"{mode}_mel_{i}"])


def test_stream_past_the_slide():
    chunks = _ext.MelStream(_ext.LogMel(), "duplex").push(np.tile(wav("long"), 3))
    assert len(chunks) == 36
    assert_close(chunks[29].mel, REFERENCE["long_mel_29"])
    assert_close(chunks[30].mel, REFERENCE["long_mel_30"])


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(["duplex", "simplex"]),
    cuts=st.lists(st.integers(0, 7 * 16000 - 300), max_size=40),
)
def test_cuts_do_not_matter(mode, cuts):
    sound = wav("long")[: 7 * 16000 - 300]
    mel = _ext.LogMel()
    whole = _ext.MelStream(mel, mode)
    expected = [*whole.push(sound), whole.flush()]
    stream = _ext.MelStream(mel, mode)
    chunks = [c for part in np.split(sound, sorted(cuts)) for c in stream.push(part)]
    chunks.append(stream.flush())
    assert len(chunks) == len(expected) == 7
    for ours, theirs in zip(chunks, expected, strict=True):
        assert ours.first_frame == theirs.first_frame
        np.testing.assert_array_equal(ours.mel, theirs.mel)


def test_copy_and_reset():
    sound = wav("w1")
    stream = _ext.MelStream(_ext.LogMel(), "duplex")
    first = stream.push(sound[:40000])
    copy = stream.copy()
    rest = stream.push(sound[40000:])
    np.testing.assert_array_equal(copy.push(sound[40000:])[-1].mel, rest[-1].mel)
    stream.reset()
    np.testing.assert_array_equal(stream.push(sound)[0].mel, first[0].mel)


def test_bad_input():
    mel = _ext.LogMel()
    stream = _ext.MelStream(mel)
    assert stream.flush() is None
    stream.reset()
    bad = np.zeros(40000, np.float32)
    bad[39000] = np.nan
    for take in (mel.clip, stream.push):
        with pytest.raises(InvalidArgumentError, match="sample 39000 of 40000"):
            take(bad)
        with pytest.raises(InvalidArgumentError, match="1-d array"):
            take(np.zeros((2, 16000)))
    assert stream.push(np.zeros(15999)) == []  # the refused push left nothing behind
    assert len(stream.push(np.zeros(1))) == 1
    with pytest.raises(InvalidArgumentError, match="empty"):
        mel.clip(np.zeros(0))
    with pytest.raises(InvalidArgumentError, match='not "full"'):
        _ext.MelStream(mel, "full")
