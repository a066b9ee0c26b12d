"""Composes scenes and lets the engine's own ear hear them: `python -m nano.features --work DIR`.

Writes shards of features before the projector, 50 a second, so that training need not run the frozen encoder.
Training can read the shards that are there while others are made.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import omni
from nano import checkpoint, sounds, whisper
from nano.clips import clip_path, load_clips
from nano.items import Item, Question, save_shard
from nano.language import Pair, draw_pair
from nano.scenes import Scene, SceneMaker
from nano.voices import RATE, SPLITS, weight

UNITS = 40
SHARD = 20  # scenes
CHAT_SHARD = 150  # questions


def make_base(work: Path, whisper_model: Path) -> Path:
    """An untrained model around the trained ear, to hear with."""
    out = work / "base-gguf"
    if not out.exists():
        sizes = checkpoint.Sizes()
        ear = whisper.encoder_tensors(whisper_model)
        checkpoint.write_checkpoint(work / "base", checkpoint.random_tensors(sizes, ear, 0), sizes)
        checkpoint.convert_checkpoint(work / "base", out, "F16", "F16")
    return out


class Ear:
    """The engine's encoder without its projector."""

    def __init__(self, model: Path) -> None:
        self._model = omni.MiniCPMO.from_pretrained(model, n_ctx=512, n_threads=1)
        self._stream = self._model.require_audio().stream("duplex")

    def hear(self, wave: NDArray[np.float32]) -> NDArray[np.float16]:
        """Features of a session's sound, a second at a time."""
        self._stream.reset()
        out = []
        for first in range(0, len(wave) - RATE + 1, RATE):
            self._stream.push(wave[first : first + RATE])
            out.append(self._stream._stream._encoded().astype(np.float16))
        return np.concatenate(out)

    def hear_clip(self, wave: NDArray[np.float32]) -> NDArray[np.float16]:
        """Features of a whole clip, as a chat hears it: 5 for each embedding."""
        encoder = self._model.require_audio()
        rows = encoder._encoder._inspect(wave, 1.0)["encoded"]
        return rows[: 5 * encoder.embedding_count(len(wave))].astype(np.float16)


def chat_question(
    maker: SceneMaker, draws: np.random.Generator, seed: int
) -> tuple[NDArray[np.float32], Pair]:
    """A question alone, with some silence and noise around it."""
    import random

    random_ = random.Random(f"chat {seed}")
    while True:
        voice = random_.choices(maker.voices, [weight(v) for v in maker.voices])[0]
        pair = draw_pair(random_, maker.pairs)
        clip = maker.wave(voice, pair.question)
        if len(clip) > 0:
            break
    clip = sounds.vary(clip, draws)
    before, after = (int(draws.uniform(0.05, 0.8) * RATE) for _ in range(2))
    wave = np.concatenate([np.zeros(before, np.float32), clip, np.zeros(after, np.float32)])
    wave += sounds.noise(draws, len(wave) / RATE + 1)[: len(wave)] * sounds.decibels(-draws.uniform(12, 60))
    return wave * sounds.decibels(draws.uniform(-20, 4)), pair


def _item(scene: Scene, ear: Ear) -> Item:
    return Item(ear.hear(scene.wave), scene.say, scene.ends, scene.heard)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--whisper", type=Path, required=True, help="model.bin of tiny.en in CTranslate2's format"
    )
    parser.add_argument("--split", choices=("train", "dev"), default="train")
    parser.add_argument("--shards", type=int, default=50)
    options = parser.parse_args()
    ear = Ear(make_base(options.work, options.whisper))
    voices = [v for v in SPLITS[options.split] if clip_path(options.work, v).exists()]
    maker = SceneMaker({v: load_clips(options.work, v) for v in voices}, UNITS)
    folder = options.work / "features" / options.split
    folder.mkdir(parents=True, exist_ok=True)
    offset = 0 if options.split == "train" else 10_000_000
    for shard in range(options.shards):
        path = folder / f"scenes-{shard:04}.pkl"
        begin = time.process_time()
        if not path.exists():
            seeds = range(offset + shard * SHARD, offset + (shard + 1) * SHARD)
            save_shard(path, [_item(maker.make(seed), ear) for seed in seeds])
        if shard % 4 == 0:
            path = folder / f"chat-{shard:04}.pkl"
            if not path.exists():
                questions = []
                for i in range(CHAT_SHARD):
                    seed = offset + shard * CHAT_SHARD + i
                    wave, pair = chat_question(maker, np.random.default_rng([1, seed]), seed)
                    questions.append(Question(ear.hear_clip(wave), pair))
                save_shard(path, questions)
        print(f"{path.name}: {time.process_time() - begin:.1f} s of CPU", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
