"""Work for the vision encoder: a picture that is one slice, and one that is cut into slices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni import _ext
from omni.bench import Peaks, Work, arithmetic_peak
from omni.vision_encoder import VisionEncoder

LAYERS = 27  # of the published encoder; --layers counts the language model's and may ask for more
# Width and height of the pictures; the second becomes an overview and six slices.
PICTURES = ((448, 448), (1344, 896))


def operations(info: _ext.VisionEncoderInfo, patches: int) -> float:
    """Operations for one slice; a multiply-add counts as two."""
    n, width, out = patches, info.width, info.embed_width
    embed = 2 * n * 3 * info.patch_size**2 * width
    layer = 8 * n * width**2 + 4 * n**2 * width + 4 * n * width * info.ffn_width
    keys = 2 * n * width * out + 4 * n * out**2
    # The queries are projected once, when the file is opened.
    queries = 4 * info.n_queries * out**2 + 4 * info.n_queries * n * out
    return float(embed + info.n_layers * layer + keys + queries)


def works(encoder: VisionEncoder, peaks: Peaks) -> Iterator[Work]:
    """Slicing and encoding of whole pictures."""
    info = encoder.info
    random = np.random.default_rng(0)
    for width, height in PICTURES:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        slices, _ = encoder.slices(pixels)

        def run(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = pixels) -> object:
            return encoder.encode(pixels)

        yield Work(
            stage="vision",
            what=f"{width}x{height} ({len(slices)})",
            run=run,
            items=1,
            operations=sum(operations(info, rows * columns) for _, (rows, columns) in slices),
            bytes=len(slices) * info.matrix_bytes,
            peak=arithmetic_peak(peaks, info.matrix_type),
        )
