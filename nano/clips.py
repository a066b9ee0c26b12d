"""Speaks everything that is ever said with every voice of a split: `python -m nano.clips --work DIR`."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano.language import INTERRUPTIONS, all_pairs, background_sentence
from nano.voices import SPLITS, speak

_BATCH = 40


def texts_of(voice: str, split: str) -> list[str]:
    """What this voice says: all questions, interruptions, and some statements of its own."""
    held_too = split == "test"
    questions = [pair.question for pair in all_pairs() if held_too or not pair.held]
    draws = random.Random(f"background {voice}")
    talk = [background_sentence(draws) for _ in range(40)]
    return list(dict.fromkeys([*questions, *INTERRUPTIONS, *talk]))


def clip_path(work: Path, voice: str) -> Path:
    """Where the clips of a voice are."""
    return work / "clips" / (voice.replace("/", "-") + ".npz")


def load_clips(work: Path, voice: str) -> dict[str, NDArray[np.float32]]:
    """Sound (16 kHz) of each text that the voice says."""
    with np.load(clip_path(work, voice)) as data:
        texts, ends, wave = data["texts"], data["ends"], data["wave"].astype(np.float32) / 32767
    pieces = np.split(wave, ends[:-1])
    return {str(text): piece for text, piece in zip(texts, pieces, strict=True) if len(piece) > 0}


def make_clips(work: Path, voice: str, split: str, piper_model: Path | None) -> None:
    """Writes the file of one voice, unless it is there."""
    path = clip_path(work, voice)
    if path.exists():
        return
    texts = texts_of(voice, split)
    waves: list[NDArray[np.float32]] = []
    for first in range(0, len(texts), _BATCH):
        waves += speak(voice, texts[first : first + _BATCH], piper_model)
    joined = np.concatenate(waves)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        texts=np.array(texts),
        ends=np.cumsum([len(wave) for wave in waves]),
        wave=np.round(np.clip(joined, -1, 1) * 32767).astype(np.int16),
    )
    part.rename(path)
    print(f"{voice}: {len(texts)} clips, {len(joined) / 16000:.0f} s", file=sys.stderr)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--split", choices=[*SPLITS], action="append")
    parser.add_argument("--piper-model", type=Path, help="the .onnx file of a piper voice, for tests only")
    options = parser.parse_args()
    for split in options.split or SPLITS:
        for voice in SPLITS[split]:
            if voice.startswith("piper/") and options.piper_model is None:
                print(f"{voice}: left out, --piper-model is not given", file=sys.stderr)
                continue
            make_clips(options.work, voice, split, options.piper_model)


if __name__ == "__main__":
    main()
