"""Slicing and resizing: sizes, grids and pixels equal the reference; bad input gives errors."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vision_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from omni import InvalidArgumentError, _ext
from omni.images import load_image

GOLDEN = Path(__file__).parent / "golden"
REFERENCE_PILLOW = "10.4.0"

needs_reference_pillow = pytest.mark.skipif(
    pillow_version != REFERENCE_PILLOW,
    reason=f"pixels are compared with Pillow {REFERENCE_PILLOW}, and {pillow_version} is installed "
    "(version 13 changed the order of the passes)",
)


def random_pixels(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Noise, or noise of only 0 and 255, where the overshoot of the kernel is clipped."""
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(pixels > 127, 255, 0).astype(np.uint8) if rng.random() < 0.3 else pixels


def random_size(rng: np.random.Generator, top: int = 4000) -> tuple[int, int]:
    """Sides from 1 to `top`, all magnitudes equally likely, so that extreme ratios are common."""
    width, height = np.exp(rng.uniform(0, np.log(top + 1), 2)).astype(int)
    return int(width), int(height)


def cases() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "image_slicing.json").read_text())


# ---- against the golden set ----


@pytest.mark.parametrize("case", cases(), ids=lambda c: f"{c['image']}_{c['max_slice_nums']}")
def test_golden_sizes(case: dict[str, Any]) -> None:
    pixels = load_image(GOLDEN / "inputs" / f"{case['image']}.png")
    assert [pixels.shape[1], pixels.shape[0]] == case["size"]
    overview, _, grid = _ext.plan_slices(*case["size"], case["max_slice_nums"])
    assert list(overview) == case["source_size"]
    assert (None if grid is None else list(grid)) == case["grid"]
    slices = _ext.slice_image(pixels, case["max_slice_nums"])
    assert [[s.shape[1], s.shape[0]] for s in slices] == case["slice_sizes"]
    assert [[s.shape[0] // 14, s.shape[1] // 14] for s in slices] == case["tgt_sizes"]


@pytest.mark.parametrize("path", sorted((GOLDEN / "slices").glob("*.png")), ids=lambda p: p.stem)
def test_golden_pixels(path: Path) -> None:
    name, limit, index = path.stem.split("_")
    slices = _ext.slice_image(load_image(GOLDEN / "inputs" / f"{name}.png"), int(limit[1:]))
    np.testing.assert_array_equal(slices[int(index)], load_image(path))


def test_golden_position_buckets() -> None:
    with np.load(GOLDEN / "vision.npz") as golden:
        names = [name for name in golden.files if name.startswith("posids_")]
        assert len(names) >= 8
        for name in names:
            rows, columns = map(int, name.removeprefix("posids_").split("x"))
            ids = _ext.position_buckets(rows)[:, None] * 70 + _ext.position_buckets(columns)
            np.testing.assert_array_equal(ids.ravel(), golden[name], err_msg=name)


def test_position_buckets_on_edges() -> None:
    """Where float32 rounding decides, the reference differs from floor(70 i / n)."""
    below = {
        25: [5, 10, 15, 20],
        49: [7, 14, 35, 42],
        50: [5, 10, 15, 20, 30, 40],
        55: [11, 22, 33, 44],
        58: [29],
        77: [55],
        82: [41],
        86: [43],
        94: [47],
        98: [7, 14, 35, 42, 56, 70, 84],
        100: [10, 20, 30, 40, 80],
    }
    for n in range(1, 101):
        expected = [70 * i // n - (i in below.get(n, [])) for i in range(n)]
        assert _ext.position_buckets(n).tolist() == expected, n
    differing = [
        n for n in range(101, 151) if (_ext.position_buckets(n) != [70 * i // n for i in range(n)]).any()
    ]
    assert differing == [110, 115, 135, 147]


# ---- sizes ----


@pytest.mark.parametrize(
    ("size", "overview", "slice_size", "grid"),
    [
        ((100, 100), (448, 448), None, None),
        ((448, 300), (546, 364), None, None),
        ((448, 449), (448, 448), (630, 322), (1, 2)),
        ((1280, 720), (602, 336), (490, 406), (3, 2)),
        ((1920, 1080), (602, 336), (420, 476), (4, 2)),
        ((300, 4000), (126, 1638), (322, 616), (1, 7)),
        ((50, 2000), (70, 2828), None, None),
        # half to even, not away from zero
        ((2458, 3088), (392, 504), (392, 504), (3, 3)),
        ((582, 561), (448, 434), (322, 616), (2, 1)),
    ],
)
def test_published_sizes(size: Any, overview: Any, slice_size: Any, grid: Any) -> None:
    assert _ext.plan_slices(*size) == (overview, slice_size, grid)


def test_random_sizes_follow_the_rules() -> None:
    rng = np.random.default_rng(4501)
    for _ in range(8000):
        width, height = random_size(rng)
        limit = int(rng.integers(1, 17))
        assert _ext.plan_slices(width, height, limit) == vision_rules.plan(width, height, limit), (
            width,
            height,
            limit,
        )


@settings(max_examples=1000, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 40))
def test_any_size_follows_the_rules(width: int, height: int, limit: int) -> None:
    overview, cell, grid = _ext.plan_slices(width, height, limit)
    assert (overview, cell, grid) == vision_rules.plan(width, height, limit)
    assert overview[0] % 14 == overview[1] % 14 == 0
    if grid is not None:
        assert grid[0] * grid[1] <= limit


# ---- pixels ----


@needs_reference_pillow
def test_random_resizes_equal_pillow() -> None:
    rng = np.random.default_rng(977)
    for i in range(2000):
        width, height = random_size(rng, 300)
        # sometimes only one side changes, so that one pass is skipped
        to_width, to_height = (width if i % 7 == 0 else random_size(rng, 300)[0]), random_size(rng, 300)[1]
        if i % 11 == 0:
            to_height = height
        pixels = random_pixels(rng, width, height)
        expected = np.asarray(Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.BICUBIC))
        got = _ext.resize_bicubic(pixels, to_width, to_height)
        np.testing.assert_array_equal(got, expected, err_msg=f"{width}x{height} to {to_width}x{to_height}")


@needs_reference_pillow
def test_random_images_are_sliced_as_with_pillow() -> None:
    rng = np.random.default_rng(4545)
    sizes = [(1, 1), (1, 4000), (4000, 1), (4000, 4000), (3999, 13), (1920, 1080), (448, 448)]
    sizes += [random_size(rng) for _ in range(400)]
    for width, height in sizes:
        limit = int(rng.integers(1, 10))
        overview, cell, cells = vision_rules.plan(width, height, limit)
        pixels = random_pixels(rng, width, height)
        picture = Image.fromarray(pixels)
        expected = [picture.resize(overview, Image.Resampling.BICUBIC)]
        if cell is not None and cells is not None:
            refined = picture.resize((cell[0] * cells[0], cell[1] * cells[1]), Image.Resampling.BICUBIC)
            expected += [refined.crop(box) for box in vision_rules.boxes(cell, cells)]
        got = _ext.slice_image(pixels, limit)
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, np.asarray(other), err_msg=f"{width}x{height}, {limit}")


@pytest.mark.parametrize(
    ("source", "target", "crc_in", "crc_out"),
    [
        ((97, 61), (56, 42), 0x2CDA1B48, 0xEFA9F7A1),
        ((61, 97), (84, 126), 0xB51F443D, 0xF15E4662),
        ((640, 480), (518, 392), 0x9C5CCC16, 0xD18470D6),
        ((200, 100), (14, 448), 0xF1D6A636, 0x4EE99236),
        ((50, 300), (70, 252), 0xFB4B0E1D, 0x953949E3),
    ],
)
def test_recorded_resizes(source: Any, target: Any, crc_in: int, crc_out: int) -> None:
    """Checksums of Pillow 10.4.0's results, so that the comparison never depends on what is installed."""
    y, x, c = np.ogrid[: source[1], : source[0], :3]
    pixels = ((7 * x + 13 * y + 29 * c + (x * y % 17)) & 255).astype(np.uint8)
    assert zlib.crc32(pixels.tobytes()) == crc_in
    assert zlib.crc32(_ext.resize_bicubic(pixels, *target).tobytes()) == crc_out


def test_strided_pixels() -> None:
    rng = np.random.default_rng(3)
    whole = random_pixels(rng, 90, 70)
    for view in (whole[5:50, 7:80], whole[::2], whole[::-1], whole[:, ::-1], whole.transpose(1, 0, 2)):
        packed = np.ascontiguousarray(view)
        np.testing.assert_array_equal(_ext.resize_bicubic(view, 33, 44), _ext.resize_bicubic(packed, 33, 44))


# ---- bad input ----


@pytest.mark.parametrize(
    ("width", "height", "limit", "message"),
    [
        (0, 5, 9, "at least 1"),
        (5, -1, 9, "at least 1"),
        (65536, 5, 9, "limits are"),
        (30000, 30000, 9, "limits are"),
        (1, 4100, 9, "elongated"),
        (65535, 8, 9, "elongated"),
        (100, 100, 0, "max_slice_nums is 0"),
        (100, 100, -3, "max_slice_nums is -3"),
        (100, 100, 10**6, "max_slice_nums"),
    ],
)
def test_bad_sizes(width: int, height: int, limit: int, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _ext.plan_slices(width, height, limit)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 70000, 3), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_bad_pixels(pixels: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        _ext.slice_image(pixels)


def test_bad_targets() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for size in ((0, 4), (4, -1), (70000, 4), (60000, 60000)):
        with pytest.raises(InvalidArgumentError, match="resized image"):
            _ext.resize_bicubic(pixels, *size)
    with pytest.raises(InvalidArgumentError):
        _ext.position_buckets(0)
    with pytest.raises(InvalidArgumentError):
        _ext.position_buckets(10**9)
