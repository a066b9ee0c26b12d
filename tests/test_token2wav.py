"""Speech tokens to sound: parity with both generations of the reference, streams, and unusable input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from helpers import relative_rms
from numpy.typing import NDArray

import omni
from omni.convert import Options, convert

# The reference and we compute in float32, in other orders of summation; the stored arrays are rounded to 16
# bits of mantissa (4e-6).
STAGE = 1e-4
# Behind all solver steps.
MEL = 1e-3
# The excitation's phase reaches 10^4 radians in float32, and an error of 10^-6 in the pitch grows with time:
# 3e-4 after a second, twice that after four.
WAVE = 2e-3
MAX_TOKENS = 28

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def offline(golden: Path) -> Arrays:
    return dict(np.load(golden / "token2wav.npz"))


@pytest.fixture(scope="module")
def voice(offline: Arrays) -> omni.Voice:
    return omni.Voice(offline["s3_tokens"], offline["spk_embedding"], offline["prompt_mel"])


@pytest.fixture(scope="module")
def short(voice: omni.Voice) -> omni.Voice:
    """Fewer prompt frames than the caches keep of the speech."""
    return omni.Voice(voice.tokens[:10], voice.embedding, voice.mel[:20])


@pytest.fixture(scope="module")
def both_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny networks with both vocoders, laid out as the newer package wants them, then converted."""
    assets = tmp_path_factory.mktemp("assets")
    for path in (tiny_checkpoint / "assets" / "token2wav").iterdir():
        shutil.copy(path, assets / ("hift_original.pt" if path.name == "hift.pt" else path.name))
    for path in (tiny_checkpoint / "assets" / "token2wav_v107").iterdir():
        shutil.copy(path, assets / path.name)
    out = tmp_path_factory.mktemp("both")
    convert(tiny_checkpoint, out, Options(token2wav=assets, only=frozenset({"token2wav"})))
    return out


@pytest.fixture(scope="module")
def original(tiny_model_dir: Path) -> omni.Token2Wav:
    # One thread: graphs this small gain nothing from a second one.
    return omni.Token2Wav(tiny_model_dir, vocoder="original", weight_format="stored", n_threads=1)


@pytest.fixture(scope="module")
def causal(both_dir: Path) -> omni.Token2Wav:
    return omni.Token2Wav(both_dir, weight_format="stored", n_threads=1)


@pytest.fixture(scope="module")
def rounded(both_dir: Path) -> omni.Token2Wav:
    """As it is used: weights and caches in BF16."""
    return omni.Token2Wav(both_dir, n_threads=1)


@pytest.fixture(params=["original", "rounded"])
def model(request: pytest.FixtureRequest) -> omni.Token2Wav:
    model: omni.Token2Wav = request.getfixturevalue(request.param)
    return model


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.int32]:
    return np.random.default_rng(3).integers(0, 6561, 120).astype(np.int32)


def pieces(tokens: NDArray[np.int32], seed: int) -> Iterator[tuple[NDArray[np.int32], bool]]:
    """Random cuts, with empty ones among them, and whether each is the last."""
    rng = np.random.default_rng(seed)
    at = 0
    while at < len(tokens):
        n = int(rng.integers(0, 40))
        yield tokens[at : at + n], at + n >= len(tokens)
        at += n


# ---- parity ----


def test_offline_stages(original: omni.Token2Wav, offline: Arrays, voice: omni.Voice) -> None:
    noise = np.ascontiguousarray(offline["noise"].T)
    stages = original._model._stages(offline["gen_tokens"], voice, steps=10, noise=noise)
    channels_first = ("flow_up", "flow_mel", "flow_x", "flow_dphi")
    heads = {"conv_pre": 32, "up0": 16, "source_down0": 16, "source_res0": 16, "conv_post": 18}
    checked = 0
    for name, expected in offline.items():
        if not name.startswith(("flow_", "hift_")):
            continue
        ours = stages[name.removesuffix("_head")]
        if name.endswith("_head"):
            width = heads[name.removeprefix("hift_").removesuffix("_head")]
            rows, columns = expected.shape
            ours = ours.reshape(-1, width).T[:rows, :columns]
        elif name.startswith(channels_first):
            ours = ours.reshape(-1, expected.shape[0]).T
        else:
            ours = ours.reshape(expected.shape)
        source = name.startswith(("hift_source", "hift_conv_post", "hift_wave"))
        tolerance = WAVE if source else MEL if name in ("flow_mel", "flow_x_step9") else STAGE
        assert relative_rms(ours, expected) < tolerance, name
        checked += 1
    assert checked == 24


def test_original_stream(original: omni.Token2Wav, golden: Path, offline: Arrays, voice: omni.Voice) -> None:
    check_stream(original, dict(np.load(golden / "token2wav_stream.npz")), offline["noise"], voice)


def test_causal_stream(causal: omni.Token2Wav, golden: Path, offline: Arrays, voice: omni.Voice) -> None:
    check_stream(causal, dict(np.load(golden / "token2wav_v107.npz")), offline["noise"], voice)


def check_stream(model: omni.Token2Wav, expected: Arrays, noise: Floats, voice: omni.Voice) -> None:
    stream = model.stream(voice, noise=noise, silence=False, excitation=False)
    for _turn in range(2):  # the second turn starts from the same state
        for k, info in enumerate(json.loads(str(expected["info"]))):
            wave = stream.window(expected[f"k{k}_tokens"], last=info["last"])
            if f"k{k}_mu" in expected:
                assert relative_rms(stream._stream._mu, expected[f"k{k}_mu"]) < STAGE
            assert relative_rms(stream._stream._mel.T, expected[f"k{k}_mel"]) < MEL
            assert len(wave) == {True: 960 * len(expected[f"k{k}_tokens"]) + 3840}.get(info["last"], 24000)
            assert relative_rms(wave, expected[f"k{k}_wave"]) < WAVE
            if not info["last"]:
                assert stream._stream._cache_frames == (info["att_frames"], info["conformer_frames"])


def test_causal_vocoder_alone(causal: omni.Token2Wav, golden: Path) -> None:
    expected = np.load(golden / "token2wav_v107.npz")
    mel = np.concatenate([expected[f"k{k}_mel"] for k in range(4)], axis=1).T
    wave = causal._model._vocode(np.ascontiguousarray(mel), for_streams=True, excitation=False)
    assert relative_rms(wave, np.concatenate([expected[f"k{k}_wave"] for k in range(4)])[3840:]) < WAVE


# ---- streams ----


def test_sound_does_not_depend_on_cuts(
    model: omni.Token2Wav, voice: omni.Voice, tokens: NDArray[np.int32]
) -> None:
    stream = model.stream(voice, steps=2, seed=5)
    whole = stream.push(tokens, last=True)
    assert len(whole) == 960 * (len(tokens) + 3) + 3840
    for seed in range(3):
        parts = [stream.push(part, last=last) for part, last in pieces(tokens, seed)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    one_by_one = [stream.push(t) for t in tokens] + [stream.push([], last=True)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), whole)


def test_causal_vocoder_streams_as_it_computes_whole(causal: omni.Token2Wav, voice: omni.Voice) -> None:
    # Windows of all sizes: the mel differs with the windows, the sound of a given mel does not.
    rng = np.random.default_rng(0)
    stream = causal.stream(voice, steps=1, silence=False, seed=9)
    mel: list[Floats] = []
    waves: list[Floats] = []
    for size in [5, 9, 35, 6, 28, 17, 3]:
        waves.append(stream.window(rng.integers(0, 6561, size), last=size == 3))
        mel.append(stream._stream._mel)
    assert [len(w) for w in waves[:3]] == [0, 3840 + 960 * (2 + 6) - 3840, 960 * 32]
    whole = causal._model._vocode(np.concatenate(mel), for_streams=True, excitation=True, seed=9)
    # The same sums over other numbers of rows: single roundings.
    np.testing.assert_allclose(np.concatenate(waves)[3840:], whole, atol=1e-4)


@pytest.mark.parametrize("n", [1, 5, 22, 25, 28, 53])
@pytest.mark.parametrize("silence", [True, False])
def test_no_sample_is_lost(model: omni.Token2Wav, short: omni.Voice, n: int, silence: bool) -> None:
    """25 tokens a second in, 24000 samples out, whichever way the turn ends."""
    ids = np.random.default_rng(n).integers(0, 6561, n)
    stream = model.stream(short, steps=1, silence=silence)
    total = n + (3 if silence else 0)
    lead = 3840 if total >= MAX_TOKENS else 0
    # With the tokens, in an empty call of its own, after the last token alone.
    assert len(stream.push(ids, last=True)) == 960 * total + lead
    assert len(stream.push(ids)) + len(stream.push([], last=True)) == 960 * total + lead
    assert len(stream.push(ids[:-1])) + len(stream.push(ids[-1:], last=True)) == 960 * total + lead
    # Flushed before its end, at once or in the middle.
    heard = [stream.push(ids), stream.flush(), stream.push([], last=True)]
    assert sum(map(len, heard)) == 960 * total + (3840 if total >= 8 else 0)
    half = n // 2
    heard = [stream.push(ids[:half]), stream.flush(), stream.push(ids[half:], last=True)]
    cut = half + (3 if silence else 0) >= 8 or total >= MAX_TOKENS
    assert sum(map(len, heard)) == 960 * total + (3840 if cut else 0)
    # Interrupted: nothing of it comes back.
    stream.push(ids)
    stream.reset()
    assert len(stream.push(ids, last=True)) == 960 * total + lead
    assert len(stream.push([], last=True)) == 0


def test_no_click_at_seams(model: omni.Token2Wav, voice: omni.Voice, tokens: NDArray[np.int32]) -> None:
    stream = model.stream(voice, steps=2, seed=1)
    parts = [stream.push(tokens[at : at + 25], last=at == 100) for at in range(0, 120, 25)]
    wave = np.concatenate(parts)
    ends = np.cumsum([len(part) for part in parts[:-1]])
    jumps = np.abs(np.diff(wave))
    # Neither where calls meet nor, for the fades, within half of one before.
    seams = np.concatenate([np.arange(end - 2000, end + 2000) for end in ends if end + 2000 < len(jumps)])
    elsewhere = np.ones(len(jumps), bool)
    elsewhere[seams] = False
    elsewhere[:8000] = False
    assert jumps[ends - 1].max() <= jumps[elsewhere].max()
    assert jumps[seams].max() <= 1.3 * jumps[elsewhere].max()
    # No gap either: the sound at seams is as loud as elsewhere.
    assert np.std(wave[seams]) > 0.5 * np.std(wave[8000:])


def test_seed_and_voice_decide(model: omni.Token2Wav, voice: omni.Voice, tokens: NDArray[np.int32]) -> None:
    first = model.stream(voice, steps=1, seed=1).push(tokens[:40], last=True)
    np.testing.assert_array_equal(first, model.stream(voice, steps=1, seed=1).push(tokens[:40], last=True))
    assert not np.array_equal(first, model.stream(voice, steps=1, seed=2).push(tokens[:40], last=True))
    other = omni.Voice(voice.tokens, -voice.embedding, voice.mel)
    assert not np.array_equal(first, model.stream(other, steps=1, seed=1).push(tokens[:40], last=True))
    assert not np.array_equal(first, model.stream(voice, steps=2, seed=1).push(tokens[:40], last=True))


def test_streams_share_weights_only(
    model: omni.Token2Wav, voice: omni.Voice, tokens: NDArray[np.int32]
) -> None:
    a = model.stream(voice, steps=1)
    b = model.stream(voice, steps=1)
    expected = model.stream(voice, steps=1).push(tokens, last=True)
    heard: list[Floats] = []
    for at in range(0, len(tokens), 30):
        heard.append(a.push(tokens[at : at + 30], last=at + 30 >= len(tokens)))
        b.push(tokens[::-1][at : at + 30])
    np.testing.assert_array_equal(np.concatenate(heard), expected)


def test_short_prompt_and_many_windows(
    model: omni.Token2Wav, short: omni.Voice, tokens: NDArray[np.int32]
) -> None:
    stream = model.stream(short, steps=1)
    wave = stream.push(np.tile(tokens, 2), last=True)
    assert len(wave) == 960 * (2 * len(tokens) + 3) + 3840
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() > 0


@pytest.mark.parametrize(("weight_format", "tolerance"), [("bf16", 0.01), ("q8_0", 0.03)])
def test_rounded_weights(
    both_dir: Path, offline: Arrays, voice: omni.Voice, weight_format: str, tolerance: float
) -> None:
    """Twice the drift of the reference with rounded weights (bf16 0.0044, q8_0 0.011), and activations'."""
    model = omni.Token2Wav(both_dir, weight_format=weight_format, n_threads=1)  # type: ignore[arg-type]
    noise = np.ascontiguousarray(offline["noise"].T)
    stages = model._model._stages(offline["gen_tokens"], voice, steps=10, noise=noise)
    assert relative_rms(stages["flow_mel"].reshape(-1, 80).T, offline["flow_mel"]) < tolerance


def test_rounded_streams(rounded: omni.Token2Wav, golden: Path, offline: Arrays, voice: omni.Voice) -> None:
    """Caches are rounded, too: 2^-9 of every key, value, weight and activation, through 4 windows."""
    assert rounded.info.matrix_type == "bf16"
    expected = np.load(golden / "token2wav_v107.npz")
    stream = rounded.stream(voice, noise=offline["noise"], silence=False, excitation=False)
    for k, info in enumerate(json.loads(str(expected["info"]))):
        stream.window(expected[f"k{k}_tokens"], last=info["last"])
        assert relative_rms(stream._stream._mel.T, expected[f"k{k}_mel"]) < 0.01
        if not info["last"]:
            assert stream._stream._cache_frames == (info["att_frames"], info["conformer_frames"])


# ---- the official default voice ----


def prompt_cache(path: Path, reference: Arrays, frames: int = 130, steps: int = 5) -> Path:
    """A file laid out as the official one, for the tiny networks, with caches of random numbers."""
    rng = np.random.default_rng(8)
    writer = gguf.GGUFWriter(path, "none")
    writer.add_int32("mtmd.prompt_cache.version", 2)
    writer.add_int32("mtmd.prompt_cache.n_timesteps", steps)
    shapes = {
        "spk_cb": (192,),
        "conformer_cnn_cache": (6, 64),
        "conformer_att_cache": (4, 2, frames, 64),
        "estimator_cnn_cache": (2, 2 * steps, 2, 128),
        "estimator_att_cache": (2, 2 * steps * 2, frames, 64),
    }
    for name, shape in shapes.items():
        values = reference["spk_embedding"] if name == "spk_cb" else rng.standard_normal(shape)
        writer.add_tensor(f"prompt_cache.{name}", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_prompt_cache(
    model: omni.Token2Wav, offline: Arrays, tokens: NDArray[np.int32], tmp_path: Path
) -> None:
    voice = omni.Voice.load(prompt_cache(tmp_path / "prompt_cache.gguf", offline))
    assert voice.cache_steps == 5
    wave = model.stream(voice, steps=5).push(tokens, last=True)
    assert len(wave) == 960 * (len(tokens) + 3) + 3840
    assert np.isfinite(wave).all()
    for steps in (1, 10):
        with pytest.raises(omni.InvalidArgumentError, match="5 flow steps"):
            model.stream(voice, steps=steps)
    with pytest.raises(omni.UnsupportedError, match="only be streamed"):
        model.synthesize(tokens, voice, steps=5)


def test_rounded_prompt_cache(
    causal: omni.Token2Wav, rounded: omni.Token2Wav, offline: Arrays, tmp_path: Path
) -> None:
    voice = omni.Voice.load(prompt_cache(tmp_path / "prompt_cache.gguf", offline))
    mels: list[Floats] = []
    for made in (causal, rounded):
        stream = made.stream(voice, steps=5, silence=False)
        stream.window(np.arange(28))
        mels.append(stream._stream._mel)
    assert relative_rms(mels[1], mels[0]) < 0.01


def test_prompt_cache_of_another_model(model: omni.Token2Wav, offline: Arrays, tmp_path: Path) -> None:
    voice = omni.Voice.load(prompt_cache(tmp_path / "prompt_cache.gguf", offline, steps=7))
    assert model.stream(voice, steps=7).push([1] * 30).size == 24000
    path = prompt_cache(tmp_path / "wrong.gguf", offline, frames=131)
    with pytest.raises(omni.FormatError, match="131"):
        omni.Voice.load(path)


# ---- unusable input ----


def test_tokens_out_of_range(model: omni.Token2Wav, voice: omni.Voice) -> None:
    stream = model.stream(voice, steps=1)
    for bad in ([6561], [-1], [0, 1, 2**40], [1.5], [[1, 2]], "text"):
        with pytest.raises(omni.InvalidArgumentError):
            stream.push(bad)
    assert stream.buffered == 3
    for n, last in ((4, False), (36, False), (33, True)):
        with pytest.raises(omni.InvalidArgumentError, match="chunk has"):
            stream.window([1] * n, last=last)
    with pytest.raises(omni.InvalidArgumentError):
        model.synthesize([], voice)
    with pytest.raises(omni.InvalidArgumentError, match="stream them"):
        model.synthesize([1] * 1600, voice)


def test_steps_and_noise(model: omni.Token2Wav, voice: omni.Voice) -> None:
    for steps in (0, -1, 101):
        with pytest.raises(omni.InvalidArgumentError, match="steps"):
            model.stream(voice, steps=steps)
    for noise in (np.zeros((80, 0)), np.zeros((79, 300)), np.full((80, 300), np.nan)):
        with pytest.raises(omni.InvalidArgumentError, match="noise"):
            model.stream(voice, steps=1, noise=noise.astype(np.float32))
    with pytest.raises(omni.InvalidArgumentError, match="100 frames"):
        model.stream(voice, steps=1, noise=np.zeros((80, 100), np.float32))


def test_missing_and_damaged_files(both_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(omni.ModelFileError, match="flow_matching"):
        omni.Token2Wav(tmp_path)
    folder = tmp_path / "token2wav-gguf"
    shutil.copytree(both_dir / "token2wav-gguf", folder)
    with pytest.raises(omni.InvalidArgumentError, match="vocoder"):
        omni.Token2Wav(folder, vocoder="other")  # type: ignore[arg-type]
    (folder / "causal_vocoder.gguf").unlink()
    with pytest.raises(omni.ModelFileError, match="causal"):
        omni.Token2Wav(folder, vocoder="causal")
    (folder / "hifigan2.gguf").unlink()
    with pytest.raises(omni.ModelFileError, match="no vocoder"):
        omni.Token2Wav(folder)
    shutil.copy(both_dir / "token2wav-gguf" / "hifigan2.gguf", folder)
    for name in ("encoder", "flow_matching", "flow_extra", "hifigan2"):
        whole = (folder / f"{name}.gguf").read_bytes()
        for size in (0, 100, len(whole) // 2, len(whole) - 64):
            (folder / f"{name}.gguf").write_bytes(whole[:size])
            with pytest.raises((omni.FormatError, omni.ModelFileError), match=name):
                omni.Token2Wav(folder)
        (folder / f"{name}.gguf").write_bytes(whole)


def test_every_tensor_is_missed(both_dir: Path, tmp_path: Path) -> None:
    """A renamed tensor is named in the error, wherever it is."""
    folder = tmp_path / "token2wav-gguf"
    shutil.copytree(both_dir / "token2wav-gguf", folder)
    for name in ("encoder", "flow_matching", "flow_extra", "hifigan2", "causal_vocoder"):
        path = folder / f"{name}.gguf"
        whole = path.read_bytes()
        tensors = [t.name for t in gguf.GGUFReader(path).tensors]
        for tensor in tensors[:: max(1, len(tensors) // 12)]:
            renamed = whole.replace(tensor.encode(), b"x" + tensor.encode()[1:], 1)
            path.write_bytes(renamed)
            with pytest.raises(omni.FormatError, match=name):
                omni.Token2Wav(folder)
        path.write_bytes(whole)
