"""Pictures from files, bytes, Pillow images and arrays, as 8-bit RGB pixels."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.errors import FormatError, InvalidArgumentError, ModelFileError, OmniError, UnsupportedError

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image | NDArray[Any]

__all__ = ["load_image"]


def load_image(source: ImageSource) -> NDArray[np.uint8]:
    """Pixels of a picture, uint8 RGB [height, width, 3].

    The conversion is Pillow's ``convert("RGB")``, as in the reference: alpha is dropped (not composited),
    grey is replicated, palettes are looked up, EXIF orientation is not applied; of several frames the first
    is taken. One exception: 16-bit grey keeps its upper 8 bits, where Pillow would clip it to white.

    Args:
        source: path of a file, its bytes, a Pillow image, or an array: uint8 [h, w], [h, w, 1], [h, w, 3] or
            [h, w, 4], or float with values 0 to 1 (times 255, truncated). Channels come last, in the order
            R, G, B, A.

    Raises:
        ModelFileError: the file is missing or unreadable.
        FormatError: not a picture, or a damaged or truncated one.
        InvalidArgumentError: an unusable array, or more than 65,535 pixels a side or 178,956,970 in all.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError(
            "reading pictures needs Pillow: pip install 'omni[media]' (arrays work without)"
        ) from error

    if isinstance(source, Image.Image):
        with _decoding("the image"):
            return _from_pillow(source, "the image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), f"the {len(source)} bytes given")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelFileError(f"image {path} can't be read: {reason}") from error
        return _decode(data, f"image {path}")
    raise InvalidArgumentError(
        f"an image must be a path, bytes, a Pillow image or a NumPy array, not {type(source).__name__}"
    )


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise InvalidArgumentError(f"{name} is {width}x{height} pixels: it is empty")
    if max(width, height) > _ext.MAX_IMAGE_SIDE or width * height > _ext.MAX_IMAGE_PIXELS:
        raise InvalidArgumentError(
            f"{name} is {width}x{height} pixels; the limits are {_ext.MAX_IMAGE_SIDE} for a side and "
            f"{_ext.MAX_IMAGE_PIXELS} pixels in all: scale it down first"
        )


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises into errors with the picture's name."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (OmniError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidArgumentError(f"{name}: too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise FormatError(f"{name}: not a picture of a known format") from error
    except Exception as error:  # OSError mostly; damaged files also break the decoders' parsers in other ways
        raise FormatError(f"{name}: damaged, truncated or unsupported picture: {error}") from error


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    from PIL import Image

    if not data:
        raise FormatError(f"{name}: empty, not a picture")
    with _decoding(name), Image.open(io.BytesIO(data)) as image:
        return _from_pillow(image, name)


def _from_pillow(image: Image, name: str) -> NDArray[np.uint8]:
    # The header says the size; pixels are decoded only after it was checked.
    _check_size(image.width, image.height, name)
    if image.mode.startswith("I"):
        return _from_deep_grey(np.asarray(image), name)
    if "transparency" in image.info:  # dropped on purpose; Pillow would warn about it
        image = image.copy()
        del image.info["transparency"]
    return np.array(image.convert("RGB"))


def _from_deep_grey(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise InvalidArgumentError(f"{name}: grey values beyond 16 bits; convert the picture to 8 bits first")
    grey = (values >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InvalidArgumentError(
            f"an image array must be [height, width], or [height, width, channels] with 1, 3 or 4 channels; "
            f"this one is {list(pixels.shape)} (channels come last)"
        )
    _check_size(pixels.shape[1], pixels.shape[0], "the array")
    pixels = pixels[:, :, :3]
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise InvalidArgumentError("a float image must hold finite values from 0 to 1")
        pixels = (pixels * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise InvalidArgumentError(f"an image array must be uint8 or float, not {pixels.dtype}")
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)
