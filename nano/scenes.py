"""Scenes of a duplex session on a time line: what is heard, and what each unit of one second should say."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from nano import sounds
from nano.language import (
    BELL_ANSWER,
    BELL_REQUEST,
    INTERRUPTIONS,
    Pair,
    all_pairs,
    draw_pair,
)
from nano.voices import RATE, weight

WORDS_A_UNIT = 4
SETTLE = 0.3  # seconds of a unit that must follow the end of a question for the answer to begin in it
Clips = dict[str, dict[str, NDArray[np.float32]]]  # voice: text: sound


@dataclass(frozen=True)
class Heard:
    """Something of a scene that evaluation asks about."""

    kind: str  # of a pair, or "interruption", "bell", "effect", "talk"
    voice: str
    start: float  # seconds
    end: float
    question: str = ""
    answer: str = ""
    held: bool = False
    due: int = -1  # unit in which something should be said


@dataclass
class Scene:
    """Sound, what to say in each unit (None: listen; `ends`: the turn ends with it), and the events."""

    wave: NDArray[np.float32]
    say: list[str | None]
    ends: list[bool]
    heard: list[Heard] = field(default_factory=list)


def due_unit(end: float) -> int:
    """The unit in which an answer begins to a question that ends at this second."""
    unit = int(end)
    return unit if unit + 1 - end >= SETTLE else unit + 1


def split_answer(answer: str) -> list[str]:
    """An answer in pieces for one unit each. All but the first begin with a space."""
    words = answer.split(" ")
    count = -(-len(words) // WORDS_A_UNIT)
    cuts = [round(i * len(words) / count) for i in range(count + 1)]
    return [(" " if i else "") + " ".join(words[a:b]) for i, (a, b) in enumerate(pairwise(cuts))]


class SceneMaker:
    """Draws scenes. The same seed gives the same scene."""

    def __init__(self, clips: Clips, units: int, held_too: bool = False, only_held: bool = False) -> None:
        self.clips, self.units = clips, units
        self.voices = sorted(clips)
        self.pairs = [p for p in all_pairs() if (p.held if only_held else held_too or not p.held)]
        self.talk = {
            v: [t for t in clips[v] if t.count(" ") > 5 and t not in _QUESTIONS] for v in self.voices
        }

    def make(self, seed: int, quiet: float = 0.1) -> Scene:
        """A scene. `quiet`: share of scenes in which nothing is asked."""
        return _Composer(self, seed).compose(quiet)

    def wave(self, voice: str, text: str) -> NDArray[np.float32]:
        """Sound of a text; empty if the synthesiser failed on it."""
        return self.clips[voice].get(text, np.zeros(0, np.float32))


_QUESTIONS = {pair.question for pair in all_pairs()}


class _Composer:
    """One scene while it is made."""

    def __init__(self, maker: SceneMaker, seed: int) -> None:
        self.maker = maker
        self.random = random.Random(f"scene {seed}")
        self.draws = np.random.default_rng(seed)
        n = maker.units
        self.wave = np.zeros(n * RATE, np.float32)
        self.say: list[str | None] = [None] * n
        self.ends = [False] * n
        self.heard: list[Heard] = []
        self.level = self.random.uniform(-22, 4)  # of near speech; clips peak at -6 dB
        self.voice = self._draw_voice()
        self.response = sounds.room(self.draws) if self.random.random() < 0.5 else None

    def _draw_voice(self) -> str:
        voices = self.maker.voices
        return self.random.choices(voices, [weight(v) for v in voices])[0]

    def compose(self, quiet: float) -> Scene:
        self._background()
        if self.random.random() < quiet:
            self._quiet_scene()
        else:
            self._dialogue()
        peak = float(np.abs(self.wave).max(initial=0.0))
        wave = self.wave / peak * np.float32(0.98) if peak > 0.98 else self.wave
        return Scene(wave, self.say, self.ends, self.heard)

    def _background(self) -> None:
        """Noise, music or babble under everything, weaker than speech by 5 to 45 dB, or nothing."""
        seconds, kind = self.maker.units, self.random.random()
        if kind < 0.2:
            return
        weaker = self.random.uniform(12, 45)
        if kind < 0.75:
            sound = sounds.noise(self.draws, seconds)
        elif kind < 0.87:
            sound = sounds.music(self.draws, seconds)
        else:
            sound, weaker = self._babble(seconds), self.random.uniform(15, 35)
        if self.random.random() < 0.3:  # only for a part
            a, b = sorted(self.random.sample(range(seconds + 1), 2))
            sound[: a * RATE] = 0
            sound[b * RATE :] = 0
        self.wave += sound[: len(self.wave)] * sounds.decibels(self.level - weaker)

    def _babble(self, seconds: int) -> NDArray[np.float32]:
        out = np.zeros(seconds * RATE, np.float32)
        for _ in range(self.random.randint(3, 6)):
            voice, at = self._draw_voice(), 0
            while at < len(out):
                clip = self.maker.wave(voice, self.random.choice(self.maker.talk[voice]))
                room = min(len(clip), len(out) - at)
                out[at : at + room] += clip[:room]
                at += room + int(self.random.uniform(0.1, 0.8) * RATE)
        return out / (np.abs(out).max() + 1e-9) * np.float32(0.5)

    def _put(self, sound: NDArray[np.float32], start: float, gain: float) -> float:
        """Mixes a sound in; returns when it ends."""
        if self.response is not None:
            sound = scipy.signal.fftconvolve(sound, self.response)[: len(sound) + RATE // 5]
        first = int(start * RATE)
        piece = sound[: max(0, len(self.wave) - first)]
        self.wave[first : first + len(piece)] += piece * sounds.decibels(gain)
        return start + len(sound) / RATE

    def _speech(self, text: str, start: float) -> tuple[float, float]:
        """Puts near speech; returns the end of the words and of the sound."""
        clip = sounds.vary(self.maker.wave(self.voice, text), self.draws)
        end = self._put(clip, start, self.level + self.random.uniform(-3, 3))
        return start + len(clip) / RATE, end

    def _fits(self, text: str, start: float) -> bool:
        clip = self.maker.wave(self.voice, text)
        return len(clip) > 0 and start + len(clip) / RATE * 1.2 + 2 < self.maker.units

    def _answer(self, answer: str, unit: int, most: int | None = None) -> int:
        """Writes an answer from this unit on, at most so many units of it; returns the unit behind it."""
        pieces = split_answer(answer)
        for i, piece in enumerate(pieces if most is None else pieces[:most]):
            if unit + i >= self.maker.units:
                return self.maker.units
            self.say[unit + i] = piece
            self.ends[unit + i] = i == len(pieces) - 1
        return unit + (len(pieces) if most is None else min(most, len(pieces)))

    def _dialogue(self) -> None:
        at = self.random.uniform(0.0, 3.0)
        change_voice = self.random.random() < 0.3
        while at < self.maker.units - 3:
            if change_voice:
                self.voice = self._draw_voice()
            kind = self.random.random()
            if kind < 0.86:
                at = self._ask(draw_pair(self.random, self.maker.pairs), at)
            elif kind < 0.91:
                at = self._talk(at)
            elif kind < 0.97:
                at = self._effect(at)
            else:
                at += self.random.uniform(2, 7)
            at += self.random.uniform(0.1, 1.6) if self.random.random() < 0.75 else self.random.uniform(1, 5)

    def _quiet_scene(self) -> None:
        at = self.random.uniform(0, 4)
        while at < self.maker.units - 3:
            kind = self.random.random()
            if kind < 0.45:
                at = self._talk(at)
            elif kind < 0.7:
                at = self._effect(at)
            at += self.random.uniform(0.3, 4)

    def _talk(self, at: float) -> float:
        """Somebody talks to somebody else: statements, at any level."""
        voice = self._draw_voice()
        gain = self.level - self.random.uniform(0, 20)
        for _ in range(self.random.randint(1, 3)):
            # Telling it to stop when it says nothing asks for nothing either.
            idle = self.random.random() < 0.2
            text = self.random.choice(INTERRUPTIONS if idle else self.maker.talk[voice])
            clip = sounds.vary(self.maker.wave(voice, text), self.draws)
            if at + len(clip) / RATE > self.maker.units - 1:
                break
            end = self._put(clip, at, gain)
            self.heard.append(Heard("talk", voice, at, end, text))
            at = end + self.random.uniform(0.1, 0.7)
        return at

    def _effect(self, at: float, name: str | None = None) -> float:
        name = name or self.random.choice([*sounds.EFFECTS, "bell", "bell"])
        sound = sounds.bell(self.draws) if name == "bell" else sounds.EFFECTS[name](self.draws)
        end = self._put(sound, at, self.level - self.random.uniform(0, 15))
        self.heard.append(Heard("effect", name, at, end))
        return end

    def _ask(self, pair: Pair, at: float) -> float:
        if not self._fits(pair.question, at):
            return at + 1
        words_end, end = self._speech(pair.question, at)
        due = due_unit(words_end)
        self.heard.append(
            Heard(pair.kind, self.voice, at, words_end, pair.question, pair.answer, pair.held, due)
        )
        if pair.kind == "bell":
            after = self._answer(pair.answer, due)
            return self._bell(float(after))
        length = len(split_answer(pair.answer))
        if length >= 3 and self.random.random() < 0.75:
            return self._interrupted(pair, due, length)
        return max(end, float(self._answer(pair.answer, due)))

    def _interrupted(self, pair: Pair, due: int, length: int) -> float:
        """An answer during which the user speaks again: it ends in the unit after that in which he began."""
        after = self.random.randint(1, length - 1)
        start = due + after + self.random.uniform(-0.9, 0.6)
        question = draw_pair(self.random, self.maker.pairs) if self.random.random() < 0.3 else None
        if question is not None and question.kind in ("bell", "long"):
            question = None
        text = question.question if question is not None else self.random.choice(INTERRUPTIONS)
        # Speech that begins late in a unit is not recognised in it.
        stop = int(start + 0.5) + 1
        if not self._fits(text, start) or stop + 2 >= self.maker.units:
            return float(self._answer(pair.answer, due))
        self._answer(pair.answer, due, max(1, stop - due))
        words_end, end = self._speech(text, start)
        if stop - due >= length:  # it was over anyway
            behind = float(due + length)
        else:
            self.say[stop], self.ends[stop] = "", True
            behind = float(stop + 1)
            self.heard.append(Heard("interruption", self.voice, start, words_end, text, "", False, stop))
        if question is not None:
            unit = max(due_unit(words_end), int(behind))
            self.heard.append(
                Heard(
                    question.kind, self.voice, start, words_end, question.question, question.answer,
                    question.held, unit,
                )
            )  # fmt: skip
            behind = float(self._answer(question.answer, unit))
        return max(end, behind)

    def _bell(self, at: float) -> float:
        """After the request: other sounds and talk, then the bell, or not."""
        self.heard.append(Heard("armed", self.voice, at, at, BELL_REQUEST))
        until = at + (
            self.random.uniform(0.3, 5) if self.random.random() < 0.5 else self.random.uniform(3, 22)
        )
        while at < until:
            step = self.random.random()
            if step < 0.25:
                at = self._effect(at, self.random.choice([*sounds.EFFECTS]))
            elif step < 0.4:
                at = self._talk(at)
            at += self.random.uniform(0.5, 3)
        if at > self.maker.units - 3.5:
            return float(self.maker.units)
        sound = sounds.bell(self.draws)
        end = self._put(sound, at, self.level - self.random.uniform(0, 10))
        due = due_unit(at + 0.3)
        self.heard.append(Heard("bell", "", at, end, "", BELL_ANSWER, False, due))
        return max(end, float(self._answer(BELL_ANSWER, due)))
