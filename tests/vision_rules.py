"""The slicing rules of the model, stated once more in plain Python: what the C++ code is checked against."""

from __future__ import annotations

import math
from itertools import product

AREA_SIDE = 448
PATCH = 14

Size = tuple[int, int]


def snap(length: float, step: int) -> int:
    """Nearest multiple, ties to even, at least one step."""
    return max(round(length / step) * step, step)


def fitted(width: float, height: float, *, always: bool) -> Size:
    if always or width * height > AREA_SIDE**2:
        ratio = width / height
        height = int(AREA_SIDE / math.sqrt(ratio))
        width = int(height * ratio)
    return snap(width, PATCH), snap(height, PATCH)


def grid(width: int, height: int, limit: int) -> Size | None:
    share = min(math.ceil(width * height / AREA_SIDE**2), limit)
    if share <= 1:
        return None
    counts = [n for n in (share - 1, share, share + 1) if 1 < n <= limit]
    choices = [(m, n // m) for n in counts for m in range(1, n + 1) if n % m == 0]
    wanted = math.log(width / height)
    # min() keeps the first of equals
    return min(choices, key=lambda g: abs(wanted - math.log(g[0] / g[1])), default=(1, 1))


def plan(width: int, height: int, limit: int) -> tuple[Size, Size | None, Size | None]:
    """Overview size, slice size and grid (columns, rows); the last two None if there are no slices."""
    cells = grid(width, height, limit)
    if cells is None:
        return fitted(width, height, always=True), None, None
    columns, rows = cells
    cell = fitted(snap(width, columns) / columns, snap(height, rows) / rows, always=True)
    return fitted(width, height, always=False), cell, cells


def boxes(slice_size: Size, cells: Size) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of each slice in the refined image, row by row."""
    width, height = slice_size
    return [
        (c * width, r * height, (c + 1) * width, (r + 1) * height)
        for r, c in product(range(cells[1]), range(cells[0]))
    ]
