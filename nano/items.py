"""What training reads: scenes and questions as the ear heard them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano.language import Pair
from nano.scenes import Heard

ROWS = 50  # features a second


@dataclass
class Item:
    """A scene without its sound: features [50 * units, 384] as float16, and what to say."""

    features: NDArray[np.float16]
    say: list[str | None]
    ends: list[bool]
    heard: list[Heard]


@dataclass
class Question:
    """A spoken question of a chat: features of a whole clip, and the pair."""

    features: NDArray[np.float16]
    pair: Pair


def load_shard(path: Path) -> list[Item] | list[Question]:
    """Only for files of `nano.features`: they are pickles."""
    with path.open("rb") as file:
        loaded: list[Item] | list[Question] = pickle.load(file)
    return loaded


def save_shard(path: Path, items: list[Item] | list[Question]) -> None:
    """Writes a shard as a whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        pickle.dump(items, file, protocol=5)
    part.rename(path)
