"""Weight normalisation undone: a source that shows merged weights in place of directions and magnitudes."""

from __future__ import annotations

import numpy as np

from omni.convert.checkpoint import Floats, Shape, TensorSource
from omni.errors import FormatError

# Magnitude and direction, in the two spellings that PyTorch has had.
_SPELLINGS = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
# The official converter divides by no smaller norm.
_SMALLEST_NORM = 1e-8


class MergedWeights:
    """Wraps a source; `x.weight` stands for its magnitude and direction tensors.

    `prefix` is removed from names that start with it.
    """

    def __init__(self, source: TensorSource, prefix: str = "") -> None:
        self._source = source
        self._pairs: dict[str, tuple[str, str]] = {}
        self._plain: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}
        shapes = source.shapes()
        for name, shape in shapes.items():
            self._add(name, name.removeprefix(prefix), shape, shapes)

    def shapes(self) -> dict[str, Shape]:
        """Shape of every merged or plain tensor."""
        return dict(self._shapes)

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows of a tensor; merged weights are computed in float64 and rounded once."""
        if name in self._plain:
            return self._source.read(self._plain[name], first, last)
        magnitude, direction = (self._source.read(part, first, last) for part in self._pairs[name])
        rows = direction.reshape(len(direction), -1).astype(np.float64)
        norms = np.maximum(np.linalg.norm(rows, axis=1), _SMALLEST_NORM)
        scale = magnitude.reshape(-1).astype(np.float64) / norms
        merged: Floats = (rows * scale[:, None]).astype(np.float32)
        return merged.reshape(direction.shape)

    def _add(self, stored: str, shown: str, shape: Shape, shapes: dict[str, Shape]) -> None:
        for magnitude, direction in _SPELLINGS:
            if stored.endswith(direction) and stored.removesuffix(direction) + magnitude in shapes:
                pair = (stored.removesuffix(direction) + magnitude, stored)
                if not shape or shapes[pair[0]] != (shape[0], *(1 for _ in shape[1:])):
                    raise FormatError(f"tensors '{pair[0]}' and '{stored}' don't fit each other")
                self._show(shown.removesuffix(direction) + ".weight", shape)
                self._pairs[shown.removesuffix(direction) + ".weight"] = pair
                return
            if stored.endswith(magnitude) and stored.removesuffix(magnitude) + direction in shapes:
                return  # shown with its direction
        self._show(shown, shape)
        self._plain[shown] = stored

    def _show(self, name: str, shape: Shape) -> None:
        if name in self._shapes:
            raise FormatError(f"tensor '{name}' is there twice")
        self._shapes[name] = shape
