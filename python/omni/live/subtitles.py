"""Text written into pictures as the published helper does it: white on a black box, at the bottom."""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # RGB [height, width, 3]

# Of a picture's height.
_TEXT_HEIGHT = 0.07
_MARGIN = 30 / 288
_SIDE = 0.04  # of its width
_MAX_LINES = 3
_FIRST_WIDE = 0x2E80  # the first character of the Chinese, Japanese and Korean blocks

_FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}.get(sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts"))
# Fonts that have Chinese and Latin characters, then those without Chinese.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Medium.ttc", "msyh.ttc", "simhei.ttf",
    "DroidSansFallbackFull.ttf",
)  # fmt: skip
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Helvetica.ttc",
    "arial.ttf",
)


def draw_subtitle(picture: Picture, text: str) -> Picture:
    """The picture with a text of a few lines at its bottom; of a longer one the end is shown."""
    from PIL import Image, ImageDraw

    text = " ".join(text.split())
    if not text:
        return picture
    height, width = picture.shape[:2]
    size = max(10, round(height * _TEXT_HEIGHT))
    font = _font(size, any(ord(c) >= _FIRST_WIDE for c in text))
    lines = _wrap(text, font, width * (1 - 2 * _SIDE))[-_MAX_LINES:]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    pad = max(1, size // 6)
    step = round(size * 1.3)
    top = height - round(height * _MARGIN) - step * len(lines)
    for number, line in enumerate(lines):
        x = (width - font.getlength(line)) / 2
        y = top + number * step
        left, upper, right, lower = draw.textbbox((x, y), line, font=font)
        draw.rectangle((left - pad, upper - pad, right + pad, lower + pad), fill=(0, 0, 0))
        draw.text((x, y), line, font=font, fill=(255, 255, 255))
    return np.asarray(image)


def _wrap(text: str, font: Any, width: float) -> list[str]:
    """Lines of a text: broken between words, and anywhere in Chinese or in words that are too long."""
    lines, line, word = [], "", ""

    def put(piece: str) -> None:
        nonlocal line
        if line and font.getlength((line + piece).rstrip()) > width:
            lines.append(line.strip())
            line = ""
        for c in piece if font.getlength(piece) > width else (piece,):
            if line and font.getlength(line + c) > width:
                lines.append(line.strip())
                line = ""
            line += c

    for c in text:
        if c == " " or ord(c) >= _FIRST_WIDE:
            put(word)
            put(c)
            word = ""
        else:
            word += c
    put(word)
    return [*lines, line.strip()] if line.strip() else lines


@lru_cache(maxsize=8)
def _font(size: int, wide: bool) -> Any:
    from PIL import ImageFont

    file = _find(_WIDE_FONTS) if wide else _find(_FONTS) or _find(_WIDE_FONTS)
    if wide and file is None:
        warnings.warn(
            "the subtitles need a font with Chinese characters, and there is none: install fonts-noto-cjk",
            stacklevel=3,
        )
        file = _find(_FONTS)
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)


@lru_cache(maxsize=2)
def _find(names: tuple[str, ...]) -> Path | None:
    found: dict[str, Path] = {}
    for folder in map(Path, _FOLDERS):
        for path in folder.rglob("*"):
            if path.name in names:
                found.setdefault(path.name, path)
    return next((found[name] for name in names if name in found), None)
