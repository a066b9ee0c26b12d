"""Voices from recordings: parity with the reference stage by stage, and recordings of every kind."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import omni
from omni.audio_io import load_audio

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = np.load(GOLDEN / "token2wav.npz")

# The stored values keep 16 bits (4e-6), the reference computes in float32. What has passed through a deep
# network gets ten times that.
FEATURE_RMS = 1e-5
NETWORK_RMS = 1e-4

Samples = NDArray[np.float32]


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> omni.VoiceEncoder:
    # One thread: graphs this small gain nothing from a second one and wait for it when others compute.
    return omni.VoiceEncoder(tiny_model_dir, n_threads=1)


@pytest.fixture(scope="module")
def ref() -> Samples:
    return load_audio(GOLDEN / "inputs" / "ref.wav")


@pytest.fixture(scope="module")
def long_clip() -> Samples:
    return load_audio(GOLDEN / "inputs" / "long.wav")


def relative_rms(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    assert ours.shape == reference.shape
    return float(np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)))


def stages(encoder: omni.VoiceEncoder, wav: Samples, rate: int) -> dict[str, NDArray[np.float32]]:
    return encoder._encoder._stages(wav, rate)


def token_count(samples: int, rate: int) -> int:
    frames = math.ceil(samples * 16000 / rate) // 160
    return math.ceil(math.ceil(frames / 2) / 2)


# ---- parity ----


def test_speech_tokens(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    s = stages(encoder, ref, 16000)
    assert relative_rms(s["token_mel"].T, REFERENCE["s3_mel"]) < FEATURE_RMS
    assert relative_rms(s["codes"], REFERENCE["s3_codes_prequant"]) < NETWORK_RMS
    np.testing.assert_array_equal(encoder.encode(ref, 16000).tokens, REFERENCE["s3_tokens"])


def test_speaker_embedding(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    assert (
        relative_rms(stages(encoder, ref, 16000)["features"], REFERENCE["spk_fbank_centered"]) < FEATURE_RMS
    )
    assert relative_rms(encoder.encode(ref, 16000).embedding, REFERENCE["spk_embedding"]) < NETWORK_RMS


def test_mel(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    wave = stages(encoder, ref, 16000)["wave24k"]
    assert len(wave) == len(ref) * 3 // 2
    assert relative_rms(wave[: len(REFERENCE["prompt_wave24k"])], REFERENCE["prompt_wave24k"]) < FEATURE_RMS
    mel = encoder.encode(ref, 16000).mel
    assert mel.shape[0] == REFERENCE["prompt_mel_len"][0]
    assert relative_rms(mel, REFERENCE["prompt_mel"]) < FEATURE_RMS


def test_tail_of_the_speaker_encoder(tiny_model_dir: Path, encoder: omni.VoiceEncoder, ref: Samples) -> None:
    """Some versions of ONNX Runtime divide the last block of 2 s by a whole one; whole blocks agree."""
    other = omni.VoiceEncoder(tiny_model_dir, whole_tail_block=True, n_threads=1)
    assert 1e-3 < relative_rms(other.encode(ref, 16000).embedding, REFERENCE["spk_embedding"]) < 1e-1
    whole = ref[: 400 + 160 * 199]  # 200 frames, 100 rows
    np.testing.assert_array_equal(
        other.encode(whole, 16000).embedding, encoder.encode(whole, 16000).embedding
    )


def dense_resample(x: Samples, source: int, target: int) -> Samples:
    """The polyphase filter by its definition, every tap of it."""
    g = math.gcd(source, target)
    o, w = source // g, target // g
    base = min(o, w) * 0.99
    width = math.ceil(6 * o / base)
    padded = np.pad(x.astype(np.float64), (width, width + o))
    shifts = (-np.arange(w) / w).astype(np.float32).astype(np.float64)
    t = np.clip((shifts[:, None] + np.arange(-width, width + o) / o) * base, -6, 6)
    kernel = (base / o * np.cos(np.pi * t / 12) ** 2 * np.sinc(t)).astype(np.float32).astype(np.float64)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + o)[::o]
    return (blocks @ kernel.T).reshape(-1)[: math.ceil(w * len(x) / o)].astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_resampling(encoder: omni.VoiceEncoder, rate: int) -> None:
    x = np.random.default_rng(rate).uniform(-0.5, 0.5, rate // 4).astype(np.float32)
    ours = stages(encoder, x, rate)["wave24k"]
    expected = dense_resample(x, rate, 24000)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 2e-7  # float32 rounding of values below 1


# ---- lengths, channels, types ----


@pytest.mark.parametrize("samples", [1920, 3200, 7999, 8000, 8161, 24000, 96256])
def test_two_mel_frames_for_each_token(encoder: omni.VoiceEncoder, long_clip: Samples, samples: int) -> None:
    voice = encoder.encode(long_clip[:samples], 16000)
    assert len(voice.tokens) == token_count(samples, 16000)
    assert voice.mel.shape == (2 * len(voice.tokens), 80)
    own = samples * 3 // 2 // 480  # frames that the recording has; the last one is repeated
    assert len(voice.mel) - 2 <= own <= len(voice.mel)
    np.testing.assert_array_equal(
        voice.mel[own:], np.repeat(voice.mel[own - 1 : own], len(voice.mel) - own, 0)
    )
    assert voice.tokens.min() >= 0
    assert voice.tokens.max() < 6561


def test_channels(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    """Tokens and speaker vector hear the first channel, the mel hears the mean of all."""
    other = np.random.default_rng(1).normal(0, 0.1, ref.shape).astype(np.float32)
    mono, mean = encoder.encode(ref, 16000), encoder.encode((ref + other) / 2, 16000)
    stereo = encoder.encode(np.stack([ref, other], axis=1), 16000)
    np.testing.assert_array_equal(stereo.tokens, mono.tokens)
    np.testing.assert_array_equal(stereo.embedding, mono.embedding)
    np.testing.assert_allclose(stereo.mel, mean.mel, atol=1e-5)


def test_integer_samples(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    expected = encoder.encode(ref, 16000)
    whole = np.round(ref * 32768).astype(np.int16)
    np.testing.assert_array_equal(encoder.encode(whole, 16000).mel, expected.mel)


def test_stereo_8_khz(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    half = ref[::2]
    voice = encoder.encode(np.stack([half, half], axis=1), 8000)
    assert len(voice.tokens) == token_count(len(half), 8000) == len(REFERENCE["s3_tokens"])
    # Nothing can be above 4 kHz; the upper bands (from 4.1 kHz on) hold what the filter lets through.
    assert voice.mel[:, 62:].mean() < voice.mel[:, :40].mean() - 3


def test_clipped_recording(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    voice = encoder.encode(np.clip(ref * 20, -1, 1), 16000)
    assert np.isfinite(voice.mel).all()
    assert np.isfinite(voice.embedding).all()


def test_odd_rate(encoder: omni.VoiceEncoder) -> None:
    """A rate without a common divisor has as many filter phases as samples a second."""
    x = np.sin(np.arange(44101) * (2 * np.pi * 440 / 44101)).astype(np.float32)
    wave = stages(encoder, x, 44101)["wave24k"]
    expected = np.sin(np.arange(24000) * (2 * np.pi * 440 / 24000))
    # The window's pass band is flat to about 1e-3.
    assert np.abs(wave - expected)[200:-200].max() < 2e-3


GOOD_ADVICE = r"give 5 to 15 s of clean speech at 16000 samples a second or more"


@pytest.mark.parametrize(
    ("wav", "rate", "message"),
    [
        (np.zeros(48000, np.float32), 16000, f"silent.*{GOOD_ADVICE}"),
        (np.stack([np.zeros(48000), np.ones(48000)], 1), 16000, "silent in its first channel"),
        (np.full(1900, 0.1, np.float32), 16000, f"too short.*{GOOD_ADVICE}"),
        (np.zeros(0, np.float32), 16000, f"empty; {GOOD_ADVICE}"),
        (np.full(48000, np.nan, np.float32), 16000, "sample 0 of 48000 is nan"),
        (np.array([0.1] * 47999 + [np.inf], np.float32), 16000, "sample 47999 of 48000 is inf"),
        (np.full(48000, 12345.0, np.float32), 16000, "divide 16-bit samples by 32768"),
        (np.full(48000, 0.1, np.float32), 4000, f"4000 samples a second can't be used.*{GOOD_ADVICE}"),
        (np.full(48000, 0.1, np.float32), -1, "-1 samples a second"),
        (np.full(48000, 0.1, np.float32), 2_000_000, "2000000 samples a second"),
        (np.full((2, 48000), 0.1, np.float32), 16000, "transpose"),
        (np.full((4, 5, 6), 0.1, np.float32), 16000, r"\[n\] or \[n, channels\]"),
        (np.full(48000, 1, np.int64), 16000, "int64"),
        (np.array(["a"] * 48000), 16000, "samples are"),
    ],
)
def test_unusable_recordings(
    encoder: omni.VoiceEncoder, wav: NDArray[np.generic], rate: int, message: str
) -> None:
    with pytest.raises(omni.InvalidArgumentError, match=message):
        encoder.encode(wav, rate)


def test_long_recordings_are_cut(
    encoder: omni.VoiceEncoder, ref: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    """Five minutes with speech in the middle: 12 to 15 s of it are used, and the log says so."""
    speech = np.tile(ref, 1 + 40 * 16000 // len(ref))[: 40 * 16000]
    recording = np.zeros(300 * 16000, np.float32)
    recording[100 * 16000 : 140 * 16000] = speech
    voice = encoder.encode(np.stack([recording, recording], 1), 16000)
    assert 12 * 25 <= len(voice.tokens) <= 15 * 25
    assert "is 300 s long; the voice is taken from 1" in caplog.text
    # Nothing of the silence around it.
    assert voice.mel.mean(1).min() > -11
    part = encoder.encode(speech[: 16 * 16000], 16000)
    assert np.corrcoef(voice.embedding, part.embedding)[0, 1] > 0.9
    # As it is, up to 30 s.
    assert len(encoder.encode(speech[: 30 * 16000], 16000).tokens) == 750


# ---- objects ----


def test_save_and_load(encoder: omni.VoiceEncoder, ref: Samples, tmp_path: Path) -> None:
    voice = encoder.encode(ref, 16000)
    path = tmp_path / "Stimme ü.gguf"
    voice.save(path)
    loaded = omni.Voice.load(path)
    np.testing.assert_array_equal(loaded.tokens, voice.tokens)
    np.testing.assert_array_equal(loaded.embedding, voice.embedding)
    np.testing.assert_array_equal(loaded.mel, voice.mel)
    assert loaded.cache_steps == 0
    assert path.stat().st_size < 60_000


def test_voice_from_arrays(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    voice = encoder.encode(ref, 16000)
    same = omni.Voice(voice.tokens, voice.embedding, voice.mel)
    np.testing.assert_array_equal(same.mel, voice.mel)
    with pytest.raises(omni.InvalidArgumentError, match="mel"):
        omni.Voice(voice.tokens, voice.embedding, voice.mel[:-1])
    with pytest.raises(omni.InvalidArgumentError, match="speaker vector"):
        omni.Voice(voice.tokens, voice.embedding[:-1], voice.mel)


def test_threads_share_an_encoder(encoder: omni.VoiceEncoder, ref: Samples) -> None:
    expected = encoder.encode(ref, 16000)
    results: list[omni.Voice] = []
    threads = [threading.Thread(target=lambda: results.append(encoder.encode(ref, 16000))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for voice in results:
        np.testing.assert_array_equal(voice.tokens, expected.tokens)
        np.testing.assert_array_equal(voice.embedding, expected.embedding)


def test_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tiny_model_dir / "token2wav-gguf"
    tokenizer, speaker = folder / "speech_tokenizer.gguf", folder / "speaker_encoder.gguf"
    omni.VoiceEncoder(folder)
    omni.VoiceEncoder(tokenizer, speaker)
    with pytest.raises(omni.ModelFileError, match=r"holds no speech_tokenizer\.gguf.*omni\.convert"):
        omni.VoiceEncoder(tmp_path)
    with pytest.raises(omni.UnsupportedError, match="not a speech tokenizer"):
        omni.VoiceEncoder(speaker, tokenizer)
    with pytest.raises(omni.UnsupportedError, match="not a speaker encoder"):
        omni.VoiceEncoder(tokenizer, tokenizer)
    shutil.copyfile(tokenizer, tmp_path / "speech_tokenizer.gguf")
    with pytest.raises(omni.ModelFileError, match=r"speaker_encoder\.gguf"):
        omni.VoiceEncoder(tmp_path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tokenizer.read_bytes()[:-1000])
    with pytest.raises(omni.FormatError, match=r"cut\.gguf"):
        omni.VoiceEncoder(cut, speaker)


def test_quantised_tokenizer(tiny_model_dir: Path, ref: Samples) -> None:
    """8-bit weights move the codes by 1 %; most tokens, all within one digit of a boundary, stay."""
    voice = omni.VoiceEncoder(tiny_model_dir, weight_format="q8_0", n_threads=1).encode(ref, 16000)
    assert np.mean(voice.tokens == REFERENCE["s3_tokens"]) > 0.8


def test_synthetic() -> None:
    encoder = omni.VoiceEncoder.synthetic(n_threads=1)
    voice = encoder.encode(np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), 16000)
    assert len(voice.tokens) == 13
    assert np.isfinite(voice.embedding).all()
