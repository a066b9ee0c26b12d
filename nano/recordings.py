"""Words spoken by people, from packages that a machine may have. Only evaluation listens to them.

Debian: asterisk-core-sounds-en-g722 (CC-BY-SA), tuxpaint-stamps-default (GPL).
"""

from __future__ import annotations

import random
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from nano.language import ANIMALS, DAYS, MONTHS, ONES, TENS
from nano.voices import RATE, trim

_PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
_STAMPS = Path("/usr/share/tuxpaint/stamps")
Wave = NDArray[np.float32]


def _load(path: Path) -> Wave:
    options = {"format": "g722"} if path.suffix == ".g722" else {}
    with av.open(str(path), **options) as file:
        stream = file.streams.audio[0]
        frames = list(file.decode(stream))
        rate = frames[0].sample_rate
        parts = [frame.to_ndarray() for frame in frames]
    scale = 1.0 if parts[0].dtype.kind == "f" else float(np.iinfo(parts[0].dtype).max)
    channels = len(frames[0].layout.channels)
    joined = np.concatenate(parts, axis=-1).astype(np.float32) / scale
    mono = joined.reshape(-1, channels).mean(axis=1) if len(joined) == 1 else joined.mean(axis=0)
    return trim(np.asarray(soxr.resample(mono, rate, RATE), np.float32), floor=0.04)


def _prompt_files() -> dict[str, Path]:
    """Words of one woman's prompts."""
    digits = _PROMPTS / "digits"
    files = {word: digits / f"{n}.g722" for n, word in enumerate(ONES)}
    files |= {word: digits / f"{10 * n}.g722" for n, word in enumerate(TENS, start=3)}
    files |= {word: digits / f"day-{n}.g722" for n, word in enumerate([DAYS[-1], *DAYS[:-1]])}
    files |= {word: digits / f"mon-{n}.g722" for n, word in enumerate(MONTHS)}
    files["star"] = digits / "star.g722"
    return {word: path for word, path in files.items() if path.exists()}


def word_recordings() -> list[tuple[str, str, Wave]]:
    """Source, word and sound (16 kHz) of all single words that are installed."""
    found = [("prompts", word, _load(path)) for word, path in _prompt_files().items()]
    for animal in ANIMALS:
        found += [("stamps", animal, _load(path)) for path in sorted(_STAMPS.rglob(f"{animal}_desc.ogg"))]
    return found


def sum_recordings(count: int) -> list[tuple[str, str, Wave]]:
    """Sums spliced of one speaker's words: source, question and sound."""
    files = _prompt_files()
    signs = {"plus": _PROMPTS / "letters" / "plus.g722", "minus": _PROMPTS / "digits" / "minus.g722"}
    if not all(path.exists() for path in (*signs.values(), *(files.get(w, Path("-")) for w in ONES[:11]))):
        return []
    draws = random.Random("sums of people")
    gap = np.zeros(RATE // 20, np.float32)
    found = []
    for _ in range(count):
        sign = draws.choice(list(signs))
        a, b = draws.randint(0, 10), draws.randint(0, 10)
        if sign == "minus" and b > a:
            a, b = b, a
        wave = np.concatenate([_load(files[ONES[a]]), gap, _load(signs[sign]), gap, _load(files[ONES[b]])])
        found.append((f"spliced {sign}", f"{ONES[a]} {sign} {ONES[b]}", wave))
    return found
