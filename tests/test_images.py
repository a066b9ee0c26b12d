"""load_image: every kind of picture becomes RGB pixels or a clear error."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni import FormatError, InvalidArgumentError, ModelFileError
from omni.images import load_image

PHOTO = Path(__file__).parent / "golden" / "inputs" / "photo.png"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTO).convert("RGB").resize((61, 47))


def test_path_bytes_image_and_array_agree(photo: Image.Image, tmp_path: Path) -> None:
    data = encoded(photo, "PNG")
    path = tmp_path / "Füße 日本語.png"
    path.write_bytes(data)
    expected = np.asarray(photo)
    for source in (path, str(path), data, bytearray(data), memoryview(data), photo, expected):
        pixels = load_image(source)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_are_converted_as_pillow_does(photo: Image.Image, mode: str) -> None:
    image = photo.convert("L").convert(mode) if mode == "LA" else photo.convert(mode)
    np.testing.assert_array_equal(load_image(image), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_composited() -> None:
    pixels = np.array([[[10, 20, 30, 0], [40, 50, 60, 128]]], np.uint8)
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(pixels), "PNG")), pixels[:, :, :3])
    np.testing.assert_array_equal(load_image(pixels), pixels[:, :, :3])


def test_palette_with_transparency_is_quiet(photo: Image.Image) -> None:
    palette = photo.quantize(16)
    for transparency in (3, bytes(range(0, 160, 10))):
        data = encoded(palette, "PNG", transparency=transparency)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(load_image(data), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg(photo: Image.Image) -> None:
    data = encoded(photo.convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(load_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_deep_grey_keeps_its_upper_bits() -> None:
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 77
    expected = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    image = Image.fromarray(values)
    for source in (
        image,
        encoded(image, "PNG"),
        encoded(image, "TIFF"),
        Image.fromarray(values.astype(np.int32)),
    ):
        np.testing.assert_array_equal(load_image(source), expected)
    with pytest.raises(InvalidArgumentError, match="16 bits"):
        load_image(Image.fromarray(np.array([[70000, 1]], np.int32)))


def test_orientation_is_not_applied(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encoded(photo, "PNG", exif=exif)
    assert load_image(data).shape == (47, 61, 3)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert (load_image(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files(photo: Image.Image, kind: str) -> None:
    data = encoded(photo, kind)
    for length in (1, 5, 20, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(FormatError, match="bytes given"):
            load_image(data[:length])


def test_damaged_files_never_crash(photo: Image.Image) -> None:
    rng = np.random.default_rng(5)
    for kind in ("PNG", "JPEG", "GIF", "TIFF"):
        good = np.frombuffer(encoded(photo, kind), np.uint8)
        for _ in range(60):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 8)] = rng.integers(0, 256, 8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(FormatError, InvalidArgumentError):
                    assert load_image(bad.tobytes()).ndim == 3


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(100_000, 5), (60_000, 60_000), (14_000, 13_000)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidArgumentError, match="pixels"):
            load_image(png_header(*size))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ModelFileError):
        load_image(tmp_path)
    with pytest.raises(ModelFileError):
        load_image("bad\0name.png")
    for content in (b"", b"not a picture at all"):
        path = tmp_path / "odd.png"
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"odd\.png"):
            load_image(path)
    if os.name == "posix":
        path = tmp_path / "link.png"
        path.symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(ModelFileError):
            load_image(path)


def test_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for source in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(load_image(source), np.repeat(grey[:, :, None], 3, axis=2))
    # floats are scaled and truncated
    np.testing.assert_array_equal(load_image(np.full((1, 1, 3), 0.999, np.float32)), [[[254, 254, 254]]])
    # three rows don't make it channels first
    assert load_image(np.zeros((3, 5, 3), np.uint8)).shape == (3, 5, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels come last"),
        (np.zeros(8, np.uint8), "channels come last"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.zeros((1, 70_000), np.uint8), "limits"),
        (np.zeros((2, 2, 3), np.int64), "uint8 or float"),
        (np.full((2, 2, 3), np.nan), "finite"),
        (np.full((2, 2, 3), 200.0), "from 0 to 1"),
    ],
)
def test_bad_arrays(array: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load_image(array)


def test_other_types() -> None:
    for source in (None, 5, [[1, 2], [3, 4]]):
        with pytest.raises(InvalidArgumentError, match="must be a path"):
            load_image(source)  # type: ignore[arg-type]
