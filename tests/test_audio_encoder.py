"""The audio encoder against the reference, stage by stage and second by second, and with odd input."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_edit import edit_gguf
from helpers import relative_rms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import omni
from omni import AudioEncoder, FormatError, InvalidArgumentError, ModelFileError, UnsupportedError
from omni.audio_io import load_audio

GOLDEN = Path(__file__).parent / "golden"

# Float sums of a few hundred terms in another order, a mel that is more exact than the reference's float32
# one, and the golden arrays' own 16 mantissa bits (4e-6).
FLOAT_ERROR = 2e-5
# Accelerators may hold keys and values as F16 in attention.
DEVICE_ERROR = 1e-4

Arrays = dict[str, NDArray[Any]]


def wav(name: str) -> NDArray[np.float32]:
    return load_audio(GOLDEN / "inputs" / f"{name}.wav")


@pytest.fixture(scope="module")
def reference() -> Arrays:
    with np.load(GOLDEN / "audio.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def audio_file(tiny_model_dir: Path) -> Path:
    return next((tiny_model_dir / "audio").glob("*.gguf"))


@pytest.fixture(scope="module")
def encoder(audio_file: Path) -> AudioEncoder:
    # One thread: with more, ggml's threads spin at each other's barriers when tests share a machine.
    return AudioEncoder(audio_file, n_threads=1, kv_type="f32")


@pytest.fixture(scope="module", params=[d.name for d in omni.list_devices()])
def on_device(request: pytest.FixtureRequest, audio_file: Path) -> tuple[AudioEncoder, float]:
    """The encoder on every device of this machine, and the error it may have there."""
    made = AudioEncoder(audio_file, device=request.param, n_threads=1, kv_type="f32")
    return made, FLOAT_ERROR if made.device_name.startswith("CPU") else DEVICE_ERROR


# ---- clips against the reference ----


@pytest.mark.parametrize("name", ["w0", "w1"])
def test_stages(on_device: tuple[AudioEncoder, float], reference: Arrays, name: str) -> None:
    made, error = on_device
    stages = made._encoder._inspect(wav(name), 1.0)
    for stage, array in [
        ("conv1", "conv1_head"),
        ("conv2", "conv2_head"),
        ("layer0", "layer0_chunk1_head"),
        ("encoded", "encoder_chunk1"),
        ("projected", "proj_chunk1_head"),
        ("embeds", "chunk1_embeds"),
    ]:
        expected = reference[f"{name}_{array}"]
        if stage.startswith("conv"):
            expected = expected.T
        assert relative_rms(stages[stage][: len(expected)], expected) < error, stage


@pytest.mark.parametrize("name", ["w0", "w1"])
def test_clips(on_device: tuple[AudioEncoder, float], reference: Arrays, name: str) -> None:
    made, error = on_device
    sound = wav(name)
    got = made.encode(sound)
    assert got.dtype == np.float32
    assert len(got) == made.embedding_count(len(sound)) == reference[f"{name}_placeholder_tokens"][0]
    assert relative_rms(got, reference[f"{name}_chunk1_embeds"]) < error
    assert relative_rms(made.encode(sound, chunk_seconds=None), reference[f"{name}_full_embeds"]) < error


def test_batch_of_a_request(encoder: AudioEncoder) -> None:
    with np.load(GOLDEN / "chat.npz") as chat:
        joined, apart = (chat[f"two_audio_{case}_audio_embeds"] for case in ("one_message", "two_messages"))
    clips = [wav("w0"), wav("w1")]
    assert relative_rms(encoder.encode(np.concatenate(clips)), joined) < FLOAT_ERROR
    assert relative_rms(encoder.encode_batch(clips), apart) < FLOAT_ERROR
    # Single clips don't see the padding.
    single = np.concatenate([encoder.encode(clip) for clip in clips])
    assert relative_rms(single[:20], apart[:20]) < FLOAT_ERROR
    assert relative_rms(single[20:23], apart[20:23]) > 1e-3
    assert relative_rms(single[23:], apart[23:]) < FLOAT_ERROR


# ---- streams against the reference ----


@pytest.mark.parametrize("mode", ["duplex", "simplex"])
def test_stream(on_device: tuple[AudioEncoder, float], reference: Arrays, mode: Any) -> None:
    made, error = on_device
    stream = made.stream(mode)
    sound = wav("long")
    for i, info in enumerate(json.loads(str(reference[f"{mode}_info"]))):
        embeds = stream.push(sound[16000 * i : 16000 * (i + 1)])
        assert stream.length == info["kv_len"]
        assert relative_rms(stream._stream._encoded(), reference[f"{mode}_encoder_{i}"]) < error, i
        assert relative_rms(embeds, reference[f"{mode}_embeds_{i}"]) < error, i


def test_stream_past_the_position_table(on_device: tuple[AudioEncoder, float], reference: Arrays) -> None:
    made, error = on_device
    stream = made.stream("duplex")
    sound = np.tile(wav("long"), 3)
    checked = 0
    for i, info in enumerate(json.loads(str(reference["long_info"]))):
        embeds = stream.push(sound[16000 * i : 16000 * (i + 1)])
        assert stream.length == info["kv_len"]
        if f"long_embeds_{i}" in reference:
            checked += 1
            assert relative_rms(embeds, reference[f"long_embeds_{i}"]) < error, i
    assert checked == 6


# ---- the same result by other ways ----


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mode=st.sampled_from(["duplex", "simplex"]), cuts=st.lists(st.integers(0, 70000), max_size=30))
def test_cuts_do_not_matter(encoder: AudioEncoder, mode: Any, cuts: list[int]) -> None:
    sound = wav("long")[:70000]
    whole = encoder.stream(mode)
    seconds = [whole.push(sound[i : i + 16000]) for i in range(0, 70000, 16000)]
    expected = np.concatenate([*seconds, whole.flush()])
    stream = encoder.stream(mode)
    parts = [stream.push(part) for part in np.split(sound, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()]), expected)
    assert len(expected) == 43


def test_clone_and_reset(encoder: AudioEncoder) -> None:
    sound = wav("w1")
    stream = encoder.stream("duplex")
    first = stream.push(sound[:40000])
    copy = stream.clone()
    rest = stream.push(sound[40000:])
    np.testing.assert_array_equal(copy.push(sound[40000:]), rest)
    assert copy.length == stream.length == 250
    stream.reset()
    assert stream.length == 0
    np.testing.assert_array_equal(stream.push(sound[:40000]), first)


def test_flush(encoder: AudioEncoder) -> None:
    stream = encoder.stream()
    assert stream.flush().shape == (0, encoder.info.embed_width)
    stream.reset()
    assert len(stream.push(wav("w1")[:8000])) == 0
    assert len(stream.flush()) == 10  # a first second is always whole
    with pytest.raises(InvalidArgumentError, match="reset"):
        stream.push(wav("w1"))
    for rest, count in [(0, 0), (1280, 0), (1281, 1), (5000, 3), (15999, 10)]:
        stream.reset()
        stream.push(wav("w1")[: 16000 + rest])
        assert len(stream.flush()) == count, rest


def test_pieces_of_a_long_clip(encoder: AudioEncoder) -> None:
    sound = np.resize(wav("long"), 31 * 16000)
    got = encoder.encode(sound)
    assert len(got) == encoder.embedding_count(len(sound)) == 310
    np.testing.assert_array_equal(got[:300], encoder.encode(sound[:480000]))
    assert relative_rms(got[300:], encoder.encode(sound[480000:])) < 1e-6  # whole seconds hide their padding
    # An end too short for an embedding gives none.
    assert len(encoder.encode(sound[:480500])) == encoder.embedding_count(480500) == 300


def test_streams_share_the_encoder(encoder: AudioEncoder) -> None:
    sounds = [wav("w1"), wav("long")]
    alone = [encoder.stream("duplex").push(sound) for sound in sounds]
    streams = [encoder.stream("duplex") for _ in sounds]
    got: list[list[NDArray[np.float32]]] = [[], []]

    def work(i: int) -> None:
        for start in range(0, len(sounds[i]), 9000):
            got[i].append(streams[i].push(sounds[i][start : start + 9000]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate(got[i]), alone[i])


# ---- other forms of the weights ----


def test_half_precision_cache(audio_file: Path, encoder: AudioEncoder) -> None:
    half = AudioEncoder(audio_file, n_threads=1)
    sound = wav("long")
    # Keys and values keep 11 bits; the rest is float.
    assert 0 < relative_rms(half.stream().push(sound), encoder.stream().push(sound)) < 5e-4


@pytest.mark.parametrize(("weight_format", "bound"), [("bf16", 1e-2), ("q8_0", 4e-2)])
def test_other_formats(audio_file: Path, encoder: AudioEncoder, weight_format: Any, bound: float) -> None:
    made = AudioEncoder(audio_file, n_threads=1, weight_format=weight_format)
    assert relative_rms(made.encode(wav("w1")), encoder.encode(wav("w1"))) < bound


def test_random_weights_of_any_size() -> None:
    made = AudioEncoder.synthetic("F16", 1, n_threads=1)
    assert (made.info.width, made.info.n_heads, made.info.embed_width) == (1024, 16, 4096)
    embeds = made.encode(wav("w0"))
    assert embeds.shape == (23, 4096)
    assert np.isfinite(embeds).all()


# ---- odd input ----


def test_short_clips(encoder: AudioEncoder) -> None:
    for n in (1, 100, 1281, 1600):
        assert encoder.encode(wav("w0")[:n]).shape == (1, encoder.info.embed_width)
        assert encoder.mel(wav("w0")[:n]).shape == (80, -(-n // 160))


def test_bad_input(encoder: AudioEncoder) -> None:
    stream = encoder.stream()
    bad = np.zeros(50000, np.float32)
    bad[49999] = np.inf
    for take in (encoder.encode, encoder.mel, stream.push):
        with pytest.raises(InvalidArgumentError, match="49999"):
            take(bad)
        with pytest.raises(InvalidArgumentError, match="1-d"):
            take(np.zeros((1, 16000)))
        with pytest.raises(InvalidArgumentError, match="int16"):
            take(np.zeros(16000, np.int16))
    assert stream.length == 0
    with pytest.raises(InvalidArgumentError, match="empty"):
        encoder.encode(np.zeros(0, np.float32))
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidArgumentError, match="chunk_seconds"):
            encoder.encode(wav("w0"), chunk_seconds=seconds)
    with pytest.raises(InvalidArgumentError, match="mode"):
        encoder.stream("full")  # type: ignore[arg-type]


def test_bad_options(audio_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="kv_type"):
        AudioEncoder(audio_file, kv_type="q4_0")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="weight format"):
        AudioEncoder(audio_file, weight_format="q3")  # type: ignore[arg-type]
    with pytest.raises(ModelFileError):
        AudioEncoder(tmp_path / "absent.gguf")


# ---- files ----


@pytest.mark.parametrize(
    "name",
    [
        "encoder.conv1.weight",
        "encoder.conv2.bias",
        "encoder.positional_embedding",
        "encoder.blocks.1.attn.key.weight",
        "encoder.blocks.2.mlp.0.bias",
        "encoder.ln_post.weight",
        "audio_projector.linear1.weight",
        "audio_projector.linear2.bias",
    ],
)
def test_missing_tensor(audio_file: Path, tmp_path: Path, name: str) -> None:
    path = edit_gguf(audio_file, tmp_path / "cut.gguf", rename=lambda n: None if n == name else n)
    with pytest.raises(FormatError, match=rf"cut\.gguf.*{name}"):
        AudioEncoder(path)


@pytest.mark.parametrize("name", ["encoder.blocks.0.attn.out.weight", "audio_projector.linear1.weight"])
def test_wrong_shape(audio_file: Path, tmp_path: Path, name: str) -> None:
    path = edit_gguf(audio_file, tmp_path / "odd.gguf", tensors={name: np.zeros((64, 63), np.float32)})
    with pytest.raises(FormatError, match=rf"{name}.*63"):
        AudioEncoder(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_layers", 0),
        ("encoder_attention_heads", 5),
        ("encoder_attention_heads", 4000000000),
        ("d_model", None),
        ("audio_pool_step", 0),
        ("n_mel", 79),
        ("filters", [0.5] * 100),
        ("filters", [float("nan")] * 80 * 201),
    ],
)
def test_unusable_keys(audio_file: Path, tmp_path: Path, key: str, value: Any) -> None:
    path = edit_gguf(audio_file, tmp_path / "odd.gguf", keys={key: value})
    with pytest.raises(FormatError):
        AudioEncoder(path)


def test_keys_with_defaults(audio_file: Path, encoder: AudioEncoder, tmp_path: Path) -> None:
    absent = dict.fromkeys(("filters", "n_fft", "n_mel", "audio_pool_step", "encoder_ffn_dim"))
    bare = AudioEncoder(edit_gguf(audio_file, tmp_path / "bare.gguf", keys=absent), n_threads=1)
    np.testing.assert_array_equal(bare.encode(wav("w0")), encoder.encode(wav("w0")))


def test_filters_of_the_file_are_used(audio_file: Path, encoder: AudioEncoder, tmp_path: Path) -> None:
    quiet = [0.01] * (80 * 201)
    path = edit_gguf(audio_file, tmp_path / "quiet.gguf", keys={"filters": quiet})
    assert np.ptp(AudioEncoder(path, n_threads=1).mel(wav("w0"))[:, 50]) == 0
    assert np.ptp(encoder.mel(wav("w0"))[:, 50]) > 0


def test_other_files(tiny_model_dir: Path, tmp_path: Path, audio_file: Path) -> None:
    with pytest.raises(UnsupportedError, match="audio encoder"):
        AudioEncoder(next(tiny_model_dir.glob("*.gguf")))
    with pytest.raises(UnsupportedError, match="frequencies"):
        AudioEncoder(edit_gguf(audio_file, tmp_path / "wide.gguf", keys={"n_fft": 400}))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(audio_file.read_bytes()[:-1000])
    with pytest.raises(FormatError, match=r"cut\.gguf"):
        AudioEncoder(cut)
