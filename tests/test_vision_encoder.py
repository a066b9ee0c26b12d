"""The vision encoder against the reference, stage by stage, and what it does with odd files and pictures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_edit import edit_gguf
from helpers import relative_rms
from numpy.typing import NDArray

import omni
from omni import FormatError, InvalidArgumentError, ModelFileError, UnsupportedError, VisionEncoder, _ext
from omni.convert import Options, convert
from omni.images import load_image

GOLDEN = Path(__file__).parent / "golden"
CASES = [("small", 1), ("tall", 4), ("wide", 2)]

# Float sums of a few hundred terms in another order, and the golden arrays' own 16 mantissa bits (4e-6).
FLOAT_ERROR = 1e-5
# Accelerators may hold keys and values as F16 in attention.
DEVICE_ERROR = 1e-4


def picture(name: str) -> NDArray[np.uint8]:
    return load_image(GOLDEN / "inputs" / f"{name}.png")


@pytest.fixture(scope="module")
def reference() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "vision.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def vision_file(tiny_model_dir: Path) -> Path:
    return next((tiny_model_dir / "vision").glob("*.gguf"))


@pytest.fixture(scope="module")
def encoder(vision_file: Path) -> VisionEncoder:
    # One thread: with more, ggml's threads spin at each other's barriers when tests share a machine.
    return VisionEncoder(vision_file, n_threads=1)


@pytest.fixture(scope="module", params=[d.name for d in omni.list_devices()])
def on_device(request: pytest.FixtureRequest, vision_file: Path) -> tuple[VisionEncoder, float]:
    """The encoder on every device of this machine, and the error it may have there."""
    made = VisionEncoder(vision_file, device=request.param)
    return made, FLOAT_ERROR if made.device_name.startswith("CPU") else DEVICE_ERROR


# ---- against the reference ----


@pytest.mark.parametrize(("name", "limit"), CASES)
def test_embeddings(on_device: tuple[VisionEncoder, float], reference: Any, name: str, limit: int) -> None:
    made, error = on_device
    got = made.encode(picture(name), limit)
    assert got.dtype == np.float32
    assert relative_rms(got, reference[f"{name}_s{limit}_resampler"]) < error


@pytest.mark.parametrize(("name", "limit"), CASES)
def test_stages(on_device: tuple[VisionEncoder, float], reference: Any, name: str, limit: int) -> None:
    made, error = on_device
    slices = _ext.slice_image(picture(name), limit)

    def check(stage: str, rows: Any, array: str, which: int = 0) -> None:
        got = made._encoder._inspect(slices[which], stage)
        assert relative_rms(got[rows], reference[f"{name}_s{limit}_{array}"]) < error, stage

    check("embeddings", slice(64), "emb_first64")
    for i in range(3):
        check(f"layer.{i}", slice(64), f"layer{i}_first64")
    n = len(reference[f"{name}_s{limit}_vit0"])
    check("tower", slice(n), "vit0")
    check("tower", slice(-128, None), "vit_last", which=-1)
    if f"{name}_s{limit}_attn_q_b0" in reference:
        check("attention", slice(None), "attn_q_b0")


def test_resampler_positions(encoder: VisionEncoder, reference: Any) -> None:
    expected = reference["resampler_pos_embed_5x7"]
    got = encoder._encoder._inspect(np.zeros((5 * 14, 7 * 14, 3), np.uint8), "positions")
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=5e-6)


def test_slices(encoder: VisionEncoder, reference: Any) -> None:
    for name, limit in CASES:
        slices, grid = encoder.slices(picture(name), limit)
        assert [size for _, size in slices] == [tuple(s) for s in reference[f"{name}_s{limit}_tgt_sizes"]]
        assert (grid is None) == (len(slices) == 1)
    pixels, (_, columns) = encoder.slices(picture("small"), 1)[0][0]
    head = reference["small_s1_pixel0_head"]
    for i in range(head.shape[2] // 14):
        row, column = divmod(i, columns)
        patch = pixels[:, row * 14 : (row + 1) * 14, column * 14 : (column + 1) * 14]
        # the golden array keeps 16 bits of the mantissa
        np.testing.assert_allclose(head[:, :, i * 14 : (i + 1) * 14], patch, rtol=1e-5)


def test_info(encoder: VisionEncoder) -> None:
    info = encoder.info
    assert (info.n_layers, info.width, info.ffn_width, info.n_heads) == (3, 64, 160, 4)
    assert (info.n_queries, info.embed_width, info.table_side) == (64, 256, 70)
    assert (info.scale_resolution, info.patch_size) == (448, 14)


# ---- the same result by other ways ----


def test_batches_change_nothing(vision_file: Path, encoder: VisionEncoder) -> None:
    for name, limit in CASES:
        one = encoder.encode(picture(name), limit)
        for size in (2, 16):
            together = VisionEncoder(vision_file, max_batch=size, n_threads=1).encode(picture(name), limit)
            assert relative_rms(together, one) < 1e-6, size


def test_slices_of_several_images(encoder: VisionEncoder) -> None:
    slices = _ext.slice_image(picture("wide"), 2) + _ext.slice_image(picture("small"), 1)
    slices = [slices[i] for i in (2, 0, 3, 1)]
    expected = np.concatenate([encoder.encode(picture("wide"), 2), encoder.encode(picture("small"), 1)])
    np.testing.assert_array_equal(encoder.encode_slices(slices), expected[[2, 0, 3, 1]])
    assert encoder.encode_slices([]).shape == (0, 64, 256)


def test_more_shapes_than_graphs_are_kept(encoder: VisionEncoder) -> None:
    rng = np.random.default_rng(1)
    slices = [rng.integers(0, 256, (14 * (i + 1), 14 * 3, 3), dtype=np.uint8) for i in range(20)]
    first = encoder.encode_slices(slices)
    np.testing.assert_array_equal(encoder.encode_slices(slices[::-1])[::-1], first)
    # grids of 2 x 12 and 4 x 6 patches share a graph, not their positions
    wide, tall = slices[7], slices[7].reshape(42, 112, 3)
    assert relative_rms(encoder.encode_slices([wide]), encoder.encode_slices([tall])) > 0.01
    np.testing.assert_array_equal(encoder.encode_slices([wide])[0], first[7])


def test_threads_share_an_encoder(encoder: VisionEncoder) -> None:
    expected = encoder.encode(picture("small"), 1)
    results: list[NDArray[np.float32]] = []
    workers = [
        threading.Thread(target=lambda: results.append(encoder.encode(picture("small"), 1))) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("name", "limit"), CASES)
@pytest.mark.parametrize(
    ("stored", "held", "error"),
    [
        # weights are BF16 numbers, and F16 keeps all but the smallest; with F16 weights ggml rounds the
        # activations to 11 bits in every product, 2^-12 each on average, over a dozen products in a row
        ("F16", "stored", 2e-3),
        # activations with 8 bits
        ("F16", "bf16", 1.6e-2),
        # twice the reference's own error with Q8_0 weights, 0.017
        ("F16", "q8_0", 3.4e-2),
        ("Q8_0", "stored", 3.4e-2),
    ],
)
def test_weight_formats(
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    reference: Any,
    name: str,
    limit: int,
    stored: str,
    held: Any,
    error: float,
) -> None:
    out = tmp_path_factory.getbasetemp() / f"vision-{stored}"
    if not out.exists():
        convert(tiny_checkpoint, out, Options(vision=stored, only=frozenset(["vision"])))
    made = VisionEncoder(next((out / "vision").glob("*.gguf")), weight_format=held, n_threads=1)
    assert relative_rms(made.encode(picture(name), limit), reference[f"{name}_s{limit}_resampler"]) < error


def test_padding_at_real_sizes() -> None:
    """4304 columns are no whole blocks of 32; the formats that need them must agree with the others.

    About ten products follow one another. Rounding weights and activations to BF16 adds 0.16 % in each, to
    blocks of 8 bits 0.7 %; the squares add up to 0.5 % and 2.2 %. What cancels in a sum raises both, so more
    is allowed.
    """
    pixels = np.random.default_rng(2).integers(0, 256, (14 * 5, 14 * 6, 3), dtype=np.uint8)
    expected = VisionEncoder.synthetic("F16", 1, weight_format="stored", n_threads=1).encode_slices([pixels])
    assert np.isfinite(expected).all()
    for held, error in (("bf16", 2e-2), ("q8_0", 4.5e-2), ("auto", 2e-2)):
        got = VisionEncoder.synthetic("F16", 1, weight_format=held, n_threads=1).encode_slices([pixels])  # type: ignore[arg-type]
        assert relative_rms(got, expected) < error, held


# ---- other files ----


def test_straight_mlp_names(vision_file: Path, encoder: VisionEncoder, tmp_path: Path) -> None:
    """Official files cross ffn_up and ffn_down; others may not."""

    def uncross(name: str) -> str:
        if "ffn_down" in name:
            return name.replace("ffn_down", "ffn_up")
        return name.replace("ffn_up", "ffn_down")

    straight = VisionEncoder(edit_gguf(vision_file, tmp_path / "straight.gguf", rename=uncross), n_threads=1)
    np.testing.assert_array_equal(straight.encode(picture("small"), 1), encoder.encode(picture("small"), 1))


def test_position_table_of_the_resampler_is_not_read(
    vision_file: Path, encoder: VisionEncoder, tmp_path: Path
) -> None:
    def drop(name: str) -> str | None:
        return None if name == "resampler.pos_embed_k" else name

    without = VisionEncoder(edit_gguf(vision_file, tmp_path / "without.gguf", rename=drop), n_threads=1)
    np.testing.assert_array_equal(without.encode(picture("small"), 1), encoder.encode(picture("small"), 1))


@pytest.mark.parametrize(
    "name",
    [
        "v.blk.1.attn_q.bias",
        "v.blk.2.ffn_up.weight",
        "resampler.kv.weight",
        "v.patch_embd.weight",
        "v.post_ln.bias",
    ],
)
def test_missing_tensors(vision_file: Path, tmp_path: Path, name: str) -> None:
    path = edit_gguf(vision_file, tmp_path / "cut.gguf", rename=lambda n: None if n == name else n)
    with pytest.raises(FormatError, match=rf"cut\.gguf.*{name}"):
        VisionEncoder(path)


def test_wrong_shape(vision_file: Path, tmp_path: Path) -> None:
    path = edit_gguf(
        vision_file,
        tmp_path / "odd.gguf",
        tensors={"v.blk.0.attn_k.weight": np.zeros((64, 63), np.float32)},
    )
    with pytest.raises(FormatError, match=r"v\.blk\.0\.attn_k\.weight.*63"):
        VisionEncoder(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip.vision.block_count", 0),
        ("clip.vision.block_count", 7),
        ("clip.vision.attention.head_count", 5),
        ("clip.vision.patch_size", 1000),
        ("clip.vision.image_size", 3),
        ("clip.vision.embedding_length", None),
        ("clip.vision.attention.layer_norm_epsilon", -1.0),
        ("clip.vision.image_std", [0.5, 0.0, 0.5]),
        ("clip.vision.image_mean", [0.5, 0.5]),
        ("clip.minicpmv_query_num", 32),
    ],
)
def test_wrong_keys(vision_file: Path, tmp_path: Path, key: str, value: Any) -> None:
    path = edit_gguf(vision_file, tmp_path / "odd.gguf", keys={key: value})
    with pytest.raises(FormatError, match=r"odd\.gguf"):
        VisionEncoder(path)


def test_other_files(tiny_model_dir: Path, tmp_path: Path, vision_file: Path) -> None:
    llm = next(tiny_model_dir.glob("*.gguf"))
    with pytest.raises(UnsupportedError, match="vision encoder"):
        VisionEncoder(llm)
    with pytest.raises(ModelFileError):
        VisionEncoder(tmp_path / "nowhere.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(vision_file.read_bytes()[:-1000])
    with pytest.raises(FormatError, match="truncated"):
        VisionEncoder(cut)
    with pytest.raises(UnsupportedError, match="GELU"):
        VisionEncoder(edit_gguf(vision_file, tmp_path / "quick.gguf", keys={"clip.use_gelu": False}))


# ---- bad input ----


@pytest.mark.parametrize("shape", [(15, 14, 3), (14, 13, 3), (14 * 2049, 14, 3), (14 * 80, 14 * 80, 3)])
def test_bad_slices(encoder: VisionEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="slice of"):
        encoder.encode_slices([np.zeros(shape, np.uint8)])


def test_bad_arguments(encoder: VisionEncoder, vision_file: Path) -> None:
    small = picture("small")
    for limit in (0, -1, 10**6):
        with pytest.raises(InvalidArgumentError, match="max_slice_nums"):
            encoder.encode(small, limit)
    with pytest.raises(InvalidArgumentError, match=r"layer\.0 to layer\.2"):
        encoder._encoder._inspect(small[:14, :14], "layer.3")
    with pytest.raises(InvalidArgumentError, match="weight format"):
        VisionEncoder(vision_file, weight_format="int3")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="max_batch"):
        VisionEncoder(vision_file, max_batch=-1)
    with pytest.raises(InvalidArgumentError, match="no device"):
        VisionEncoder(vision_file, device="Abacus0")


def test_extreme_pictures(encoder: VisionEncoder) -> None:
    for width, height in ((1, 1), (20000, 10), (1, 4096)):
        got = encoder.encode(np.full((height, width, 3), 200, np.uint8), 9)
        assert got.shape == (1, 64, 256)
        assert np.isfinite(got).all()
