"""Pictures and clips that come again are not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EncodingCache"]


class EncodingCache:
    """Embeddings of what was encoded last, found by content."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def get(
        self, source: tuple[NDArray[Any], int], encode: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The embeddings of an array and a setting; `encode` makes them."""
        values, setting = source
        head = f"{values.dtype}{values.shape}{setting}".encode()
        key = hashlib.blake2b(head + np.ascontiguousarray(values).tobytes()).digest()
        if key in self._rows:
            self._rows.move_to_end(key)
            return self._rows[key]
        rows = encode()
        self._rows[key] = rows
        self._bytes += rows.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._rows.popitem(last=False)[1].nbytes
        return rows
